from __future__ import annotations

import pytest

from ablate.models.errors import InputError
from ablate.reports.sources.patterns import places


@pytest.fixture
def exp(tmp_path, monkeypatch):
    for name in ("lstm-uni/seed1", "lstm-bi/seed1", "mamba-uni/seed2", "mamba-bi/seed10"):
        (tmp_path / "exp" / name / "enhanced").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "exp"


@pytest.mark.parametrize("start", ["exp", "./exp", "{tmp}/exp"])
def test_fields_are_factors_and_seed(exp, start):
    found = places(start.format(tmp=exp.parent) + "/{core}-{direction}/seed{seed}/enhanced")
    assert [place.fields for place in found] == [
        {"core": "lstm", "direction": "bi", "seed": "1"},
        {"core": "lstm", "direction": "uni", "seed": "1"},
        {"core": "mamba", "direction": "bi", "seed": "10"},
        {"core": "mamba", "direction": "uni", "seed": "2"},
    ]
    assert all(place.path.is_dir() for place in found)


def test_a_star_is_not_kept(exp):
    assert [p.fields for p in places("exp/{core}-bi/*/enhanced")] == [{"core": "lstm"}, {"core": "mamba"}]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("exp/{core}-{direction}/seed{seed}/enhancd", "matches nothing; .*seed1 has enhanced"),
        ("nowhere/{core}", "matches nothing; . has exp"),
        ("exp/enhanced", "has no field"),
        ("exp/{a}/{a}", "has a field twice"),
        ("exp/*/{x}1/enhanced", r"are the same run \(x=seed\)"),
    ],
)
def test_a_pattern_that_does_not_do(exp, pattern, message):
    with pytest.raises(InputError, match=message):
        places(pattern)
