"""Settings of a plug-in's own as factors."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from ablate.ablations.audit import data, toggles
from ablate.ablations.diff import differences, propose
from ablate.ablations.factors import field_path
from ablate.ablations.grid import Grid
from ablate.ablations.runspec import Data, RunSpec
from ablate.models.config import ARCHITECTURES, PRESETS, ModelConfig
from ablate.models.errors import InputError
from ablate.training.config import RECIPES, RunConfig


class Mask(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.net = nn.Conv1d(257, 257, int(config.options["kernel"]), padding="same")

    def forward(self, noisy):
        return noisy * self.net(noisy.abs()).sigmoid()


@pytest.fixture(autouse=True)
def preset(monkeypatch: pytest.MonkeyPatch) -> None:
    ARCHITECTURES.register("mask-with-options", Mask)
    config = ModelConfig(architecture="mask-with-options", options={"kernel": 3, "wide": False})
    monkeypatch.setitem(PRESETS, "mask-with-options", config)


def grid(text: str) -> Grid:
    return Grid.parse(text, base="mask-with-options", baseline=None)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("options.kernel", "model.options.kernel"),
        ("model.options.kernel", "model.options.kernel"),
        ("losses.mine", "recipe.losses.mine"),
        ("kernel", "model.kernel"),
        ("options.", None),
        ("kernel.size", None),
    ],
)
def test_a_key_of_a_mapping_is_a_field(name: str, path: str | None) -> None:
    assert field_path(name) == path


def test_options_are_factors() -> None:
    crossed = grid("options.kernel=3,5,options.wide=false,true")
    found = {cell.name: cell.config.model.options for cell in crossed.cells()}
    assert found == {
        "base": {"kernel": 3, "wide": False},
        "options.wide=true": {"kernel": 3, "wide": True},
        "options.kernel=5": {"kernel": 5, "wide": False},
        "options.kernel=5+options.wide=true": {"kernel": 5, "wide": True},
    }
    specs = [
        RunSpec.of(cell, 1, Data(path="x", name="x", digest="1", test_digest="2")) for cell in crossed.cells()
    ]
    assert len({spec.training_signature for spec in specs}) == 4


def test_a_factor_of_one_option_changes_nothing_else() -> None:
    crossed = grid("options.kernel=3,5,losses.network=0,1")
    cells = crossed.cells()
    assert list(toggles.hidden_changes(cells, crossed.factors)) == []
    assert list(data.unequal(cells, crossed.factors)) == []
    (difference,) = differences(cells[0].config, cells[2].config, crossed.factors)
    assert (difference.path, difference.group) == ("model.options.kernel", "toggled")


def test_an_option_that_no_factor_covers_is_told() -> None:
    cells = grid("options.kernel=3,5").cells()
    (difference,) = differences(cells[0].config, cells[1].config)
    assert (difference.path, difference.a, difference.b) == ("model.options.kernel", 3, 5)
    assert difference.group == "not toggled"
    command = propose(cells[0].config, cells[1].config)
    assert "model.options.kernel=3,5" in command


def test_an_option_that_the_network_does_not_read_makes_no_difference() -> None:
    crossed = grid("options.wide=false,true")
    (finding,) = toggles.without_effect(crossed.cells(), crossed.factors)
    assert (finding.code, finding.severity) == ("A201", "error")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    folder = tmp_path / "clone"
    (folder / "nets").mkdir(parents=True)
    (folder / "nets" / "net.py").write_text("x = 1\n")
    (folder / "README.md").write_text("first\n")
    return folder


def with_source(path: Path) -> RunConfig:
    config = ModelConfig(architecture="mask-with-options", options={"kernel": 3, "source": "path:"})
    return RunConfig(model=config, recipe=RECIPES["quick"]).with_changes({"model.options.source": str(path)})


def test_an_option_that_is_a_folder_counts_by_its_code_wherever_it_lies(clone: Path, tmp_path: Path) -> None:
    first = with_source(clone)
    with pytest.raises(InputError, match=r"the code in .*clone is not trusted"):
        first.model.folder("source")
    first.model.trust_folders()
    assert first.model.folder("source") == clone
    (clone / "README.md").write_text("second\n")
    moved = with_source(clone.rename(tmp_path / "elsewhere"))
    assert moved.model.options["source"] != first.model.options["source"]
    assert moved.signed_fields() == first.signed_fields()
    assert ModelConfig.model_validate(moved.model_dump()["model"]) == moved.model
    (tmp_path / "elsewhere" / "nets" / "net.py").write_text("x = 2\n")
    assert with_source(tmp_path / "elsewhere").signed_fields() != first.signed_fields()
    with pytest.raises(InputError, match=r"the code in .*elsewhere has changed since this run was planned"):
        moved.model.folder("source")


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"folder .*none' does not exist"):
        with_source(tmp_path / "none")
    with pytest.raises(InputError, match="the network needs a folder; set it with --option source=PATH"):
        ModelConfig(options={"source": "path:"}).folder("source")
