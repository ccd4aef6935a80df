import math
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import psutil
import pytest
import scipy.linalg
import soxr

from ablate.training.metrics import (
    METRICS,
    MetricPool,
    MetricProcessError,
    registry,
    score,
    score_with_errors,
    scores,
)
from ablate.training.metrics import composite as fast
from ablate.training.metrics.registry import Metric, usual

RATE = 16_000


def speech_like(seconds: float = 1.5, rate: int = RATE, seed: int = 0) -> np.ndarray:
    """Bursts of a gliding harmonic tone: loud and soft parts, as PESQ wants them."""
    time_axis = np.arange(round(seconds * rate)) / rate
    pitch = 2 * np.pi * np.cumsum(120 + 30 * np.sin(2 * np.pi * 1.3 * time_axis)) / rate
    voice = sum(np.sin(k * pitch) / k for k in range(1, 20))
    envelope = np.clip(np.sin(2 * np.pi * 2.5 * time_axis), 0, None) ** 2
    noise = np.random.default_rng(seed).standard_normal(len(time_axis))
    return 0.1 * voice * envelope + 1e-3 * noise


def degraded(clean: np.ndarray, level: float = 0.02, seed: int = 1) -> np.ndarray:
    return clean + level * np.random.default_rng(seed).standard_normal(len(clean))


# The composite again, one frame and one band at a time and by other means than the vectorised one.


def slow_frames(signal):
    window = [0.5 - 0.5 * math.cos(2 * math.pi * n / 481) for n in range(1, 481)]
    return [signal[k * 120 : k * 120 + 480] * window for k in range(int(len(signal) / 120 - 4))]


def slow_llr(clean, enhanced):
    def lags(frame):
        return np.array([frame[: 480 - k] @ frame[k:] for k in range(17)])

    values = []
    for c, e in zip(slow_frames(clean), slow_frames(enhanced), strict=True):
        energies = []
        for own in (lags(e), lags(c)):
            filters = np.concatenate([[1], -scipy.linalg.solve_toeplitz(own[:16], own[1:])])
            energies.append(filters @ scipy.linalg.toeplitz(lags(c)) @ filters)
        values.append(math.log(energies[0] / energies[1]))
    return np.mean(sorted(values)[: round(0.95 * len(values))])


def slow_wss(clean, enhanced, divisor=1):
    gains = []
    for centre, width in zip(fast.CENTRES, fast.BANDWIDTHS, strict=True):
        shape = [(k - math.floor(centre / 15.625)) / (width / 15.625) for k in range(512)]
        row = [math.exp(-11 * z * z + math.log(70 / width)) for z in shape]
        gains.append([gain if gain > math.exp(-30 / 4.606) else 0 for gain in row])

    def levels(frame):
        power = np.abs(np.fft.fft(frame, 1024)) ** 2
        return [10 * math.log10(max(np.dot(row, power[:512]), 1e-10)) for row in gains]

    def weights(bands, slopes):
        result = []
        for i in range(24):
            n = i
            if slopes[i] > 0:
                while n < 24 and slopes[n] > 0:
                    n += 1
                peak = bands[n - 1]
            else:
                while n >= 0 and slopes[n] <= 0:
                    n -= 1
                peak = bands[n + 1]
            result.append(20 / (20 + max(bands) - bands[i]) / (1 + peak - bands[i]))
        return result

    values = []
    for c, e in zip(slow_frames(clean / divisor), slow_frames(enhanced / divisor), strict=True):
        bands = levels(c), levels(e)
        slopes = [[b[i + 1] - b[i] for i in range(24)] for b in bands]
        both = [
            (a + b) / 2
            for a, b in zip(weights(bands[0], slopes[0]), weights(bands[1], slopes[1]), strict=True)
        ]
        values.append(sum(w * (x - y) ** 2 for w, x, y in zip(both, *slopes, strict=True)) / sum(both))
    return np.mean(sorted(values)[: round(0.95 * len(values))])


def slow_ssnr(clean, enhanced):
    values = []
    for c, e in zip(slow_frames(clean), slow_frames(enhanced), strict=True):
        eps = np.finfo(float).eps
        values.append(min(max(10 * math.log10((c @ c) / ((c - e) @ (c - e) + eps) + eps), -10), 35))
    return np.mean(values)


