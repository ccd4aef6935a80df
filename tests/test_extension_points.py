"""The doors of `docs/architecture.md`, each used from outside: nothing of the project is changed to go in."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from types import ModuleType

import pandas as pd
import pytest
import torch
from torch import nn
from typer.main import get_command
from typer.testing import CliRunner

from ablate import PRESETS, ModelConfig, build_model, selective_scan
from ablate.ablations import factors
from ablate.ablations.audit import CODES, Finding, network
from ablate.ablations.audit.network_under_test import Subject, subject
from ablate.ablations.factors import Factor
from ablate.ablations.grid import Grid
from ablate.models import ARCHITECTURES, CORES, CROSSBANDS, DECODERS, HEADS, scan
from ablate.models.config import BANDS
from ablate.reports.build import report_of_file
from ablate.reports.cli import app
from ablate.reports.renderers import FORMS, write
from ablate.studies.launchers import LAUNCHERS
from ablate.studies.launchers.inline import InlineLauncher
from ablate.studies.study_file import asked
from ablate.training import losses
from ablate.training.config import RECIPES, Recipe, RunConfig
from ablate.training.metrics import registry

NOISY = torch.randn(1, 257, 5, dtype=torch.complex64)


@pytest.fixture(autouse=True)
def closed_again():
    """What comes in by a door is gone after the test."""
    names = (ARCHITECTURES, BANDS, CORES, CROSSBANDS, DECODERS, HEADS, LAUNCHERS, FORMS)
    doors = [factors.FACTORS, registry.METRICS, losses._plugins, *(parts._parts for parts in names)]
    before = [dict(door) for door in doors]
    yield
    for door, had in zip(doors, before, strict=True):
        for name in set(door) - set(had):
            del door[name]


class Layer(nn.Module):
    """A time layer or a module across bands."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.mix = nn.Linear(config.channels, config.channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.mix(x)


class Mask(nn.Module):
    """A whole network."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(257, 1))

    def forward(self, noisy: torch.Tensor) -> torch.Tensor:
        return self.gain * noisy


class Decoder(nn.Module):
    """Features to values of each bin."""

    def __init__(self, config: ModelConfig, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.lift = nn.Linear(31 * config.channels, 257 * outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(batch, band, time, channel)` -> `(batch, 257, time, outputs)`."""
        values = self.lift(x.transpose(1, 2).flatten(2))
        return values.unflatten(-1, (257, self.outputs)).transpose(1, 2)


class Head(nn.Module):
    """A real gain in each bin."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.decoder = DECODERS[config.decoder](config, 1)

    def forward(self, features: torch.Tensor, noisy: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.decoder(features)[..., 0]) * noisy


@pytest.mark.parametrize(
    ("parts", "field", "part"),
    [
        (CORES, "core", Layer),
        (CROSSBANDS, "crossband", Layer),
        (DECODERS, "decoder", Decoder),
        (HEADS, "head", Head),
        (ARCHITECTURES, "architecture", Mask),
    ],
)
def test_a_part_of_a_network(parts, field: str, part: type[nn.Module]) -> None:
    parts.register(f"{field}-from-outside", part)
    small = PRESETS["mbsnet"].model_copy(update={"channels": 4, "layers": 1})
    config = ModelConfig.model_validate(small.model_dump() | {field: f"{field}-from-outside"})
    network = build_model(config)
    assert any(isinstance(module, part) for module in network.modules())
    assert network(NOISY).shape == NOISY.shape


def test_a_scan_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("scan_from_outside")
    module.scan = lambda u, *rest: 2 * u  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(scan.BACKENDS, "outside", module.__name__)
    u, a, b = torch.randn(1, 2, 3), -torch.ones(2, 4), torch.randn(1, 4, 3)
    assert torch.equal(selective_scan(u, u, a, b, b, backend="outside"), 2 * u)


def test_a_band_layout() -> None:
    BANDS.register("outside", lambda count: (100, 157))
    assert PRESETS["mbsnet"].model_copy(update={"bands": "outside"}).band_widths == (100, 157)


def test_an_audit_check(monkeypatch: pytest.MonkeyPatch) -> None:
    def wide(subject: Subject) -> Iterator[Finding]:
        if (channels := subject.model.config.channels) > 8:
            yield Finding.of("X101", "channels", f"{channels} of them", "take fewer")

    monkeypatch.setitem(CODES, "X101", ("wide", "note"))
    monkeypatch.setattr(network, "CHECKS", (wide,))
    config = RunConfig.of("mbsnet", "quick")
    assert [finding.name for finding in network.check(subject(config.model, config.recipe))] == ["wide"]


def test_a_factor() -> None:
    factors.register(Factor(name="outside", levels={"off": {"recipe.clip": 5.0}, "on": {"recipe.clip": 1.0}}))
    cells = Grid.parse("outside", baseline=None).cells()
    assert [cell.config.recipe.clip for cell in cells] == [5.0, 1.0]


def test_a_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES, "outside", Recipe(name="outside", steps=7))
    assert RunConfig.of("mbsnet", "outside").recipe.steps == 7


def test_a_loss() -> None:
    losses.register("outside", lambda pair: pair.estimate.abs().mean())
    weighted = losses.WeightedLoss.of(Recipe(steps=1, losses={"outside": 2.0}))
    assert any(weight == 2.0 for weight, _ in weighted.terms)


@pytest.fixture
def table(tmp_path):
    """Scores of two cells at two seeds, in a metric of one's own."""
    rows = [
        {"cell": f"mine={level}", "mine": level, "seed": seed, "utterance": f"u{i}", "outside": i + seed + on}
        for on, level in enumerate(("off", "on"))
        for seed in (1, 2)
        for i in range(3)
    ]
    path = tmp_path / "scores.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def test_a_metric(table) -> None:
    registry.register(registry.Metric("outside", "OUT", lambda pair: 1.0, floor=0.0, unit="dB", margin=0.3))
    report = report_of_file(table, "mine=off", metric="outside")
    assert (report.metric, report.analysis.margin) == ("OUT (dB)", 0.3)


def test_a_launcher(tmp_path) -> None:
    class Outside(InlineLauncher):
        pass

    LAUNCHERS.register("outside", Outside)
    compute = asked(None, grid="bidirectional", compute={"launcher": "outside"}).compute
    assert isinstance(LAUNCHERS[compute.launcher].open(tmp_path, compute), Outside)


def test_a_form_of_a_report(table) -> None:
    def render(document, out) -> None:
        out.write(" ".join([document.name, *(type(block).__name__ for _, block in document.blocks)]))

    FORMS.register("outside", render)
    out = io.StringIO()
    found = report_of_file(table, "mine=off", metric="outside", direction={"outside": "higher"})
    write(found, "outside", out)
    assert out.getvalue().startswith("scores Sentence")
    assert "Table" in out.getvalue()


def test_every_command_is_of_a_room() -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    for name, command in commands.items():
        function = command.callback
        if function is not None:
            assert function.__module__.split(".")[2] in ("commands", "data", "console"), name
    assert CliRunner().invoke(app, ["--help"]).exit_code == 0
