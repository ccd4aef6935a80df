import json

import pytest
from typer.testing import CliRunner

from ablate.reports.cli import app
from ablate.reports.comparison import parse_spread, published_spread, spread_of, study_spread


def said(*arguments):
    found = CliRunner().invoke(app, ["compare", *map(str, arguments)])
    assert found.exit_code == 0, found.output
    return found.output


def test_one_number_against_a_published_one_cannot_be_told():
    told = said(3.07, "--with", 3.10)
    assert told.startswith("-0.030 (1 run against 1 run): cannot be decided.")
    assert "SD between runs: 0.005 to 0.020 (published SDs over seeds, in-domain (xLSTM-SENet" in told
    assert "At SD 0.005: differs, because differences up to 0.014 are within chance." in told
    assert "because differences up to 0.055 are within chance; if the difference stays, 4 of each" in told


def test_several_on_either_side_bring_their_own_spread():
    assert "larger than between runs" in said(
        3.07, 3.06, 3.08, "--with", 3.10, "--with", 3.11, "--with", 3.10
    )
    assert "within chance: runs" in said(3.07, 3.06, 3.12, "--with", 3.10, "--with", 3.05, "--with", 3.10)


def test_the_best_of_several_lies_above_their_mean():
    assert "If theirs is the best of 5 runs, it is about 0.023 above" in said(
        3.07, "--with", 3.10, "--sd", 0.02, "--best-of", 5
    )


def test_a_study_gives_the_spread(planted_root):
    spread = study_spread(planted_root, None, "baseline", "pesq_wb")
    assert spread.df == 2
    assert study_spread(planted_root, None, None, "pesq_wb").df == 18
    both = spread_of([3.0, 3.1, 3.2], [3.0], spread)
    assert both.df == 4
    assert both.low == pytest.approx(((2 * spread.low**2 + 2 * 0.1**2) / 4) ** 0.5)
    told = said(2.1, "--with", 2.0, "--study", "planted", "--root", planted_root)
    assert "18 degrees of freedom" in told
    found = json.loads(
        said(2.1, "--with", 2.0, "--study", "planted", "--root", planted_root, "--format", "json")
    )
    assert found["verdict"] in ("differs", "within luck")


def test_ranges_and_what_is_none_of_them():
    assert (parse_spread("0.01..0.03").low, parse_spread("0.02").high) == (0.01, 0.02)
    assert published_spread().df is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3.0, "--with", 3.1, "--sd", "small"), "is not an SD or a range"),
        ((3.0, "--with", 3.1, "--sd", 0.1, "--study", "x"), "give only one"),
        ((3.0, "--with", 3.1, "--cell", "base"), "needs --study"),
        ((0.9, "--with", 0.95, "--metric", "stoi"), "no SD between runs is published for stoi"),
    ],
)
def test_what_is_not_clear_is_refused(arguments, message):
    found = CliRunner().invoke(app, ["compare", *map(str, arguments)])
    assert message in str(found.exception)


def test_a_cell_that_is_not_there_is_named(planted_root):
    from ablate.models.errors import InputError

    with pytest.raises(InputError, match="no cell 'bass'"):
        study_spread(planted_root, None, "bass", "pesq_wb")
