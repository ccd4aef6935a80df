from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner, Result

from ablate.models import PRESETS
from ablate.reports.cli import app

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "my_net.py"


def ablate(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_a_faulty_network_is_refused_unless_waived() -> None:
    faulty = ["audit", "mbsnet-as-trained", "--recipe", "quick", "--format", "json"]
    result = ablate(*faulty)
    assert result.exit_code == 5
    found = json.loads(result.stdout)
    assert {"code", "name", "severity", "where", "evidence", "remedy", "waived"} == set(found[0])
    assert {"A101", "A102"} <= {f["code"] for f in found}
    assert [f["where"] for f in found if f["code"] == "A101"] == ["time_layers.{0,1}.mamba.ssm.D"]
    waived = ablate(*faulty, "--waive", ",".join({f["code"] for f in found}))
    assert waived.exit_code == 0
    assert all(f["waived"] for f in json.loads(waived.stdout))


def test_a_right_network_passes() -> None:
    result = ablate("audit", "mbsnet", "--recipe", "quick")
    assert result.exit_code == 0
    assert "0 errors" in result.stdout


def test_a_budget_and_a_cell(faults: ModuleType) -> None:
    result = ablate("audit", "bidirectional", "--grid", "bidirectional", "--param-budget", "2.3M+-5%")
    assert result.exit_code == 5
    assert "A401 budget" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["audit"], "nothing to audit"),
        (["audit", "nosuch"], "not a preset"),
        (["audit", "nosuch", "--grid", "bidirectional"], "no cell"),
        (["audit", "mbsnet", "--waive", "A999"], "A999"),
        (["audit", "mbsnet", "--format", "xml"], "xml"),
        (["diff", "mbsnet", "nosuch"], "is not a preset, a run under"),
        (["diff", "mbsnet", "bsrn"], "did you mean 'bsrnn'"),
        (["diff", "mbsnet", "bidirectionl", "--grid", "bidirectional"], "did you mean 'bidirectional'"),
    ],
)
def test_bad_input_says_what_to_do(arguments: list[str], message: str, tmp_path: Path) -> None:
    result = ablate(*arguments, "--root", str(tmp_path))
    assert isinstance(result.exception, ValueError)
    assert message in str(result.exception)


def test_diff_of_presets_cells_runs_and_checkpoints(tmp_path: Path) -> None:
    from ablate.ablations.grid import Grid
    from ablate.models import build_model
    from ablate.training.checkpoint import write

    cell = Grid.parse("bidirectional").cells()[0]
    config = cell.config
    run = tmp_path / "runs" / ("ab" * 32)
    run.mkdir(parents=True)
    spec = {"model": config.model.model_dump(mode="json"), "recipe": config.recipe.model_dump(mode="json")}
    (run / "spec.json").write_text(json.dumps(spec))
    weights = build_model(config.model).state_dict()
    write(tmp_path / "net.pt", {"kind": "weights", "model": spec["model"], "weights": weights})
    for other in ("abab", str(tmp_path / "net.pt")):
        result = ablate(
            *("diff", "bidirectional", other, "--grid", "bidirectional", "--root", str(tmp_path)),
            *("--format", "json"),
        )
        assert result.exit_code == 0, result.exception
        found = json.loads(result.stdout)
        assert [d["path"] for d in found["toggled"]] == ["model.direction"]
        assert found["a"]["parts"]["encoder"] > found["b"]["parts"]["encoder"]
        assert found["a"]["parts"]["decoder"] == found["b"]["parts"]["decoder"]
    result = ablate("diff", "mbsnet", "bsrnn")
    assert "model.core: mamba -> lstm" in result.stdout
    assert "all: 2,139,920 -> 2,963,024" in result.stdout
    assert "ablate run --base mbsnet" in result.stdout


@pytest.mark.slow
def test_the_example_plugin_from_a_folder_with_models_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").write_text("raise RuntimeError('the wrong models')\n")
    text = EXAMPLE.read_text()
    shutil.copy(EXAMPLE, tmp_path / "my_net.py")
    wrong = text.replace("behind = self.taps // 2 if self.looks_ahead else self.taps - 1", "behind = 4")
    assert wrong != text
    (tmp_path / "wrong.py").write_text(wrong)
    command = [str(Path(sys.executable).with_name("ablate")), "audit", "--format", "json", "--plugin"]
    right = subprocess.run([*command, "my_net.py"], cwd=tmp_path, capture_output=True, text=True)
    assert right.returncode == 0, right.stderr + right.stdout
    faulty = subprocess.run([*command, "wrong.py"], cwd=tmp_path, capture_output=True, text=True)
    assert faulty.returncode == 5, faulty.stderr
    assert {f["code"] for f in json.loads(faulty.stdout) if f["severity"] == "error"} == {"A202"}


def test_options_of_a_network_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "scaled", PRESETS["mbsnet"])  # what the plug-in registers goes with the test
    (tmp_path / "scaled.py").write_text(
        "from torch import nn\n"
        "from ablate.models import ARCHITECTURES, PRESETS, ModelConfig\n"
        "class Scaled(nn.Module):\n"
        "    def __init__(self, config):\n"
        "        super().__init__()\n"
        "        self.taps = nn.Conv1d(257, 257, config.options['kernel'], padding='same', dtype=DTYPE)\n"
        "    def forward(self, x):\n"
        "        return self.taps(x)\n"
        "import torch\n"
        "DTYPE = torch.complex64\n"
        "ARCHITECTURES.register('scaled', Scaled)\n"
        "PRESETS['scaled'] = ModelConfig(architecture='scaled', direction='bi')\n"
    )
    counts = []
    for kernel in (3, 5):
        result = ablate(
            *("audit", "scaled", "--plugin", str(tmp_path / "scaled.py"), "--option", f"kernel={kernel}"),
            *("--param-budget", "1+-0", "--format", "json"),
        )
        (budget,) = [f for f in json.loads(result.stdout) if f["code"] == "A401"]
        counts.append(int(budget["evidence"].split()[0].replace(",", "")))
    assert counts == [257 * (257 * kernel + 1) for kernel in (3, 5)]


def test_what_is_claimed_is_listed_with_its_source() -> None:
    rows = json.loads(ablate("claims", "--format", "json").stdout)
    found = {(row["factor"], row["source"]): row for row in rows}
    of_direction = found["bidirectional", "published: xLSTM-SENet, ablation table in its repository"]
    assert (of_direction["off"], of_direction["on"], of_direction["metric"]) == (3.26, 3.48, "pesq_wb")
    assert of_direction["seeds"] == "averaged, number not stated"
    assert of_direction["of"] == "2,140,000 to 2,200,000 parameters, steps not stated, VoiceBank+DEMAND"
    assert any(row["factor"] == "decoder4x" and "the report" in row["source"] for row in rows)
    shown = ablate("claims", "core=lstm,mamba").stdout
    assert "WSJ0" in shown
    assert "not measured here" in shown
    assert "SEMamba Table 1" not in shown
    assert ablate("claims", "decodr4x").exit_code != 0
    for grid, name, gain in (("core=mamba,lstm", "core", -0.1), ("core=lstm,gru,mamba", "core=mamba", 0.1)):
        first = json.loads(ablate("claims", grid, "--format", "json").stdout)[0]
        assert (first["factor"], first["low"], first["high"]) == (name, gain, gain)
        assert round(first["on"] - first["off"], 2) == gain
