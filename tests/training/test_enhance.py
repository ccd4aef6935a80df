import json

import numpy as np
import pytest
import soundfile
import torch
from torch import nn
from typer.testing import CliRunner

from ablate.models.errors import InputError
from ablate.models.spectral import analyse, synthesise
from ablate.training.enhance import (
    checkpoint_of_run,
    enhance_blocks,
    enhance_file,
    exactly,
    plan_outputs,
    resampled,
)
from ablate.training.metrics import registry
from ablate.training.pcs import pcs

RATE = 16_000


class Halve(nn.Module):
    """Acts on each bin alone, so that cutting into chunks changes nothing but the edges."""

    def forward(self, spectrogram: torch.Tensor) -> torch.Tensor:
        return 0.5 * spectrogram


class OverTime(nn.Module):
    """Has statistics over time, as the real networks do."""

    def forward(self, spectrogram: torch.Tensor) -> torch.Tensor:
        return spectrogram / (1 + spectrogram.abs().mean(dim=(1, 2), keepdim=True))


def noise(samples: int, channels: int = 1, level: float = 0.1) -> np.ndarray:
    return (level * np.random.default_rng(0).standard_normal((samples, channels))).astype(np.float32)


def through(model, source, target, **options):
    enhance_file(model, source, target, **options)
    audio, rate = soundfile.read(target, always_2d=True)
    return audio, rate, soundfile.info(target)


def in_blocks(model, audio, *, chunk, overlap, block=1_000):
    pieces = (audio[k : k + block] for k in range(0, len(audio), block))
    return np.concatenate(
        list(enhance_blocks(model, pieces, finish=lambda x: x, chunk=chunk, overlap=overlap))
    )


@pytest.mark.numerics
@pytest.mark.parametrize("samples", [1, 4_000, 4_001, 4_401, 7_600, 7_601, 7_999, 23_456])
def test_chunks_join_to_the_whole(samples):
    audio = noise(samples, 2)
    result = in_blocks(Halve(), audio, chunk=4_000, overlap=400)
    assert result.shape == audio.shape
    assert np.allclose(result, 0.5 * audio, atol=1e-6)


@pytest.mark.numerics
def test_what_fits_a_chunk_is_enhanced_whole_and_the_rest_is_not():
    audio = noise(9_000)
    audio[:4_000] *= 5
    with torch.no_grad():
        whole = synthesise(OverTime()(analyse(torch.from_numpy(audio.T))), len(audio))[0].numpy()
    assert np.allclose(in_blocks(OverTime(), audio, chunk=9_000, overlap=500)[:, 0], whole, atol=1e-6)
    cut = in_blocks(OverTime(), audio, chunk=4_000, overlap=500)[:, 0]
    assert np.abs(cut - whole).max() > 1e-2


@pytest.mark.numerics
def test_the_fade_between_chunks_is_linear():
    class Count(nn.Module):
        def __init__(self):
            super().__init__()
            self.calls = 0

        def forward(self, spectrogram):
            self.calls += 1
            return self.calls * spectrogram

    result = in_blocks(Count(), np.ones((6_000, 1), np.float32), chunk=4_000, overlap=999)[:, 0]
    assert np.allclose(result[:3_001], 1, atol=1e-5)
    assert np.allclose(result[3_001:4_000], 1 + np.arange(1, 1_000) / 1_000, atol=1e-5)
    assert np.allclose(result[4_000:], 2, atol=1e-5)


def test_an_overlap_beyond_half_a_chunk_is_refused():
    with pytest.raises(ValueError, match="overlap of 600"):
        in_blocks(Halve(), noise(5_000), chunk=1_000, overlap=600)


def test_resampling_in_pieces_and_exact_length():
    audio = noise(10_001, 2)
    pieces = [audio[:3], audio[3:7_000], audio[7_000:]]
    there = list(resampled(pieces, 44_100, RATE, 2))
    back = np.concatenate(list(exactly(resampled(there, RATE, 44_100, 2), 10_001, 2)))
    assert back.shape == audio.shape
    assert list(exactly(iter([audio]), 10_003, 2))[-1].shape == (2, 2)