@pytest.mark.numerics
@pytest.mark.parametrize("level", [0.003, 0.1])
def test_composite_parts_agree_with_a_slow_restatement(level):
    clean = speech_like(0.5) + 0.003 * np.random.default_rng(5).standard_normal(8_000)
    enhanced = degraded(clean, level)
    framed = fast.frames(clean), fast.frames(enhanced)
    assert fast.llr(*framed) == pytest.approx(slow_llr(clean, enhanced), rel=1e-6)
    assert fast.wss(*framed) == pytest.approx(slow_wss(clean, enhanced), rel=1e-9)
    assert fast.ssnr(*framed) == pytest.approx(slow_ssnr(clean, enhanced), rel=1e-9)


@pytest.mark.numerics
def test_the_composite_of_float_fed_ports_is_that_of_a_wss_scaled_twice():
    clean = speech_like(1.0) + 0.003 * np.random.default_rng(5).standard_normal(RATE)
    enhanced = degraded(clean)
    names = ["pesq_wb", *registry.COMPOSITE, *registry.by_convention(registry.COMPOSITE, "ports"), "ssnr"]
    found = score_with_errors(clean, enhanced, RATE, names).values
    llr, wss = slow_llr(clean, enhanced), slow_wss(clean, enhanced, divisor=32_768)
    pesq, ssnr = found["pesq_wb"], slow_ssnr(clean, enhanced)
    assert found["csig_ports"] == pytest.approx(3.093 - 1.029 * llr + 0.603 * pesq - 0.009 * wss, rel=1e-6)
    assert found["cbak_ports"] == pytest.approx(1.634 + 0.478 * pesq - 0.007 * wss + 0.063 * ssnr, rel=1e-6)
    assert found["covl_ports"] == pytest.approx(1.594 + 0.805 * pesq - 0.512 * llr - 0.007 * wss, rel=1e-6)
    for name in registry.COMPOSITE:
        assert found[f"{name}_ports"] > found[name] + 0.02


def test_composite_on_known_numbers_and_its_bounds():
    csig, cbak, covl = fast.composite(pesq_wb=2.0, llr=0.6, wss=35.0, ssnr=2.0)
    assert (csig, cbak, covl) == pytest.approx((3.3666, 2.471, 2.6518))
    assert fast.composite(4.64, 0.0, 0.0, 35.0) == (5.0, 5.0, 5.0)
    assert fast.composite(1.0, 5.0, 300.0, -10.0) == (1.0, 1.0, 1.0)


def test_frames_leave_the_last_full_one_out():
    assert fast.frames(np.ones(600)).shape == (1, 480)
    assert fast.frames(np.ones(48_000)).shape == (396, 480)
    with pytest.raises(ValueError, match="599 samples"):
        fast.frames(np.ones(599))


def test_frames_of_digital_silence_do_not_spoil_the_distances():
    clean = speech_like(1.0)
    enhanced = degraded(clean)
    enhanced[4_000:6_000] = 0
    framed = fast.frames(clean), fast.frames(enhanced)
    assert math.isfinite(fast.llr(*framed))
    assert math.isfinite(fast.wss(*framed))


@pytest.mark.numerics
def test_identical_signals_score_highest():
    clean = speech_like()
    values = score(clean, clean, RATE)
    assert list(values) == [
        *("pesq_wb", "pesq_nb", "stoi", "estoi", "csig", "cbak", "covl", "ssnr", "si_sdr"),
    ]
    assert values["pesq_wb"] == pytest.approx(4.6439, abs=1e-3)
    assert values["stoi"] == pytest.approx(1, abs=1e-6)
    assert values["estoi"] == pytest.approx(1, abs=1e-6)
    assert values["csig"] == values["cbak"] == values["covl"] == 5
    assert values["ssnr"] == 35
    assert values["si_sdr"] > 100


def test_more_noise_scores_lower_in_every_measure():
    clean = speech_like()
    little, much = (score(clean, degraded(clean, level), RATE) for level in (0.002, 0.05))
    assert all(little[name] > much[name] for name in usual())


@pytest.mark.numerics
def test_si_sdr_is_the_set_ratio_and_ignores_scale():
    clean = speech_like()
    noise = np.random.default_rng(3).standard_normal(len(clean))
    noise -= (noise @ clean) / (clean @ clean) * clean
    noise *= np.linalg.norm(clean) / np.linalg.norm(noise) / math.sqrt(10)
    for scale in (1, 0.1):
        values = score_with_errors(clean, scale * (clean + noise), RATE, ["si_sdr"]).values
        assert values["si_sdr"] == pytest.approx(10, abs=1e-6)


