from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from ablate.models import ModelConfig, build_model
from ablate.models.heads import as_complex
from ablate.models.spectral import analyse, synthesise
from ablate.training.config import Evaluation
from ablate.training.evaluate import (
    batch_bound,
    enhance_utterances,
    equal_frames,
    evaluating,
    measure_speed,
    score_test,
)
from ablate.training.files import atomic_write
from ablate.training.metrics import METRICS, score_with_errors
from ablate.training.metrics.registry import usual
from ablate.training.pcs import pcs

RATE = 16_000


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


def test_enhanced_speech_that_is_late_is_measured_and_told(pairs, pool, tmp_path):
    class Late(TinyNetwork):
        domain = "waveform"

        def forward(self, noisy):
            return torch.roll(noisy, 640, dims=-1)

    assert "lag_ms" not in score_test(TinyNetwork(), pairs, Evaluation(), pool, cache=tmp_path)
    frame = score_test(Late(), pairs, Evaluation(), pool, cache=tmp_path)
    assert frame["lag_ms"].tolist() == [40.0] * 3


def test_only_equal_frame_counts_share_a_batch():
    lengths = [16_000, 8_000, 16_010, 16_000, 8_050, 16_127, 16_128]
    batches = equal_frames(lengths, 30)
    assert batches == [[1, 4], [0, 2, 3, 5], [6]]
    assert equal_frames(lengths, 2.1) == [[1, 4], [0, 2], [3, 5], [6]]
    assert equal_frames([10 * RATE, 10 * RATE], 5) == [[0], [1]]


@pytest.mark.numerics
def test_batches_give_what_single_utterances_give(make_pair):
    model = TinyNetwork().eval()
    waveforms = [make_pair(f"x_{n}", n / RATE).noisy for n in (9_000, 7_000, 9_030, 1, 100, 9_000)]
    results = dict(enhance_utterances(model, waveforms))
    assert sorted(results) == list(range(6))
    for index, waveform in enumerate(waveforms):
        with torch.no_grad():
            whole = torch.from_numpy(waveform)[None]
            alone = synthesise(model(analyse(whole)), whole.shape[-1])[0].numpy()
        assert results[index].shape == waveform.shape
        assert np.allclose(results[index], alone, atol=1e-6)


def test_padding_would_change_the_result(make_pair):
    model = TinyNetwork().eval()
    waveform = make_pair("x", 0.8).noisy
    ((_, whole),) = enhance_utterances(model, [waveform])
    ((_, padded),) = enhance_utterances(model, [np.pad(waveform, (0, 128 * 100))])
    inner = slice(2_000, len(waveform) - 2_000)
    assert np.abs(whole[inner] - padded[inner]).max() > 1e-3


@pytest.mark.numerics
def test_modes_gradients_and_random_streams_are_as_before(make_pair):
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
def test_post_processing_is_applied(make_pair):
    model = TinyNetwork().eval()
    waveform = make_pair("x", 0.5).noisy
    ((_, plain),) = enhance_utterances(model, [waveform])
    ((_, stretched),) = enhance_utterances(model, [waveform], evaluation=Evaluation(post_processing="pcs"))
    assert np.allclose(stretched, pcs(torch.from_numpy(plain)[None])[0], atol=1e-6)


@pytest.mark.parametrize("taps", ["centred", "past"])
def test_an_evaluation_uses_some_taps_of_the_filter(taps, make_pair):
    torch.manual_seed(0)
    model = build_model(ModelConfig(channels=16, layers=1, crossband_layers=1, filter_taps=taps)).eval()
    waveform = torch.from_numpy(make_pair("x", 0.5).noisy)[None]
    spectrum = analyse(waveform)
    with torch.inference_mode():
        masks = as_complex(model.head.decoder(model.split(spectrum)).unflatten(-1, (3, 2))).unbind(-1)
    offsets = (-1, 0, 1) if taps == "centred" else (-2, -1, 0)
    for count in (1, 2, 3):
        used = {1: {0}, 2: {0, -1}, 3: set(offsets)}[count]
        model.time_layers, model.band_layers = torch.nn.ModuleList(), torch.nn.ModuleList()
        expected = torch.zeros_like(spectrum)
        for mask, offset in zip(masks, offsets, strict=True):
            if offset in used:
                moved = torch.roll(spectrum, -offset, -1)
                edge = slice(0, -offset) if offset < 0 else slice(spectrum.shape[-1] - offset, None)
                moved[..., edge] = 0
                expected += mask * moved
        ((_, found),) = enhance_utterances(model, [waveform[0].numpy()], evaluation=Evaluation(taps=count))
        wanted = synthesise(expected, waveform.shape[-1])[0]
        assert np.allclose(found, wanted, atol=1e-5)
    assert model.head.used == 3


