"""Every axis of docs/factors.md: a short study with it on a part of the demo corpus, seen to its end."""

from __future__ import annotations

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from ablate.ablations.runspec import run_path
from ablate.models import build_model
from ablate.models.summary import summarise
from ablate.reports.cli import main
from ablate.studies import plan as plans
from ablate.training.data.demo import make_demo
from ablate.training.rundir import RunDir

CAUSAL = {
    "model.split_statistics": "cumulative",
    "model.trunk_statistics": "cumulative",
    "model.decoder_statistics": "cumulative",
    "model.filter_taps": "past",
}
EQUAL = {"model.channels": "32", "model.decoder": "shared"}
STUDIES: dict[str, tuple[str, str, dict[str, str]]] = {
    "networks": (
        "bsrnn",
        "core=lstm,gru,mamba,mamba2,tcn,conformer,attention,direction=uni,bi,lookahead=0,4,16,norm=group,layer,"
        "bands=bsrnn,uniform:8,mel:16,bark:16,input_level=as-is,unit,input_compression=1,0.3,"
        "projection=none,consistent,split_statistics=utterance,cumulative,trunk_statistics=utterance,cumulative,"
        "decoder_statistics=utterance,cumulative,filter_taps=centred,past,"
        "head=filter,mask,magnitude-phase,magnitude-only,decoder=per-band,shared,decoder_expansion=4,2,"
        "crossband=bilstm,none,pointwise,bimamba",
        {},
    ),
    "tcn": ("mbsnet", "kernel=3,5,dilations=4,2,lookahead=0,4,16,direction=uni,bi", {"model.core": "tcn"}),
    "conformer": ("mbsnet", "heads=4,2,kernel=3,5,lookahead=0,4", {"model.core": "conformer"}),
    "mamba2": ("mbsnet", "heads=4,2,d_state=12,8,expand=1,2,lookahead=0,4", {"model.core": "mamba2"}),
    "mamba": ("mbsnet", "d_state=12,8,expand=1,2,d_conv=4,2,lookahead=0,4", {}),
    "one-band": ("bsrnn", "bands=bsrnn,one", {"model.crossband": "none"}),
    "causal": ("bsrnn", "core=lstm,tcn,lookahead=0,4", CAUSAL),
    "recipes": (
        "bsrnn",
        "complex_weight=0.5,0,magnitude_weight=0.5,0,si_sdr_weight=0,0.01,stft_weight=0,0.1,phase_weight=0,0.1,"
        "consistency_weight=0,0.1,discriminator,remix=0,0.5,reverb=0,0.5,gain=0,0.5,band_mask=0,0.5,"
        "schedule=step,cosine",
        {},
    ),
    "evaluations": (
        "bsrnn",
        "pcs,evaluation.taps=3,1,evaluation.mix_back=0,0.1",
        {"evaluation.metrics": "lsd,phase_distance,dnsmos_sig,dnsmos_bak,dnsmos_ovrl"},
    ),
    "later": (
        "bsrnn",
        "core=lstm,xlstm,mamba+attention,n_fft=512,320,hop=128,160,window=hann,sqrt-hann,norm=group,batch,"
        "chunk=0,16,recipe.target=clean,pcs,recipe.waveform_weight=0,1",
        {},
    ),
    "xlstm": ("bsrnn", "gating=exponential,sigmoid,biases=with,without", {"model.core": "xlstm"}),
    "pesq": ("bsrnn", "recipe.losses.pesq=0,0.1", {}),
    "parameters": ("bsrnn", "core=lstm,gru,recipe.match=free,parameters", EQUAL),
    "macs": ("bsrnn", "core=lstm,mamba", EQUAL | {"recipe.match": "macs"}),
}
TWO_SEEDS = ("evaluations", "xlstm", "parameters", "macs")
PESQ_LOSS = Path(__file__).parents[2] / "docs" / "examples" / "pesq_loss.py"


@pytest.fixture(scope="module")
def part_of_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few recordings of each speaker of the demo corpus, and two to test on."""
    whole = make_demo(tmp_path_factory.mktemp("cache"))
    folder = tmp_path_factory.mktemp("part") / "demo-part"
    for split, step in (("train", 8), ("test", 8)):
        for kind in ("clean", "noisy"):
            name = f"{kind}_{split}set_wav"
            (folder / name).mkdir(parents=True)
            for file in sorted((whole / name).iterdir())[::step]:
                shutil.copy(file, folder / name)
    return folder


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", STUDIES)
def test_a_study_of_an_axis_is_seen_to_its_end(name, part_of_demo, monkeypatch, capsys, tmp_path):
    if name == "pesq" and find_spec("torch_pesq") is None:
        pytest.skip("torch-pesq is not installed")
    base, grid, settings = STUDIES[name]
    settings = {"recipe.steps": "4", "recipe.width": "0.125", "recipe.depth": "0.2"} | settings

    def ablate(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ablate", *map(str, words), "--root", str(tmp_path)])
        with pytest.raises(SystemExit) as ended:
            main()
        shown = capsys.readouterr()
        return int(ended.value.code or 0), shown.out, shown.err

    words = ["run", "--base", base, "--baseline", "none", "--grid", grid, "--data", part_of_demo]
    words += ["--design", "full" if name == "parameters" else "add-one", "--study", name]
    words += ["--seeds", "2" if name in TWO_SEEDS else "1"]
    words += ["--plugin", PESQ_LOSS] if name == "pesq" else []
    words += ["--launcher", "inline", *(word for s in settings.items() for word in ("--set", "=".join(s)))]
    code, _, said = ablate(*words)
    assert code == 0, said
    plan = plans.load(tmp_path, name)
    assert [f for f in plan.audit.findings if f["severity"] == "error"] == []
    for cell in plan.cells:
        run = RunDir(run_path(tmp_path, cell.signatures[1]))
        counted = sum(parameter.numel() for parameter in build_model(cell.config.model).parameters())
        assert cell.parameters == run.summary["parameters"] == counted
        assert summarise(cell.config.model)["parameters"] == counted
        assert run.summary["macs_per_second"] > 0
        assert run.summary["one_thread_factor"] > 0
        assert run.summary["latency_ms"] == summarise(cell.config.model)["latency_ms"]
    code, written, said = ablate("report", name, "--format", "md")
    assert code == 0, said
    for factor in plan.factors:
        assert f"| {factor.name}" in written
    for heading in ("MACs per second", "real-time factor, one thread", "algorithmic latency"):
        assert heading in written
    assert ("at equal parameters" in written) == (name == "parameters")
    assert ("at equal MACs a second" in written) == (name == "macs")
    assert ("ranks of the cells" in written) == (name in TWO_SEEDS)