def test_scores_repeat_and_leave_the_random_stream_alone():
    clean = speech_like()
    enhanced = degraded(clean)
    before = np.random.get_state()[1].copy()
    assert score(clean, enhanced, RATE) == score(clean, enhanced, RATE)
    assert (np.random.get_state()[1] == before).all()


@pytest.mark.parametrize("rate", [8_000, 22_050, 48_000])
def test_other_sample_rates_are_resampled(rate):
    clean = speech_like(rate=rate)
    enhanced = degraded(clean)
    expected = score(soxr.resample(clean, rate, RATE), soxr.resample(enhanced, rate, RATE), RATE)
    assert score(clean, enhanced, rate) == expected
    assert all(map(math.isfinite, expected.values()))


def test_integer_samples_mean_the_same_as_floats():
    clean = np.round(speech_like() * 32768).astype(np.int16)
    enhanced = np.round(degraded(speech_like()) * 32768).astype(np.int16)
    assert score(clean, enhanced, RATE) == score(clean / 32768, enhanced / 32768, RATE)


@pytest.mark.parametrize(
    ("clean", "enhanced", "failing", "reason"),
    [
        (np.zeros(RATE), degraded(np.zeros(RATE)), set(usual()), "reference is silent"),
        (speech_like(1.0), np.full(RATE, np.nan), set(usual()), "16000 non-finite samples"),
        (speech_like(1.0)[:0], speech_like(1.0)[:0], set(usual()), "is empty"),
        (
            speech_like(1.0)[:1],
            speech_like(1.0)[:1],
            set(usual()) - {"si_sdr"},
            "too short|too few|less than one frame",
        ),
        (speech_like(0.2), speech_like(0.2), {"pesq_wb", "pesq_nb", "stoi"}, "too short|too few"),
        (speech_like(1.0), np.zeros(RATE), {"pesq_wb", "pesq_nb", "csig", "si_sdr"}, "silent"),
    ],
    ids=["silent reference", "nan", "empty", "one sample", "too short", "silent output"],
)
def test_a_metric_that_fails_is_missing_with_its_reason(clean, enhanced, failing, reason):
    import re

    values, errors, _ = score_with_errors(clean, enhanced, RATE)
    assert set(values) == set(usual())
    assert failing <= set(errors)
    for name in usual():
        assert math.isnan(values[name]) == (name in errors)
    for name in failing:
        assert re.search(reason, errors[name])


def test_clipped_speech_is_scored():
    clean = speech_like()
    values, errors, _ = score_with_errors(clean, np.clip(clean, -0.05, 0.05), RATE)
    assert not errors
    assert 1 < values["pesq_wb"] < 4.6


@pytest.mark.parametrize(
    ("clean", "enhanced", "rate", "message"),
    [
        (np.ones(5), np.ones(6), RATE, "5 clean and 6 enhanced"),
        (np.ones((2, 5)), np.ones((2, 5)), RATE, r"\(2, 5\)"),
        (np.ones(5), np.ones(5), 0, "sample rate 0"),
    ],
)
def test_unusable_arguments_are_refused(clean, enhanced, rate, message):
    with pytest.raises(ValueError, match=message):
        score(clean, enhanced, rate)


def test_an_unknown_metric_is_refused():
    with pytest.raises(ValueError, match="'mos'"):
        score_with_errors(np.ones(5), np.ones(5), RATE, ["mos"])


@pytest.fixture(scope="module")
def pool():
    with MetricPool(1) as shared:
        yield shared


def test_the_pool_gives_what_score_gives_in_order(pool):
    clean = speech_like()
    pairs = [(clean, degraded(clean, level)) for level in (0.1, 0.01, 0.05)]
    expected = [score_with_errors(*pair, RATE) for pair in pairs]
    assert list(pool.map(pairs)) == expected
    with MetricPool(0) as own:
        assert list(own.map(pairs)) == expected


def test_the_pool_measures_only_what_is_asked_for(pool):
    clean = speech_like()
    values = pool.submit(clean, degraded(clean), ("pesq_wb", "stoi")).result(60).values
    assert list(values) == ["pesq_wb", "stoi"]


def test_the_pool_reports_a_refused_pair_and_goes_on(pool):
    values, errors, _ = pool.submit(np.ones(5), np.ones(6), ["ssnr"]).result(60)
    assert math.isnan(values["ssnr"])
    assert "5 clean and 6 enhanced" in errors["ssnr"]
    clean = speech_like()
    assert not pool.submit(clean, clean, ["ssnr"]).result(60).errors


