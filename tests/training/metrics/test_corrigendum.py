"""Wideband PESQ with Corrigendum 2, against values of the package `pesqc2` 0.0.4."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ablate.models.errors import InputError
from ablate.training.metrics import corrigendum, score_with_errors
from ablate.training.metrics.registry import check_available

RATE = 16_000
NAMES = ("pesq_wb", "pesq_wb_c2", "pesq_nb")
CORRECTED = """
1.0554 1.0416 1.0394 1.0349 1.0834 1.0831 1.0725 1.1039 1.0960 1.1556
1.1804 1.1151 1.1393 1.2642 1.3029 1.3438 1.3384 1.4402 1.3953 1.5029
1.5079 1.6868 1.6419 1.7590 1.7306 1.8168 1.9376 2.0856 2.1746 1.9974
2.1043 2.3155 2.2329 2.3765 2.3373 2.4646 2.4579 2.6738 2.6940 2.7517
2.9718 3.1625 3.1786 3.2180 3.0423 3.3480 3.6565 3.7255 3.7126 3.8531
"""
"""`pesqc2.pesq(16000, *pair(number), "wb")` for the numbers 0 to 49."""


def pair(number: int) -> tuple[np.ndarray, np.ndarray]:
    """A signal like voiced speech `(sample,)`, and the same with noise that shrinks from number 0 to 49."""
    rng = np.random.default_rng(number)
    time = np.arange(2 * RATE) / RATE
    pitch = (100 + 40 * rng.random()) * (1 + 0.1 * np.sin(2 * np.pi * 2 * time))
    phase = np.cumsum(pitch) / RATE
    clean = sum(np.cos(2 * np.pi * k * phase + k * k) / k for k in range(1, 30))
    clean = clean * (np.sin(2 * np.pi * 1.5 * time + number) > -0.2) * np.sin(2 * np.pi * 4 * time) ** 2
    clean = 0.5 * clean / np.abs(clean).max()
    return clean, clean + 0.1 * 10 ** (-number / 20) * rng.standard_normal(len(time))


def values(number: int, names: tuple[str, ...] = NAMES) -> dict[str, float]:
    return score_with_errors(*pair(number), RATE, names).values


@pytest.mark.slow
def test_it_is_what_pesqc2_gives():
    wanted = [float(value) for value in CORRECTED.split()]
    found = [values(number, ("pesq_wb_c2",))["pesq_wb_c2"] for number in range(50)]
    assert found == pytest.approx(wanted, abs=2e-3)


def test_the_package_measures_as_before():
    before = values(30, ("pesq_wb", "pesq_nb"))
    both = values(30)
    assert both["pesq_wb_c2"] > both["pesq_wb"] + 0.2
    assert values(30, ("pesq_nb", "pesq_wb")) == before == {name: both[name] for name in before}


def test_an_error_in_between_leaves_the_package_as_it_was():
    before = values(30, ("pesq_wb",))
    with pytest.raises(KeyError), corrigendum.input_filter(True):
        raise KeyError
    assert values(30, ("pesq_wb",)) == before


def test_threads_do_not_disturb_each_other():
    names = [("pesq_wb",), ("pesq_wb_c2",)] * 6
    wanted = [values(20, one) for one in names[:2]] * 6
    with ThreadPoolExecutor(4) as threads:
        assert [*threads.map(lambda one: values(20, one), names)] == wanted


def test_another_build_of_the_package_makes_the_metric_unavailable(monkeypatch):
    monkeypatch.setattr(corrigendum, "VALUES", (1.0, 2.0, 1.0, 0.0, 0.0))
    corrigendum._found.cache_clear()
    try:
        with pytest.raises(
            InputError, match=r"pesq_wb_c2.*wideband filter of this build.*not the expected one"
        ):
            check_available(["pesq_wb_c2"])
        scored = score_with_errors(*pair(30), RATE, NAMES)
        assert np.isnan(scored.values["pesq_wb_c2"])
        assert scored.values["pesq_wb"] > 1
    finally:
        monkeypatch.undo()
        corrigendum._found.cache_clear()


def test_a_library_without_the_symbol_makes_the_metric_unavailable(monkeypatch):
    monkeypatch.setattr(corrigendum, "FILTER", "no_such_filter")
    corrigendum._found.cache_clear()
    try:
        with pytest.raises(
            InputError, match="wideband filter of this build of the package pesq cannot be read"
        ):
            check_available(["pesq_wb_c2"])
    finally:
        monkeypatch.undo()
        corrigendum._found.cache_clear()
