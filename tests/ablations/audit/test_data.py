from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from hypothesis import given
from hypothesis import strategies as st

from ablate.ablations.audit.data import leaked, noisy_score, one_sided, unequal, wrong_pairs
from ablate.ablations.factors import find
from ablate.ablations.grid import Cell, Grid
from ablate.ablations.runspec import Data, RunSpec
from ablate.training.config import RunConfig
from ablate.training.data.corpus import Corpus

DATA = Data(path="x", name="x", digest="d", test_digest="t")


def write(folder: Path, name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for kind in ("clean", "noisy"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        sf.write(folder / kind / f"{name}.wav", 0.1 * rng.standard_normal(8000), 16000)


def corpus(tmp_path: Path, train: dict[str, int], test: dict[str, int]) -> Corpus:
    for split, files in (("train", train), ("test", test)):
        for name, seed in files.items():
            write(tmp_path / "data" / split, name, seed)
    return Corpus.open(tmp_path / "data", cache=tmp_path / "cache")


TRAIN = {f"p{speaker}_{i:03}": 10 * speaker + i for speaker in (226, 227, 228) for i in range(3)}


def test_a_leak_by_content_and_by_speaker_is_found(tmp_path: Path) -> None:
    spoilt = corpus(tmp_path, TRAIN, {"p232_001": 10 * 226 + 1, "p227_009": 5})
    found = list(leaked(spoilt))
    assert {f.code for f in found} == {"A501"}
    assert any("clean audio" in f.evidence and "p232_001" in f.evidence for f in found)
    assert any("speaker" in f.evidence and "p227" in f.evidence for f in found)


def test_a_clean_corpus_gives_nothing(tmp_path: Path) -> None:
    fine = corpus(tmp_path, TRAIN, {"p240_001": 1, "p240_002": 2})
    assert not list(leaked(fine))
    assert not list(noisy_score(fine))


def voices(folder: Path, names: list[str], rate: int, lag: int = 0, seconds: float = 2.0) -> None:
    """Pairs of bursts of noise in faint noise; the noisy ones late."""
    for seed, name in enumerate(names):
        rng = np.random.default_rng([seed, len(folder.name)])
        time = np.arange(round(seconds * rate)) / rate
        clean = (
            0.1 * np.clip(np.sin(2 * np.pi * (2 + seed / 9) * time), 0, None) * rng.standard_normal(len(time))
        )
        noisy = np.roll(clean, lag) + 0.01 * rng.standard_normal(len(time))
        for kind, audio in (("clean", clean), ("noisy", noisy)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            sf.write(folder / kind / f"{name}.wav", audio, rate)


def test_wrong_pairs_are_errors_and_low_rates_notes(tmp_path: Path) -> None:
    data = tmp_path / "data"
    voices(data / "train", list(TRAIN), 16_000)
    voices(data / "test", ["p240_001", "p240_002"], 16_000)
    assert not list(wrong_pairs(Corpus.open(data, cache=tmp_path / "cache")))
    voices(data / "test", ["p240_001", "p240_002"], 8_000, lag=320)
    found = list(wrong_pairs(Corpus.open(data, cache=tmp_path / "cache")))
    assert [(f.code, f.severity) for f in found] == [("A506", "error"), ("A508", "note")]
    assert "2 noisy files are earlier or later than their clean ones (2 checked): p240_001 (40 ms later)" in (
        found[0].evidence
    )
    assert "2 at 8000 Hz" in found[1].evidence


def test_files_named_like_a_known_corpus_that_are_not_its(tmp_path: Path) -> None:
    named = corpus(tmp_path, TRAIN, {f"p{s}_{i:03}": s * 3 + i for s in (232, 257) for i in range(1, 4)})
    found = list(noisy_score(named))
    assert [(f.code, f.severity) for f in found] == [("A503", "note")]


def test_validation_of_one_voice_is_noted_where_it_chooses(tmp_path: Path) -> None:
    fine = corpus(tmp_path, TRAIN, {"p240_001": 1})

    def heard(**files: int) -> Corpus:
        pairs = [
            replace(fine.train[0], name=f"{s}_{i}", speaker=s) for s, n in files.items() for i in range(n)
        ]
        return replace(fine, validation=tuple(pairs))

    last = [Cell(name="base", levels={}, config=RunConfig.of("mbsnet", recipe="quick"))]
    best = [Cell(name="base", levels={}, config=last[0].config.with_changes({"recipe.selection": "best"}))]
    mostly = heard(p1=5, p2=2, p3=1)
    assert not list(one_sided(mostly, last)), "the last weights are chosen by nobody"
    (finding,) = one_sided(mostly, last, tuned=("recipe.learning_rate",))
    assert (finding.code, finding.severity) == ("A504", "note")
    assert finding.evidence.startswith(
        "5 of the 8 validation files that select tuned settings are from speaker p1"
    )
    (finding,) = one_sided(mostly, best)
    assert "select the weights to test" in finding.evidence
    assert "validation_utterances" not in finding.remedy, "all of them are asked"
    few = best[0].config.with_changes({"recipe.validation_utterances": 7})
    (finding,) = one_sided(heard(p1=8, p2=1), [Cell(name="base", levels={}, config=few)])
    assert "raise recipe.validation_utterances" in finding.remedy
    drawn = best[0].config.with_changes({"recipe.split": "seed"})
    assert not list(one_sided(mostly, [Cell(name="base", levels={}, config=drawn)])), "drawn by the seed"
    assert not list(one_sided(heard(p1=3, p2=2), best))
    assert not list(one_sided(replace(mostly, validation=(replace(fine.train[0], speaker=None),)), best))


def test_cells_that_differ_where_no_factor_says_so() -> None:
    start = RunConfig.of("mbsnet")
    other = start.with_changes({"recipe.learning_rate": 0.01, "recipe.checkpoint_every": 7})
    cells = [
        Cell(name="base", levels={"f": "a"}, config=start),
        Cell(name="other", levels={"f": "b"}, config=other),
    ]
    (found,) = unequal(cells, ())
    assert (found.code, found.where) == ("A502", "recipe.learning_rate")
    assert not list(unequal(cells, (find("learning_rate", ["0.001", "0.01"]),)))
    assert not list(unequal(cells, (), tuned=["recipe.learning_rate"]))
    assert not list(unequal(Grid.parse("bidirectional,pcs").cells(), Grid.parse("bidirectional,pcs").factors))


@pytest.mark.parametrize("what", ["seeds", "data", "start weights"])
def test_runs_of_unequal_data_and_seeds(what: str) -> None:
    cells = Grid.parse("bidirectional", baseline=None).cells()
    runs = [RunSpec.of(cell, seed, DATA) for cell in cells for seed in (1, 2)]
    assert not list(unequal(cells, (find("bidirectional"),), (), runs))
    last = runs[-1]
    if what == "seeds":
        runs[-1] = last.model_copy(update={"seed": 3})
    elif what == "data":
        runs[-1] = last.model_copy(update={"data": DATA.model_copy(update={"digest": "e"})})
    else:
        runs[-1] = last.model_copy(update={"start_from": {"path": "p", "digest": "q"}})
    assert [f.where for f in unequal(cells, (find("bidirectional"),), (), runs)] == [what]


@given(
    counts=st.lists(st.integers(1, 9), min_size=2, max_size=2),
    order=st.permutations(range(1, 10)),
    odd=st.booleans(),
)
def test_seeds_may_be_more_in_some_cells_as_long_as_they_are_nested(counts, order, odd) -> None:
    cells = Grid.parse("bidirectional", baseline=None).cells()
    lists = [order[:count] for count in counts]
    if odd:
        lists[0] = [*lists[0][:-1], 99]
        lists[1] = order
    runs = [RunSpec.of(cell, seed, DATA) for cell, seeds in zip(cells, lists, strict=True) for seed in seeds]
    found = list(unequal(cells, (find("bidirectional"),), (), runs))
    assert [f.where for f in found] == (["seeds"] if odd else [])