def test_a_share_of_the_noisy_signal_comes_back(make_pair):
    waveform = make_pair("x", 0.5).noisy
    model = TinyNetwork().eval()
    ((_, plain),) = enhance_utterances(model, [waveform])
    ((_, mixed),) = enhance_utterances(model, [waveform], evaluation=Evaluation(mix_back=0.25))
    assert np.allclose(mixed, 0.75 * plain + 0.25 * waveform, atol=1e-6)


def test_further_measures_are_taken_where_they_are_asked_for(pairs, pool, tmp_path):
    asked = Evaluation(metrics=("lsd", "stoi"))
    frame = score_test(TinyNetwork().eval(), pairs[:1], asked, pool, cache=tmp_path)
    assert list(frame)[4 : 5 + len(usual())] == [*usual(), "lsd"]
    assert frame["lsd"].notna().all()
    with pytest.raises(ValueError, match=r"'lsdd'.*did you mean 'lsd'"):
        Evaluation(metrics=("lsdd",))


def test_a_row_per_test_utterance(pairs, silent_reference, pool, tmp_path):
    kept = {}
    frame = score_test(
        TinyNetwork(),
        [*pairs, silent_reference],
        Evaluation(),
        pool,
        cache=tmp_path,
        keep=lambda pair, enhanced: kept.update({pair.name: enhanced}),
    )
    assert list(frame) == [
        *("utterance", "speaker", "snr", "noise", *usual()),
        *("seconds", "error", "broken", "noisy_pesq_wb", "noisy_stoi"),
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

    assert frame["broken"].isna().all()

    path = tmp_path / "scores" / "x.parquet"
    with atomic_write(path) as temporary:
        frame.to_parquet(temporary, index=False)
    pd.testing.assert_frame_equal(pd.read_parquet(path), frame)


class Broken(nn.Module):
    """Puts out silence, or what is not finite, for utterances of some frame count."""

    def __init__(self, frames: int, value: float) -> None:
        super().__init__()
        self.frames, self.value = frames, value

    def forward(self, spectrogram: torch.Tensor) -> torch.Tensor:
        return spectrogram * self.value if spectrogram.shape[-1] == self.frames else spectrogram


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_a_broken_output_scores_the_floor_and_is_counted(value, pairs, silent_reference, pool, tmp_path):
    frames = 1 + (len(pairs[1].noisy) + 256) // 128
    frame = score_test(
        Broken(frames, value), [*pairs, silent_reference], Evaluation(), pool, cache=tmp_path
    ).set_index("utterance")
    broken = frame.loc["b_1", "broken"].split(", ")
    assert {"pesq_wb", "pesq_nb", "csig", "si_sdr"} <= set(broken) <= set(usual())
    assert (len(broken) == len(usual())) == np.isnan(value)
    assert all(frame.loc["b_1", name] == METRICS[name].floor for name in broken)
    assert frame.loc["b_1", list(usual())].notna().all()
    assert frame.loc["b_1", "error"]
    assert frame["broken"].notna().sum() == 1
    assert frame.loc["c_1", list(usual())].isna().all()
    others = score_test(nn.Identity(), pairs, Evaluation(), pool, cache=tmp_path).set_index("utterance")
    assert frame.loc["a_1", list(usual())].equals(others.loc["a_1", list(usual())])


def test_speed_is_told_by_the_clock_and_by_the_processor(pairs):
    class Waiting(nn.Module):
        def forward(self, spectrogram):
            import time

            time.sleep(0.12)
            return spectrogram

    found = measure_speed(Waiting(), pairs)
    assert found["real_time_factor"] >= 0.1
    assert 0 < found["processor_time_factor"] < found["real_time_factor"]
    assert found["other_cores_busy"] >= 0


def test_how_utterances_are_batched_depends_on_the_device_alone(make_pair):
    waveforms = [make_pair(f"u{number}", 1.0).noisy for number in range(50)]
    sizes = {}
    for device in ("cpu", "cuda"):
        batches = equal_frames([len(w) for w in waveforms], batch_bound(torch.device(device)))
        sizes[device] = [len(batch) for batch in batches]
    assert sizes == {"cpu": [30, 20], "cuda": [50]}
    assert batch_bound(torch.device("meta")) == batch_bound(torch.device("cpu"))


def test_speed_on_one_thread_leaves_the_threads_as_they_were(pairs):
    class Counting(nn.Module):
        seen: ClassVar[list[int]] = []

        def forward(self, spectrogram):
            self.seen.append(torch.get_num_threads())
            return spectrogram

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        found = measure_speed(Counting(), pairs)
        assert (torch.get_num_threads(), {1, 2} == set(Counting.seen)) == (2, True)
        assert 0 < found["one_thread_factor"] < 10
    finally:
        torch.set_num_threads(threads)
