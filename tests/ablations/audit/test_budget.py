from __future__ import annotations

import pytest

from ablate.ablations.audit import audit_cells, budget, errors, parse_waivers
from ablate.ablations.audit.budget import Budget, fits, hours, memory, parameters
from ablate.ablations.audit.network_under_test import subject
from ablate.ablations.grid import Cell
from ablate.models.config import ModelConfig
from ablate.training.config import RECIPES, RunConfig

SMALL = ModelConfig(
    channels=16, layers=1, crossband_layers=1, crossband="pointwise", decoder_expansion=1, d_state=4
)
QUICK = RECIPES["quick"].model_copy(update={"crop_seconds": 0.2})
CELL = Cell(name="small", levels={}, config=RunConfig(model=SMALL, recipe=QUICK))
COUNT = subject(SMALL, QUICK).parameters


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("2.3M+-5%", 2_185_000, 2_415_000),
        ("2.3M±5%", 2_185_000, 2_415_000),
        ("340000 +/- 2k", 338_000, 342_000),
        ("2,963,024+-0", 2_963_024, 2_963_024),
        ("1M", 990_000, 1_010_000),
    ],
)
def test_budgets(text: str, low: float, high: float) -> None:
    found = Budget.parse(text)
    assert (found.low, found.high) == pytest.approx((low, high))


@pytest.mark.parametrize("text", ["", "lots", "2.3M+-", "-3M", "5%"])
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="budget"):
        Budget.parse(text)


def test_a_size_that_is_not_the_declared_one_is_found() -> None:
    assert not list(parameters([CELL], Budget.parse(f"{COUNT}+-0")))
    (found,) = parameters([CELL], Budget.parse("2.3M+-5%"))
    assert found.code == "A401"
    assert f"{COUNT:,}" in found.evidence


def test_memory_says_the_largest_batch_that_fits() -> None:
    measured = memory(subject(SMALL, QUICK))
    room = int(measured.of(3) + measured.each / 2)
    (found,) = fits([CELL], available=room)
    assert found.code == "A402"
    assert "the largest batch that fits is 3" in found.evidence
    assert "recipe.accumulation=2" in found.remedy
    assert not list(fits([CELL], available=int(measured.of(6)) + 1))
    assert list(fits([CELL], available=int(measured.of(6)) + 1, slots=2))
    (note,) = fits([CELL], available=room, trains_here=False)
    assert (found.severity, note.severity) == ("error", "note")
    (none,) = fits([CELL], available=1000)
    assert "not even a batch of 1" in none.evidence


def test_hours_grow_with_runs_and_shrink_with_slots() -> None:
    (one,) = hours([CELL], runs=100_000)
    (more,) = hours([CELL], runs=400_000, slots=2)
    amounts = [float(f.evidence.split()[1].replace(",", "")) for f in (one, more)]
    assert amounts[1] / amounts[0] == pytest.approx(2, rel=0.1)
    assert (one.code, one.severity) == ("A403", "note")


def test_waivers() -> None:
    found = audit_cells([CELL], budget="9M")
    assert [f.code for f in errors(found)] == ["A401"]
    assert not errors(found, parse_waivers("A401, A102"))
    with pytest.raises(ValueError, match="A999"):
        parse_waivers("A999")


def test_a_scan_without_a_fused_kernel_is_told_where_there_is_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [Cell(name=name, levels={}, config=RunConfig.of(name)) for name in ("bsrnn", "mbsnet")]
    chosen = ["chunked", "triton: no compiler"]
    monkeypatch.setattr(budget, "choose_backend", lambda device: tuple(chosen))
    assert list(budget.slow_scan(cells)) == []
    monkeypatch.setattr(budget.torch.cuda, "is_available", lambda: True)
    (found,) = budget.slow_scan(cells)
    assert (found.code, found.severity, found.where) == ("A405", "note", "mbsnet")
    assert found.evidence.endswith("triton: no compiler")
    chosen[0] = "triton"
    assert list(budget.slow_scan(cells)) == []
