import multiprocessing
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from torch import nn

from ablate.training.config import Evaluation
from ablate.training.evaluate import (
    enhance_utterances,
    equal_frames,
    evaluating,
    fixed_utterances,
    noisy_scores,
    real_time_factor,
    score_test,
    start_validation,
    validate,
    write_audio,
    write_parquet,
)
from ablate.training.metrics import MetricPool, score_with_errors
from ablate.training.metrics.registry import usual
from ablate.training.pcs import pcs
from ablate.training.spectral import enhance_waveform

RATE = 16_000


@dataclass(frozen=True)
class FakePair:
    """A pair that lives in memory, with what evaluation reads of one."""

    name: str
    clean: np.ndarray
    noisy: np.ndarray
    speaker: str | None = None
    snr: float | None = None
    noise: str | None = None

    @property
    def seconds(self) -> float:
        return len(self.clean) / RATE

    @property
    def clean_sha256(self) -> str:
        return sha256(self.clean.tobytes()).hexdigest()

    @property
    def noisy_sha256(self) -> str:
        return sha256(self.noisy.tobytes()).hexdigest()


class TinyNetwork(nn.Module):
    """Statistics over time and a random choice in training, like what must be switched off."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.GroupNorm(1, 2)
        self.mix = nn.Conv2d(2, 2, 3, padding=1)
        self.dropout = nn.Dropout(0.5)

    def forward(self, spectrogram: torch.Tensor) -> torch.Tensor:
        features = torch.view_as_real(spectrogram).permute(0, 3, 1, 2).contiguous()
        mask = torch.tanh(self.dropout(self.mix(self.norm(features)))).permute(0, 2, 3, 1)
        return spectrogram * (1 + 0.5 * torch.view_as_complex(mask.contiguous()))


def make_pair(name: str, seconds: float, level: float = 0.02, **details) -> FakePair:
    random = np.random.default_rng(int(sha256(name.encode()).hexdigest()[:8], 16))
    time_axis = np.arange(round(seconds * RATE)) / RATE
    pitch = 2 * np.pi * np.cumsum(130 + 20 * np.sin(9 * time_axis)) / RATE
    voice = sum(np.sin(k * pitch) / k for k in range(1, 15))
    clean = 0.1 * voice * np.clip(np.sin(2 * np.pi * 2 * time_axis), 0, None) ** 2
    clean = (clean + 1e-3 * random.standard_normal(len(clean))).astype(np.float32)
    noisy = (clean + level * random.standard_normal(len(clean))).astype(np.float32)
    return FakePair(name, clean, noisy, **details)


@pytest.fixture(scope="module")
def pairs() -> list[FakePair]:
    return [
        make_pair("a_1", 1.2, 0.05, speaker="a", snr=2.5, noise="cafe"),
        make_pair("b_1", 0.9, 0.01, speaker="b", snr=12.5, noise="bus"),
        make_pair("b_2", 1.2, 0.005, speaker="b", snr=17.5),
    ]


@pytest.fixture(scope="module")
def pool():
    with MetricPool(1) as shared:
        yield shared


def test_only_equal_frame_counts_share_a_batch():
    lengths = [16_000, 8_000, 16_010, 16_000, 8_050, 16_127, 16_128]
    batches = equal_frames(lengths, 30)
    assert batches == [[1, 4], [0, 2, 3, 5], [6]]
    assert equal_frames(lengths, 2.1) == [[1, 4], [0, 2], [3, 5], [6]]
    assert equal_frames([10 * RATE, 10 * RATE], 5) == [[0], [1]]


@pytest.mark.numerics
def test_batches_give_what_single_utterances_give():
    model = TinyNetwork().eval()
    waveforms = [make_pair(f"x_{n}", n / RATE).noisy for n in (9_000, 7_000, 9_030, 1, 100, 9_000)]
    results = dict(enhance_utterances(model, waveforms))
    assert sorted(results) == list(range(6))
    for index, waveform in enumerate(waveforms):
        with torch.no_grad():
            alone = enhance_waveform(model, torch.from_numpy(waveform)[None])[0].numpy()
        assert results[index].shape == waveform.shape
        assert np.allclose(results[index], alone, atol=1e-6)


def test_padding_would_change_the_result():
    model = TinyNetwork().eval()
    waveform = make_pair("x", 0.8).noisy
    ((_, whole),) = enhance_utterances(model, [waveform])
    ((_, padded),) = enhance_utterances(model, [np.pad(waveform, (0, 128 * 100))])
    inner = slice(2_000, len(waveform) - 2_000)
    assert np.abs(whole[inner] - padded[inner]).max() > 1e-3


@pytest.mark.numerics
def test_modes_gradients_and_random_streams_are_as_before():
    model = TinyNetwork().train()
    model.norm.eval()
    stream = torch.get_rng_state()
    for _, enhanced in enhance_utterances(model, [make_pair("x", 0.3).noisy] * 2, batch_seconds=0.1):
        assert model.training
        assert not torch.is_inference_mode_enabled()
        assert np.isfinite(enhanced).all()
    assert model.training
    assert model.dropout.training
    assert not model.norm.training
    assert torch.equal(torch.get_rng_state(), stream)
    model(torch.randn(1, 257, 5, dtype=torch.complex64)).abs().sum().backward()
    assert model.mix.weight.grad is not None


def test_modes_are_restored_after_a_failure():
    model = TinyNetwork().train()

    def fail() -> None:
        with evaluating(model):
            assert not model.dropout.training
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fail()
    assert model.dropout.training


@pytest.mark.numerics
def test_post_processing_is_applied_and_checked():
    model = TinyNetwork().eval()
    waveform = make_pair("x", 0.5).noisy
    ((_, plain),) = enhance_utterances(model, [waveform])
    ((_, stretched),) = enhance_utterances(model, [waveform], post_processing="pcs")
    assert np.allclose(stretched, pcs(torch.from_numpy(plain)[None])[0], atol=1e-6)
    with pytest.raises(ValueError, match="'psc'"):
        next(enhance_utterances(model, [waveform], post_processing="psc"))


def test_validation_is_the_mean_of_the_scores(pairs, pool):
    model = TinyNetwork()
    enhanced = dict(enhance_utterances(model, [pair.noisy for pair in pairs]))
    scored = [score_with_errors(p.clean, enhanced[i], RATE).values for i, p in enumerate(pairs)]
    result = validate(model, pairs, pool)
    assert list(result) == ["val/pesq_wb", "val/stoi"]
    assert result["val/pesq_wb"] == pytest.approx(np.mean([s["pesq_wb"] for s in scored]))
    assert result["val/stoi"] == pytest.approx(np.mean([s["stoi"] for s in scored]))


def test_validation_goes_on_beside_the_training_and_names_what_failed(pairs, pool):
    model = TinyNetwork()
    silent = FakePair("silent", np.zeros(8_000, np.float32), np.zeros(8_000, np.float32))
    running = start_validation(model, [*pairs, silent], pool)
    with torch.no_grad():
        model.mix.weight.zero_()  # what is measured is the network of the start
    result = running.collect()
    assert running.done()
    assert result == validate(TinyNetwork(), pairs, pool)
    assert list(running.errors()) == ["silent"]
    assert "reference is silent" in running.errors()["silent"]


def test_validation_of_nothing_measurable_is_missing(pool):
    silent = FakePair("silent", np.zeros(8_000, np.float32), np.zeros(8_000, np.float32))
    assert np.isnan(list(validate(TinyNetwork(), [silent], pool).values())).all()


def test_a_row_per_test_utterance(pairs, pool, tmp_path):
    silent = FakePair("c_1", np.zeros(8_000, np.float32), pairs[1].noisy[:8_000])
    kept = {}
    frame = score_test(
        TinyNetwork(),
        [*pairs, silent],
        Evaluation(),
        pool,
        cache=tmp_path,
        keep=lambda pair, enhanced: kept.update({pair.name: enhanced}),
    )
    assert list(frame) == [
        *("utterance", "speaker", "snr", "noise", *usual()),
        *("seconds", "error", "noisy_pesq_wb", "noisy_stoi"),
    ]
    assert list(frame["utterance"]) == ["a_1", "b_1", "b_2", "c_1"]
    for index, pair in enumerate(pairs):
        expected = score_with_errors(pair.clean, kept[pair.name], RATE).values
        assert frame.loc[index, list(usual())].to_dict() == expected
        noisy = score_with_errors(pair.clean, pair.noisy, RATE).values
        assert frame.loc[index, "noisy_pesq_wb"] == noisy["pesq_wb"]
        assert frame.loc[index, "noisy_stoi"] == noisy["stoi"]
    assert frame["error"].isna().tolist() == [True, True, True, False]
    assert frame.loc[3, "error"] == f"{', '.join(usual())}: the reference is silent"
    assert frame.loc[3, list(usual())].isna().all()
    assert frame.loc[0, ["speaker", "snr", "noise", "seconds"]].tolist() == ["a", 2.5, "cafe", 1.2]
    assert pd.isna(frame.loc[2, "noise"])

    path = tmp_path / "scores" / "x.parquet"
    write_parquet(path, frame)
    pd.testing.assert_frame_equal(pd.read_parquet(path), frame)
    assert [p.name for p in path.parent.iterdir()] == ["x.parquet"]


def test_noisy_scores_are_measured_once_per_content(pairs, pool, tmp_path):
    first = noisy_scores(pairs, pool, cache=tmp_path)
    broken_pool = MetricPool(0)
    broken_pool.close()
    pd.testing.assert_frame_equal(noisy_scores(pairs, broken_pool, cache=tmp_path), first)
    with pytest.raises(RuntimeError, match="closed"):
        noisy_scores([pairs[0], make_pair("b_1", 0.9, 0.3)], broken_pool, cache=tmp_path)


def _ask_for_noisy_scores(cache: Path, log: Path) -> None:
    class Counting(MetricPool):
        def submit(self, *arguments, **options):
            with log.open("a") as handle:
                handle.write("x")
            return super().submit(*arguments, **options)

    with Counting(0) as pool:
        noisy_scores([make_pair("x", 0.8), make_pair("y", 0.8)], pool, cache=cache)


def test_of_processes_that_ask_at_once_one_measures(tmp_path):
    context = multiprocessing.get_context("fork")
    askers = [
        context.Process(target=_ask_for_noisy_scores, args=(tmp_path, tmp_path / "log")) for _ in range(3)
    ]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join(60)
        assert asker.exitcode == 0
    assert (tmp_path / "log").read_text() == "xx"


def test_the_kept_utterances_span_the_noisy_scores():
    pairs = [make_pair(f"p_{i:02}", 0.01) for i in range(11)]
    pesq = [3.0, 1.0, 2.0, 1.5, np.nan, 2.5, 1.2, 1.9, 2.2, 4.0, 1.7]
    noisy = pd.DataFrame({"utterance": [p.name for p in pairs], "pesq_wb": pesq})
    chosen = [pair.name for pair in fixed_utterances(pairs, noisy, 6)]
    assert chosen == ["p_04", "p_06", "p_10", "p_02", "p_05", "p_09"]
    assert [p.name for p in fixed_utterances(pairs[::-1], noisy, 6)] == chosen
    assert len(fixed_utterances(pairs, noisy, 20)) == 11
    assert len(fixed_utterances(pairs[:1], noisy, 6)) == 1


@pytest.mark.numerics
def test_audio_is_written_to_listen_to(pairs, tmp_path):
    write_audio(tmp_path, pairs[0])
    write_audio(tmp_path, pairs[0], 2 * pairs[0].clean, label="-first")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "a_1-clean.wav",
        "a_1-enhanced-first.wav",
        "a_1-noisy.wav",
    ]
    audio, rate = soundfile.read(tmp_path / "a_1-noisy.wav")
    assert rate == RATE
    assert np.allclose(audio, np.clip(pairs[0].noisy, -1, 1), atol=1 / 32768)


def test_real_time_factor_is_the_time_of_the_network(pairs):
    class Slow(nn.Module):
        def forward(self, spectrogram):
            import time

            time.sleep(0.12)
            return spectrogram

    assert 0.1 <= real_time_factor(Slow(), pairs) < 0.3