def workers_of(pid: int) -> list[psutil.Process]:
    return [p for p in psutil.Process(pid).children() if "ablate.training.metrics.worker" in p.cmdline()]


def test_the_pair_of_a_killed_worker_is_measured_by_the_next():
    clean = speech_like(20.0)
    before = {p.pid for p in workers_of(os.getpid())}
    with MetricPool(1) as pool:
        assert not pool.submit(clean, clean, ["ssnr"]).result(60).errors
        delayed = pool.submit(clean, degraded(clean), ["pesq_wb"])
        (worker,) = [p for p in workers_of(os.getpid()) if p.pid not in before]
        worker.kill()
        assert delayed.result(60) == score_with_errors(clean, degraded(clean), RATE, ["pesq_wb"])


def test_a_pair_that_kills_every_worker_is_an_error_and_no_score(monkeypatch):
    from ablate.training.metrics import pool as module

    clean = speech_like()
    with MetricPool(1) as pool:
        with monkeypatch.context() as patch:
            patch.setattr(
                module.subprocess_env, "command", lambda *_: [sys.executable, "-c", "raise SystemExit(3)"]
            )
            with pytest.raises(MetricProcessError, match=r"3 processes crashed .*exit code 3, exit code 3"):
                pool.submit(clean, clean, ["ssnr"]).result(60)
        assert not pool.submit(clean, clean, ["ssnr"]).result(60).errors


