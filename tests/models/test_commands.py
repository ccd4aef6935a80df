import json
import platform
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest
import torch
import typer
from typer.testing import CliRunner

from ablate.models import PRESETS, ModelConfig, build_model
from ablate.models.errors import InputError
from ablate.reports.cli import app


@pytest.fixture
def cli() -> typer.Typer:
    return app


def run(cli: typer.Typer, *arguments: str) -> str:
    result = CliRunner().invoke(cli, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


@pytest.mark.slow
def test_models_lists_every_preset(cli: typer.Typer) -> None:
    rows = json.loads(run(cli, "models", "--format", "json"))
    assert [row["name"] for row in rows] == list(PRESETS)
    assert rows[0]["parameters"] == 2_963_024
    table = run(cli, "models")
    assert all(name in table for name in PRESETS)
    assert "2,963,024" in table


def test_one_model_shows_modules_and_configuration(cli: typer.Typer) -> None:
    found = json.loads(run(cli, "models", "mbsnet", "--format", "json"))
    assert ModelConfig.model_validate(found["config"]) == PRESETS["mbsnet"]
    assert sum(module["parameters"] for module in found["modules"]) == found["parameters"]
    table = run(cli, "models", "mbsnet")
    assert "time_layers.3.mamba.ssm" in table
    assert "model.dt_init" in table


def test_a_field_may_be_set(cli: typer.Typer) -> None:
    causal = [f"model.{part}_statistics=cumulative" for part in ("split", "trunk", "decoder")]
    words = [
        *causal,
        "model.filter_taps=past",
        "model.lookahead=4",
        "model.bands=mel:16",
        "model.core=conformer",
    ]
    found = json.loads(
        run(cli, "models", "bsrnn", *(w for s in words for w in ("--set", s)), "--format", "json")
    )
    config = ModelConfig.model_validate(found["config"])
    assert (config.bands, config.lookahead) == ("mel:16", 4)
    assert found["parameters"] == sum(p.numel() for p in build_model(config).parameters())
    assert found["latency_ms"] == 32 + 4 * 8
    assert found["receptive_field"] == "unbounded (attention)"
    for wrong, said in (
        ("model.band=one", "did you mean 'model.bands'"),
        ("model.bands=mell:4", "did you mean 'mel'"),
        ("model.bands", "write name=value"),
    ):
        with pytest.raises(InputError, match=said):
            run(cli, "models", "bsrnn", "--set", wrong)


def test_unknown_model_is_an_error_with_the_nearest(cli: typer.Typer) -> None:
    with pytest.raises(ValueError, match="did you mean 'mbsnet'"):
        run(cli, "models", "mbsnte")


def test_doctor_says_which_scan_runs(cli: typer.Typer) -> None:
    found = json.loads(run(cli, "doctor", "--format", "json"))
    assert found["scan"]["auto"] in found["scan"]["backends"]
    assert found["versions"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert found["scan"]["auto"] in run(cli, "doctor")


def test_import_writes_a_checkpoint_that_loads(cli: typer.Typer, plain: ModuleType, tmp_path: Path) -> None:
    weights = plain.random_weights(plain.mbsnet_shapes(8, 1), seed=0, dtype=torch.float32)
    source, output = tmp_path / "public.pt", tmp_path / "ours.pt"
    torch.save({"state_dict": weights, "epoch": 3}, source)
    found = json.loads(run(cli, "import-checkpoint", str(source), "-o", str(output), "--format", "json"))
    content = torch.load(output, weights_only=True)
    assert found["config"] == content["model"]
    model = build_model(ModelConfig.model_validate(content["model"]))
    model.load_state_dict(content["weights"])
    assert [path.name for path in tmp_path.iterdir()] == ["ours.pt", "public.pt"] or len(
        list(tmp_path.iterdir())
    ) == 2


def test_import_executes_nothing(cli: typer.Typer, tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (str(tmp_path / "executed"),)

    torch.save({"weights": Payload()}, tmp_path / "bad.pt")
    with pytest.raises(ValueError, match=r"bad\.pt cannot be read as weights"):
        run(cli, "import-checkpoint", str(tmp_path / "bad.pt"))
    assert not (tmp_path / "executed").exists()


def test_import_refuses_what_is_no_checkpoint(cli: typer.Typer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such checkpoint"):
        run(cli, "import-checkpoint", str(tmp_path / "none.pt"))
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="does not contain a state dict"):
        run(cli, "import-checkpoint", str(tmp_path / "list.pt"))
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="not a state dict of BSRNN"):
        run(cli, "import-checkpoint", str(tmp_path / "other.pt"))


def test_a_report_for_an_issue_has_no_paths_and_no_names(
    cli: typer.Typer, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = f"cannot open {Path.home()}/lib/libcuda.so on {platform.node()} of {Path.home().name}, ~/x/y"
    monkeypatch.setattr("ablate.models.system_info.unavailable", lambda name: message)
    told = run(cli, "doctor", "--report")
    assert told.count("cannot open <path> on <host> of <user>, <path>") > 3
    found = json.loads(told.removeprefix("```json\n").removesuffix("```\n"))
    assert found["versions"]["ablate"] == version("ablate-speech")
    assert found["clash"] is None
