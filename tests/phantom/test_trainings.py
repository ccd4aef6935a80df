"""Every part, preset, precision and loss trains on CUDA, is saved, goes on and is evaluated."""

from __future__ import annotations

import warnings
from itertools import product
from pathlib import Path
from typing import Any

import counts
import gpu_work
import numpy as np
import pytest
import torch

from ablate.models import PRESETS, build_model
from ablate.models.config import CORES, CROSSBANDS, DECODERS, HEADS, ModelConfig, resolve_model
from ablate.models.scan import using
from ablate.training import evaluate, seeds
from ablate.training.config import Evaluation, Recipe
from ablate.training.data.augment import Augment
from ablate.training.data.batches import Batches
from ablate.training.determinism import refused
from ablate.training.environment import prepared
from ablate.training.trainer import Trainer

CUDA = torch.device("cuda")
SMALL = {"channels": 16, "layers": 1, "crossband_layers": 1, "decoder_expansion": 1.0}
BASE = resolve_model("mbsnet").model_copy(update=SMALL)
JUDGED = {"adversarial_weight": 1.0, "adversarial_start": 0.0}
CUMULATIVE = dict.fromkeys(("split_statistics", "trunk_statistics", "decoder_statistics"), "cumulative")


def ours(registry: Any) -> list[str]:
    return [name for name in registry if registry[name].__module__.startswith("ablate.models")]


def case(name: str, config: ModelConfig, scan: str = "auto", parts: int | None = None, **recipe: Any) -> Any:
    return pytest.param(config, scan, parts, recipe, id=name)


def of(**fields: Any) -> ModelConfig:
    return ModelConfig(**SMALL).model_copy(update=fields)


PRESETS_AND_PRECISIONS = [
    case(f"{name} {precision}", resolve_model(name).model_copy(update=SMALL), precision=precision)
    for name, precision in product(PRESETS, ("fp32", "tf32", "bf16"))
]
PARTS = [
    *(
        case(
            f"core={core} {direction} {precision}",
            of(core=core, direction=direction, lookahead=3 if direction == "uni" else 0, options={}),
            precision=precision,
        )
        for core, direction, precision in product(ours(CORES), ("uni", "bi"), ("fp32", "bf16"))
    ),
    *(case(f"crossband={name}", of(crossband=name)) for name in ours(CROSSBANDS)),
    *(
        case(f"decoder={decoder} head={head}", of(decoder=decoder, head=head), precision="bf16")
        for decoder, head in product(ours(DECODERS), ours(HEADS))
    ),
    *(case(f"cumulative {kind}", of(**CUMULATIVE), precision=kind) for kind in ("fp32", "bf16")),
    case("unit compressed", of(input_level="unit", input_compression=0.3, projection="consistent")),
    *(case(f"bands={bands}", of(bands=bands)) for bands in ("mel:16", "one", "uniform:8")),
    case("past taps interleaved", of(filter_taps="past", order="interleaved")),
]
LOSSES = ("si_sdr_weight", "stft_weight", "phase_weight", "consistency_weight")
RECIPES = [
    *(case(name, BASE, **{name: 1.0}) for name in LOSSES),
    case("all losses", BASE, **dict.fromkeys(LOSSES, 1.0)),
    case("augmented", BASE, remix=0.5, reverb=0.5, gain=0.5, band_mask=0.5),
    case("averaged", BASE, ema=0.5, optimizer="adamw", weight_decay=0.01, warmup=0.1, schedule="cosine"),
    case("averaged lstm", of(), ema=0.5),
    case("judged", BASE, **JUDGED),
    case("judged late", BASE, **JUDGED, discriminator_lag=2, discriminator_fraction=0.5),
    case("judged bf16 in parts", BASE, parts=3, **JUDGED, precision="bf16"),
    case("in parts", BASE, parts=3),
    *(case(f"scan {name}", BASE, scan=name) for name in ("chunked", "reference")),
    case("clamped", resolve_model("mbsnet-as-trained").model_copy(update=SMALL)),
]


def recordings() -> list[gpu_work.Recording]:
    draw = np.random.default_rng(0)
    waves = [0.1 * draw.standard_normal((2, 16_000), np.float32) for _ in range(8)]
    return [gpu_work.Recording(f"n{i}", clean, clean + noise) for i, (clean, noise) in enumerate(waves)]


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize(("config", "scan", "parts", "recipe"), [*PRESETS_AND_PRECISIONS, *PARTS, *RECIPES])
def test_it_trains(
    config: ModelConfig, scan: str, parts: int | None, recipe: dict, graph: bool, tmp_path: Path
) -> None:
    course = Recipe(**{"steps": 12, "batch_size": 3, "crop_seconds": 0.4, "cuda_graph": graph, **recipe})
    data = recordings()
    batches = Batches(data, batch_size=3, crop=6400, seed=1, augment=Augment.of(course))
    with using(scan), prepared(CUDA, course.precision, 1), warnings.catch_warnings():
        warnings.filterwarnings("error", message="RNN module weights are not part")
        seeds.set_global(1, "init")
        model = build_model(config).to(CUDA)
        options: dict[str, Any] = {"seed": 1, "device": CUDA, "scorer": gpu_work.loudness}
        trainer = Trainer(model, course, batches, **options, accumulation=parts)
        for _ in range(8):
            counts.reset()
            trainer.start_step()
            found = counts.counts()
        trainer.finish_step()
        torch.save(trainer.state(), tmp_path / "state.pt")
        trainer.restore(torch.load(tmp_path / "state.pt", map_location="cpu", weights_only=True))
        trainer.start_step()
        trainer.finish_step()
        waves = [data[0].noisy, data[1].noisy[:9000], data[2].noisy[:9000], data[3].noisy[:100]]
        for evaluation in (Evaluation(), Evaluation(post_processing="pcs", mix_back=0.1)):
            list(evaluate.enhance_utterances(trainer.network, waves, evaluation=evaluation, device=CUDA))
        assert refused() == []
    waits = 2 if course.adversarial_weight else 1
    assert counts.waits(found) == {"SYNC cudaEventSynchronize": waits}
    if course.precision == "bf16":
        assert not [name for name in found if name.startswith("rnn desc algo=3 dtype=2")]
    if graph:
        assert set((trainer.graphs() or "").split("; ")) == {"on"}
        assert counts.launches(found) < 150
