from __future__ import annotations

import numpy as np
import pytest
import soundfile

from ablate.models.errors import InputError
from ablate.reports.elsewhere import Elsewhere
from ablate.reports.sources.enhanced import measured
from ablate.reports.sources.patterns import places
from ablate.training.metrics import MetricPool, score

RATE = 16_000
PATTERN = "exp/{core}/seed{seed}"


def wave(number: int) -> np.ndarray:
    time = np.arange(RATE) / RATE
    return 0.2 * np.sin(2 * np.pi * (150 + 20 * number) * time) * np.sin(2 * np.pi * 3 * time) ** 2


@pytest.fixture
def folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        clean = wave(ord(name) - 96)
        (tmp_path / "clean").mkdir(exist_ok=True)
        soundfile.write(tmp_path / "clean" / f"{name}.wav", clean, RATE)
        for core, level in (("lstm", 0.02), ("mamba", 0.01)):
            for seed in (1, 2):
                folder = tmp_path / "exp" / core / f"seed{seed}"
                folder.mkdir(parents=True, exist_ok=True)
                noisy = clean + level * rng.standard_normal(len(clean))
                soundfile.write(folder / f"{name}.wav", noisy, RATE)
    return tmp_path


class Counting(MetricPool):
    """Counts the pairs that are measured."""

    count = 0

    def submit(self, *signals, **options):
        self.count += 1
        return super().submit(*signals, **options)


def measure(folders, pool):
    return measured(places(PATTERN), folders / "clean", folders / "cache", pool)


def test_every_file_is_measured_once_and_kept(folders):
    first, again = Counting(0), Counting(0)
    table = measure(folders, first)
    assert (len(table), first.count) == (8, 8)
    assert measure(folders, again).equals(table)
    assert again.count == 0
    clean, noisy = (soundfile.read(folders / p)[0] for p in ("clean/a.wav", "exp/lstm/seed1/a.wav"))
    row = table[(table["core"] == "lstm") & (table["seed"] == "1") & (table["utterance"] == "a")].iloc[0]
    assert row["si_sdr"] == pytest.approx(score(clean, noisy, RATE)["si_sdr"])


def test_what_changed_is_measured_again(folders):
    measure(folders, MetricPool(0))
    soundfile.write(folders / "exp" / "lstm" / "seed1" / "a.wav", wave(1), RATE)
    pool = Counting(0)
    measure(folders, pool)
    assert pool.count == 1


def test_it_goes_on_where_it_was_stopped(folders):
    class Stopping(Counting):
        def submit(self, *signals, **options):
            if self.count == 7:
                raise KeyboardInterrupt
            return super().submit(*signals, **options)

    with pytest.raises(KeyboardInterrupt):
        measure(folders, Stopping(0))
    pool = Counting(0)
    measure(folders, pool)
    assert 0 < pool.count < 8


def test_folders_of_other_files_are_refused_by_name(folders):
    (folders / "exp" / "mamba" / "seed2" / "a.wav").unlink()
    with pytest.raises(InputError, match="a"):
        measure(folders, MetricPool(0))


@pytest.mark.slow
def test_effects_of_folders(folders):
    scores, info = Elsewhere(enhanced=PATTERN, clean=folders / "clean", metric="si_sdr").read()
    assert info.base == {"core": "lstm"}
    assert len(info.runs) == 4
    means = scores.groupby("core", observed=True)["si_sdr"].mean()
    assert means["mamba"] - means["lstm"] == pytest.approx(6, abs=1)


def test_references_are_needed(folders):
    with pytest.raises(InputError, match="--clean"):
        Elsewhere(enhanced=PATTERN).read()


@pytest.mark.slow
def test_the_noisy_input_is_a_row_beside_the_cells(folders):
    from ablate.reports.build import report_of
    from ablate.reports.tables import cells_table

    rng = np.random.default_rng(1)
    (folders / "noisy").mkdir()
    for name in ("a", "b"):
        clean = wave(ord(name) - 96)
        noisy = clean + 0.1 * rng.standard_normal(len(clean))
        soundfile.write(folders / "noisy" / f"{name}.wav", noisy, RATE)
    options = {"enhanced": PATTERN, "clean": folders / "clean", "metric": "si_sdr", "guardrail": "stoi"}
    scores, info = Elsewhere(**options, noisy=folders / "noisy").read()
    without, _ = Elsewhere(**options).read()
    assert scores.drop(columns=[c for c in scores if c.startswith("noisy_")]).equals(without)
    report = report_of(scores, info, "si_sdr", guardrails=["stoi"])
    pairs = [[soundfile.read(folders / d / f"{n}.wav")[0] for d in ("clean", "noisy")] for n in ("a", "b")]
    wanted = np.mean([score(*pair, RATE)["si_sdr"] for pair in pairs])
    assert report.noisy_input["si_sdr"] == pytest.approx(wanted)
    for wide in (True, False):
        table = cells_table(report, wide=wide)
        *cells, last = table.rows
        assert len(cells) == 2
        assert last[0] == "noisy input, unprocessed"
        assert f"{wanted:.3f}" in last
        assert len(last) == len(table.head)
    assert f"{report.noisy_input['stoi']:.3f}" in cells_table(report).rows[-1]


def test_a_folder_of_noisy_files_needs_enhanced_ones(folders):
    with pytest.raises(InputError, match="--noisy are folders for --enhanced"):
        Elsewhere(scores="runs.csv", factors="core", noisy=folders / "noisy").read()


def test_audio_of_another_rate_is_said_and_of_another_length_refused(folders):
    path = folders / "exp" / "mamba" / "seed2" / "a.wav"
    audio, _ = soundfile.read(path)
    soundfile.write(path, audio[::2], RATE // 2)
    scores, info = Elsewhere(enhanced=PATTERN, clean=folders / "clean", metric="si_sdr").read()
    assert info.notes[0] == (
        "Below 16000 Hz, so that PESQ-WB and the composite do not compare with others: "
        "exp/mamba/seed2/a.wav (8000 Hz); take --metric pesq_nb."
    )
    assert "from 8000 Hz" in scores.attrs["passport"]["pesq_wb"]["resampled"]
    soundfile.write(path, audio[:12_000], RATE)
    with pytest.raises(
        InputError, match=r"clean/a\.wav and exp/mamba/seed2/a\.wav have 1\.000 s and 0\.750 s"
    ):
        measure(folders, MetricPool(0))


def test_unequal_names_pair_by_a_pattern(folders):
    for path in (folders / "exp").rglob("?.wav"):
        path.rename(path.with_name(f"x{ord(path.stem)}.wav"))
    for path in (folders / "clean").glob("?.wav"):
        path.rename(path.with_name(f"y_{ord(path.stem)}.wav"))
    options = {"enhanced": PATTERN, "clean": folders / "clean", "metric": "si_sdr"}
    with pytest.raises(InputError, match=r"--pairs"):
        Elsewhere(**options).read()
    scores, _ = Elsewhere(**options, pairs=r"(\d+)").read()
    assert {*scores["utterance"]} == {"x97", "x98"}