def crowded(utterances=62):
    """Speech-like sounds with pauses between them, more than PESQ's code has room for."""
    pitch = 2 * np.pi * 120 * np.arange(RATE // 4) / RATE
    sound = 0.1 * sum(np.sin(k * pitch) / k for k in range(1, 20)) * np.hanning(RATE // 4)
    return np.tile(np.concatenate([sound, np.zeros(RATE // 4)]), utterances)


@pytest.mark.slow
def test_a_recording_on_which_pesq_crashes_costs_no_other():
    from ablate.training.metrics.pool import TOO_MANY

    call, short = crowded(), speech_like(1.0)
    noise = 0.01 * np.random.default_rng(0).standard_normal(len(call))
    names = ["pesq_wb", "stoi", "csig", "ssnr"]
    with MetricPool(1) as pool:
        first, second, third = pool.map([(short, short), (call, call + noise), (short, short)], names)
    assert first == third
    assert not first.errors
    assert second.errors == {"pesq_wb": TOO_MANY, "csig": TOO_MANY}
    assert second.broken == ()
    assert list(second.values) == names
    assert all(math.isfinite(second.values[name]) for name in ("stoi", "ssnr"))


def test_a_crash_on_a_short_recording_is_no_score(monkeypatch):
    from ablate.training.metrics import pool as module

    crash = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    monkeypatch.setattr(module.subprocess_env, "command", lambda *_: [sys.executable, "-c", crash])
    with MetricPool(1) as pool, pytest.raises(MetricProcessError, match="SIGSEGV, SIGSEGV, SIGSEGV"):
        pool.submit(speech_like(1.0), speech_like(1.0), ["pesq_wb"]).result(60)


def test_a_very_long_recording_is_refused_with_a_reason():
    long = np.zeros(int(RATE * 660), np.float32)
    scored = score_with_errors(long, long, RATE, ["pesq_wb", "ssnr"])
    assert scored.reasons() == "pesq_wb, ssnr: it is 11 min long, but at most 10 min can be scored; split it"


@pytest.mark.parametrize(
    ("clean", "enhanced", "broken"),
    [
        (speech_like(1.0), np.full(RATE, np.nan), set(usual())),
        (speech_like(1.0), np.zeros(RATE), {"pesq_wb", "pesq_nb", "csig", "cbak", "covl", "si_sdr"}),
        (np.zeros(RATE), speech_like(1.0), set()),
        (speech_like(0.2), np.zeros(3_200), {"si_sdr"}),
    ],
    ids=["nan", "silent", "silent reference", "too short for PESQ"],
)
def test_the_enhanced_signal_is_at_fault_where_the_reference_itself_can_be_measured(clean, enhanced, broken):
    scored = score_with_errors(clean, enhanced, RATE)
    assert set(scored.broken) == broken
    floored = scored.with_floors()
    for name in usual():
        if name in broken:
            assert floored[name] == METRICS[name].floor
        else:
            assert math.isnan(floored[name]) == (name in scored.errors)


def test_workers_have_no_torch_and_end_with_their_parent(tmp_path):
    program = tmp_path / "parent.py"  # no __main__ guard: workers must not run it again
    program.write_text(
        "import numpy as np, time\n"
        "from ablate.training.metrics import MetricPool\n"
        "pool = MetricPool(1)\n"
        "print(pool.submit(np.ones(8000), np.ones(8000), ['ssnr']).result().values, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout is not None
        assert "ssnr" in parent.stdout.readline()
        (worker,) = workers_of(parent.pid)
        assert not [m.path for m in worker.memory_maps() if "libtorch" in m.path]
    finally:
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
        parent.stdout.close()
    deadline = time.monotonic() + 20
    while worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the worker outlives its parent"
        time.sleep(0.05)


def test_an_urgent_pair_is_measured_before_all_that_wait(monkeypatch):
    from ablate.training.metrics import pool as module

    order, taken, go_on = [], threading.Event(), threading.Event()

    class Worker:
        def __init__(self, plugins):
            pass

        def measure(self, job):
            taken.set()
            go_on.wait(60)
            order.append(float(job.clean[0]))

        def end(self):
            return ""

    monkeypatch.setattr(module, "_Worker", Worker)
    with MetricPool(1) as pool:
        pool.submit([0.0], [0.0], ["ssnr"])
        assert taken.wait(60)
        waiting = [pool.submit([value], [0.0], ["ssnr"], urgent=value > 2) for value in (1.0, 2.0, 3.0, 4.0)]
        go_on.set()
        for future in waiting:
            future.result(60)
    assert order == [0, 3, 4, 1, 2]


def test_a_closed_pool_takes_nothing():
    pool = MetricPool(1)
    pool.close()
    pool.close()
    with pytest.raises(RuntimeError, match="closed"):
        pool.submit(np.ones(5), np.ones(5))


def test_importing_the_metrics_imports_no_torch():
    code = "import sys, ablate.training.metrics; print('torch' in sys.modules, 'scipy' in sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.numerics
def test_spectral_distances_in_plain_words():
    clean, enhanced = speech_like(1.0), degraded(speech_like(1.0))
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512)
    frames = range(0, len(clean) - 511, 128)
    left, right = (
        np.stack([np.fft.rfft(signal[i : i + 512] * window) for i in frames]) for signal in (clean, enhanced)
    )
    floor = 1e-10 * (abs(left) ** 2).max()
    levels = [10 * np.log10(np.maximum(abs(s) ** 2, floor)) for s in (left, right)]
    lsd = np.mean([np.sqrt(((a - b) ** 2).mean()) for a, b in zip(*levels, strict=True)])
    turned = np.degrees(abs(np.angle(left / right)))
    phase = (abs(left) * turned).sum() / abs(left).sum()
    values = score_with_errors(clean, enhanced, RATE, ["lsd", "phase_distance"]).values
    assert values == pytest.approx({"lsd": lsd, "phase_distance": phase}, rel=1e-6)
    assert score_with_errors(clean, clean, RATE, ["lsd"]).values["lsd"] == 0


def test_what_is_taken_unless_asked_for():
    names = ["pesq_wb", "pesq_nb", "stoi", "estoi", "csig", "cbak", "covl", "ssnr", "si_sdr"]
    assert list(score(speech_like(1.0), degraded(speech_like(1.0)), RATE)) == names


def test_a_plug_in_brings_a_metric(monkeypatch):
    monkeypatch.setattr(registry, "METRICS", dict(METRICS))
    monkeypatch.setattr(scores, "METRICS", registry.METRICS)
    loudest = Metric(
        "loudest", "loudest sample", lambda pair: abs(pair.enhanced).max(), floor=0.0, usual=False
    )
    registry.register(loudest)
    values = score_with_errors(np.ones(RATE), np.full(RATE, 0.5), RATE, ["loudest"]).values
    assert values == {"loudest": pytest.approx(0.5)}
    with pytest.raises(ValueError, match="exists already"):
        registry.register(Metric("stoi", "mine", lambda pair: 0.0, floor=0.0))


@pytest.mark.parametrize("fault", [MemoryError, OSError])
def test_a_fault_of_the_machine_is_no_score(fault, monkeypatch):
    def exhausted(_):
        raise fault

    monkeypatch.setitem(METRICS, "stoi", Metric("stoi", "STOI", exhausted, floor=0.0))
    with pytest.raises(fault):
        score_with_errors(np.ones(100), np.ones(100), 16000, ["stoi"])