@pytest.mark.numerics
@pytest.mark.parametrize(
    ("rate", "channels", "suffix", "subtype"),
    [
        (RATE, 1, ".wav", "PCM_16"),
        (8_000, 1, ".wav", "PCM_16"),
        (48_000, 2, ".wav", "PCM_24"),
        (44_100, 2, ".flac", "PCM_24"),
        (22_050, 1, ".flac", "PCM_16"),
        (RATE, 3, ".wav", "FLOAT"),
        (11_025, 1, ".aiff", "PCM_16"),
    ],
)
def test_rate_length_channels_and_sample_format_are_kept(tmp_path, rate, channels, suffix, subtype):
    time_axis = np.arange(rate + 7) / rate
    audio = np.stack([0.3 * np.sin(2 * np.pi * 440 * (k + 1) * time_axis) for k in range(channels)], axis=1)
    source = tmp_path / f"in{suffix}"
    soundfile.write(source, audio, rate, subtype=subtype)
    result, result_rate, info = through(Halve(), source, tmp_path / f"out{suffix}")
    assert (result_rate, info.subtype, info.format) == (rate, subtype, soundfile.info(source).format)
    assert result.shape == audio.shape
    inner = slice(rate // 50, -rate // 50)
    assert np.allclose(result[inner], 0.5 * audio[inner], atol=2e-3)


@pytest.mark.parametrize("rate", [8_000, RATE, 44_100, 48_000])
@pytest.mark.parametrize("samples", [0, 1, 2, 300])
def test_the_shortest_files_keep_their_length(tmp_path, rate, samples):
    source = tmp_path / "in.wav"
    soundfile.write(source, noise(samples, 2), rate)
    result, _, _ = through(Halve(), source, tmp_path / "out.wav", pcs=samples % 2 == 0)
    assert result.shape == (samples, 2)


def test_silence_stays_silence_and_clipped_speech_passes(tmp_path):
    for name, audio in {
        "silent": np.zeros((5_000, 1)),
        "clipped": np.clip(noise(5_000, 1, 3), -1, 1),
    }.items():
        soundfile.write(tmp_path / f"{name}.wav", audio, RATE)
        for stretched in (False, True):
            result, _, _ = through(
                Halve(), tmp_path / f"{name}.wav", tmp_path / "out" / f"{name}.wav", pcs=stretched
            )
            assert result.any() == audio.any()
            assert np.isfinite(result).all()


@pytest.mark.numerics
def test_contrast_stretching_of_a_file_is_that_of_its_waveform(tmp_path):
    audio = noise(9_000)
    soundfile.write(tmp_path / "in.wav", audio, RATE, subtype="FLOAT")
    result, _, _ = through(Halve(), tmp_path / "in.wav", tmp_path / "out.wav", pcs=True)
    expected = pcs(0.5 * torch.from_numpy(audio.T))[0].numpy()
    assert np.allclose(result[:, 0], expected, atol=1e-4)
    soundfile.write(tmp_path / "long.wav", noise(50_000, 2), RATE, subtype="FLOAT")
    result, _, _ = through(
        Halve(), tmp_path / "long.wav", tmp_path / "out.wav", pcs=True, chunk_seconds=1, overlap_seconds=0.1
    )
    assert np.abs(result).max() == pytest.approx(1, abs=1e-6)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.wav", "long.wav", "out.wav"]


def test_a_file_that_is_not_finite_leaves_nothing_behind(tmp_path):
    audio = noise(1_000)
    audio[10:13] = np.nan
    soundfile.write(tmp_path / "in.wav", audio, RATE, subtype="FLOAT")
    with pytest.raises(ValueError, match=r"in\.wav has 3 samples"):
        enhance_file(Halve(), tmp_path / "in.wav", tmp_path / "out.wav")
    assert [p.name for p in tmp_path.iterdir()] == ["in.wav"]


def test_outputs_are_planned_before_anything_is_done(tmp_path):
    music, out = tmp_path / "a" / "deep", tmp_path / "out"
    music.mkdir(parents=True)
    soundfile.write(music / "x.flac", noise(100), RATE)
    soundfile.write(tmp_path / "a" / "y.ogg", noise(8_000), RATE)
    soundfile.write(tmp_path / "z.wav", noise(100), RATE)
    (music / "notes.txt").write_text("no audio")
    (music / "w.wav").write_text("no audio")
    planned, (refused,) = plan_outputs([tmp_path / "a", tmp_path / "z.wav"], out)
    assert planned == [
        (music / "x.flac", out / "deep" / "x.flac"),
        (tmp_path / "a" / "y.ogg", out / "y.wav"),
        (tmp_path / "z.wav", out / "z.wav"),
    ]
    assert "w.wav cannot be read as audio" in refused
    assert not out.exists()
    result, rate, info = through(Halve(), tmp_path / "a" / "y.ogg", out / "y.wav")
    assert (len(result), rate, info.subtype) == (8_000, RATE, "PCM_16")


def test_unusable_inputs_are_named(tmp_path):
    (tmp_path / "bad.wav").write_text("no audio")
    (tmp_path / "empty").mkdir()
    soundfile.write(tmp_path / "x.wav", noise(100), RATE)
    soundfile.write(tmp_path / "x.ogg", noise(8_000), RATE)
    with pytest.raises(InputError, match=r"none\.wav does not exist"):
        plan_outputs([tmp_path / "none.wav"], tmp_path / "out")
    with pytest.raises(InputError, match="no audio file below"):
        plan_outputs([tmp_path / "empty"], tmp_path / "out")
    with pytest.raises(ValueError, match=r"bad\.wav cannot be read as audio"):
        plan_outputs([tmp_path / "bad.wav"], tmp_path / "out")
    with pytest.raises(ValueError, match=r"x\.wav and .*x\.ogg would both be written"):
        plan_outputs([tmp_path / "x.wav", tmp_path / "x.ogg"], tmp_path / "out")
    with pytest.raises(ValueError, match=r"x\.wav would be overwritten"):
        plan_outputs([tmp_path / "x.wav"], tmp_path)


def test_runs_are_found_by_the_beginning_of_their_signature(tmp_path):
    for name in ("abc1", "abd2", "fff3"):
        (tmp_path / "runs" / name / "checkpoints").mkdir(parents=True)
    best = tmp_path / "runs" / "abc1" / "checkpoints" / "best.pt"
    best.touch()
    assert checkpoint_of_run(tmp_path, "abc") == best
    with pytest.raises(ValueError, match="'ab' matches 2 runs: abc1, abd2"):
        checkpoint_of_run(tmp_path, "ab")
    with pytest.raises(InputError, match="no selected checkpoint yet"):
        checkpoint_of_run(tmp_path, "fff3")
    with pytest.raises(InputError, match=r"no run 'zzz' .*abc1, abd2, fff3"):
        checkpoint_of_run(tmp_path, "zzz")


def ablate(*arguments):
    from ablate.reports.cli import app

    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.numerics
def test_enhance_from_the_command_line(tmp_path):
    from ablate.models import build_model
    from ablate.models.config import ModelConfig
    from ablate.training.checkpoint import load_model, write

    config = ModelConfig(channels=4, layers=1, crossband_layers=1)
    model = build_model(config)
    checkpoint = tmp_path / "root" / "runs" / "abc1" / "checkpoints" / "best.pt"
    write(checkpoint, {"kind": "weights", "model": config.model_dump(), "weights": model.state_dict()})
    audio = noise(5_000)
    soundfile.write(tmp_path / "in.wav", audio, RATE, subtype="FLOAT")
    out = tmp_path / "out"
    done = ablate("enhance", tmp_path / "in.wav", "-o", out, "--run", "abc", "--root", tmp_path / "root")
    assert done.stdout.strip() == str(out / "in.wav")
    result, _ = soundfile.read(out / "in.wav")
    with torch.no_grad():
        network = load_model(checkpoint)
        expected = synthesise(network(analyse(torch.from_numpy(audio.T))), len(audio))[0].numpy()
    assert np.allclose(result, expected, atol=1e-5)
    done = ablate("enhance", tmp_path / "in.wav", "-o", out)
    assert "either --run or --checkpoint" in str(done.exception)

    batch = tmp_path / "batch"
    for name, samples in (("p1/a", audio), ("p1/b", np.full_like(audio, np.nan)), ("p2/a", audio)):
        (batch / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(batch / f"{name}.wav", samples, RATE, subtype="FLOAT")
    (batch / "p1" / "c.wav").write_bytes(b"RIFF")
    done = ablate("enhance", batch, "-o", out, "--checkpoint", checkpoint)
    assert done.exit_code == 3
    assert done.stdout.split() == [str(out / "p1" / "a.wav"), str(out / "p2" / "a.wav")]
    assert done.stderr.count("not enhanced: ") == 2
    (batch / "p1" / "b.wav").unlink()
    (batch / "p1" / "c.wav").unlink()
    (out / "in.wav").unlink()
    done = ablate("score", batch, out, "--metrics", "si_sdr", "--format", "json")
    assert (done.exit_code, len(json.loads(done.stdout)["utterances"])) == (0, 2)


def test_score_from_the_command_line(tmp_path):
    clean, enhanced = tmp_path / "clean", tmp_path / "enhanced"
    clean.mkdir()
    enhanced.mkdir()
    tone = np.sin(2 * np.pi * 300 * np.arange(RATE) / RATE) * np.sin(2 * np.pi * 3 * np.arange(RATE) / RATE)
    speech = 0.2 * tone[:, None].astype(np.float32) + noise(RATE, level=1e-3)
    for name, level in (("a", 0.001), ("b", 0.05)):
        soundfile.write(clean / f"{name}.wav", speech, RATE)
        soundfile.write(enhanced / f"{name}.flac", speech + noise(RATE, level=level), RATE)
    soundfile.write(clean / "quiet.wav", np.zeros(RATE), RATE)
    soundfile.write(enhanced / "quiet.flac", speech, RATE)

    done = ablate("score", clean, enhanced, "--metrics", "pesq_wb,ssnr", "--format", "json")
    result = json.loads(done.stdout)
    a, b, quiet = result["utterances"]
    assert [row["utterance"] for row in (a, b, quiet)] == ["a", "b", "quiet"]
    assert result["pesq_wb"] == pytest.approx((a["pesq_wb"] + b["pesq_wb"]) / 2)
    assert a["pesq_wb"] > b["pesq_wb"]
    assert quiet["pesq_wb"] is None
    assert "reference is silent" in quiet["error"]
    assert "quiet: pesq_wb, ssnr: the reference is silent" in done.stderr
    assert (done.exit_code, quiet["broken"]) == (3, None)

    lines = ablate(
        "score", clean / "a.wav", enhanced / "a.flac", "--metrics", "si_sdr,ssnr", "--format", "csv"
    )
    header, row = lines.stdout.splitlines()
    assert header == "utterance,si_sdr,ssnr,error,broken"
    assert row.split(",")[::2] == ["a", str(a["ssnr"]), ""]
    assert "mean of 3" in ablate("score", clean, enhanced, "--metrics", "ssnr", "--jobs", 1).stdout

    for convention, names in (("loizou", ["csig", "covl"]), ("ports", ["csig_ports", "covl_ports"])):
        command = ("score", clean / "b.wav", enhanced / "b.flac", "--metrics", "csig,covl")
        done = ablate(*command, "--format", "json", "--composite", convention)
        found = json.loads(done.stdout)
        assert found["composite"] == convention
        assert [name for name in found if name[0] == "c" and name != "composite"] == names
        assert ("not Loizou's" in done.stderr) == (convention == "ports")
    refused = ablate(*command, "--composite", "port").exception
    assert "unknown convention 'port' of the composite measures; did you mean 'ports'?" in str(refused)

    (enhanced / "b.flac").rename(enhanced / "c.flac")
    done = ablate("score", clean, enhanced)
    assert isinstance(done.exception, ValueError)
    assert "b.wav" in str(done.exception)
    assert "c.flac" in str(done.exception)
    soundfile.write(enhanced / "c.flac", speech[:-2_000], RATE)
    done = ablate("score", clean / "b.wav", enhanced / "c.flac")
    assert "1.000 s and 0.875 s" in str(done.exception)


def test_broken_output_is_scored_at_the_floor(tmp_path):
    """A system with a silent and a NaN file must not have a better mean than without them."""
    clean, enhanced = tmp_path / "clean", tmp_path / "enhanced"
    clean.mkdir()
    enhanced.mkdir()
    speech = noise(RATE, level=0.1)
    gone = speech.copy()
    gone[100] = np.nan
    for name, output in (("a", speech), ("gone", gone), ("silent", 0 * speech)):
        soundfile.write(clean / f"{name}.wav", speech, RATE, subtype="FLOAT")
        soundfile.write(enhanced / f"{name}.wav", output, RATE, subtype="FLOAT")
    done = ablate("score", clean, enhanced, "--metrics", "si_sdr,ssnr", "--format", "json")
    result = json.loads(done.stdout)
    a, nan, silent = result["utterances"]
    assert (nan["ssnr"], nan["si_sdr"], nan["broken"]) == (-10.0, -30.0, "si_sdr, ssnr")
    assert (silent["si_sdr"], silent["broken"]) == (-30.0, "si_sdr")
    assert result["si_sdr"] == pytest.approx((a["si_sdr"] - 60) / 3)
    assert done.exit_code == 3
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == ["gone", "silent"]
    table = ablate("score", clean, enhanced, "--metrics", "si_sdr,ssnr")
    assert "broken output, counts as the floor: si_sdr 2, ssnr 1" in table.stderr


def test_score_goes_on_past_pairs_that_cannot_be_measured(tmp_path):
    clean, enhanced = tmp_path / "clean", tmp_path / "enhanced"
    clean.mkdir()
    enhanced.mkdir()
    speech = noise(RATE, level=0.1)
    for name in ("cut", "damaged", "stereo", "whole"):
        soundfile.write(clean / f"{name}.wav", speech, RATE)
        soundfile.write(enhanced / f"{name}.wav", speech[:-2_000] if name == "cut" else speech, RATE)
    (enhanced / "damaged.wav").write_bytes(b"RIFF")
    soundfile.write(enhanced / "stereo.wav", np.hstack([1.5 * speech, 0.5 * speech]), RATE, subtype="FLOAT")

    done = ablate("score", clean, enhanced, "--metrics", "ssnr", "--format", "json")
    rows = {row["utterance"]: row for row in json.loads(done.stdout)["utterances"]}
    assert list(rows) == ["cut", "damaged", "stereo", "whole"]
    assert rows["cut"]["ssnr"] is None
    assert "1.000 s and 0.875 s" in rows["cut"]["error"]
    assert "cannot be read" in rows["damaged"]["error"]
    assert rows["stereo"]["ssnr"] == pytest.approx(35)
    assert rows["whole"]["ssnr"] == 35
    assert "2 channels, averaged to one" in done.stderr


def test_a_network_whose_plugin_has_changed_enhances_nothing(tmp_path):
    from ablate.models import ModelConfig, build_model
    from ablate.training.checkpoint import write

    config = ModelConfig(channels=4, layers=1, crossband_layers=1)
    run = tmp_path / "root" / "runs" / "abc1"
    weights = build_model(config).state_dict()
    write(
        run / "checkpoints" / "best.pt", {"kind": "weights", "model": config.model_dump(), "weights": weights}
    )
    plugin = tmp_path / "changed_part.py"
    plugin.write_text("")
    (run / "spec.json").write_text(json.dumps({"plugins": {str(plugin): "0" * 64}}))
    soundfile.write(tmp_path / "in.wav", noise(5_000), RATE)
    done = ablate(
        "enhance", tmp_path / "in.wav", "-o", tmp_path / "out", "--run", "abc", "--root", tmp_path / "root"
    )
    assert "has changed since this run was planned" in str(done.exception)
    assert not list(tmp_path.glob("out/*"))


def test_measures_of_a_plugin_need_no_reference_if_they_say_so(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "METRICS", registry.METRICS.copy())
    plugin = tmp_path / "peak_metric.py"
    plugin.write_text(
        "from ablate.training.metrics.registry import Metric, register\n"
        "register(Metric('peak', 'peak', lambda pair: float(abs(pair.enhanced).max()), floor=0.0,\n"
        "                usual=False, reference_free=True))\n"
    )
    soundfile.write(tmp_path / "a.wav", np.full(RATE, 0.25), RATE)
    asked = ("score", tmp_path / "a.wav", "--no-reference", "--plugin", plugin)
    done = ablate(*asked, "--metrics", "peak", "--format", "json")
    assert json.loads(done.stdout)["peak"] == pytest.approx(0.25, abs=1e-4)
    assert "stoi: needs a clean reference" in str(ablate(*asked, "--metrics", "stoi").exception)
    assert "--no-reference" in str(ablate("score", tmp_path / "a.wav").exception)
