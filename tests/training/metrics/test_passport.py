from __future__ import annotations

from importlib.metadata import version

import pandas as pd
import pytest

from ablate.models.errors import InputError
from ablate.training.metrics.passport import KEY, OF_RUNS, passport_of, passports


def test_a_passport_names_standard_and_packages():
    found = passports(["pesq_wb", "stoi", "a column of one's own"], [16_000, 48_000])
    assert found["pesq_wb"]["standard"] == "P.862.2 without Corrigendum 2"
    assert found["pesq_wb"]["packages"] == f"pesq {version('pesq')}"
    assert found["stoi"]["packages"] == f"pystoi {version('pystoi')}"
    assert found["stoi"]["resampled"] == f"from 48000 Hz by soxr {version('soxr')} (HQ)"
    assert set(found) == {"pesq_wb", "stoi"}
    assert passports(["stoi"], [16_000])["stoi"]["resampled"] == "no"


def test_a_file_of_scores_keeps_it(tmp_path):
    frame = pd.DataFrame({"pesq_wb": [2.0]})
    frame.attrs[KEY] = passports(["pesq_wb"])
    frame.to_parquet(tmp_path / "scores.parquet")
    assert pd.read_parquet(tmp_path / "scores.parquet").attrs[KEY] == passports(["pesq_wb"])


def attrs(*packages: str | None) -> dict:
    return {
        OF_RUNS: [
            {
                "passports": {"pesq_wb": {"packages": name, "resampled": "no"}} if name else {},
                "runs": [f"c seed {i}"],
            }
            for i, name in enumerate(packages)
        ]
    }


def test_runs_measured_in_different_ways_are_refused():
    with pytest.raises(InputError, match=r"pesq 0.0.4 \(c seed 0.*pesq 0.0.5 \(c seed 1"):
        passport_of(attrs("pesq 0.0.4", "pesq 0.0.5"), "pesq_wb")


def test_what_is_not_known_differs_from_nothing():
    assert passport_of(attrs("pesq 0.0.4", None), "pesq_wb")["packages"] == "pesq 0.0.4"
    assert passport_of(attrs(None), "pesq_wb") == {} == passport_of({}, "pesq_wb")
