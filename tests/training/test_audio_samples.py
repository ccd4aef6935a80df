"""The utterances kept to listen to: fixed, whole, and their references once for all runs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import soundfile

from ablate.training.audio_samples import fixed_utterances, kept


def test_the_kept_utterances_span_the_noisy_scores(make_pair):
    pairs = [make_pair(f"p_{i:02}", 0.01) for i in range(11)]
    pesq = [3.0, 1.0, 2.0, 1.5, np.nan, 2.5, 1.2, 1.9, 2.2, 4.0, 1.7]
    noisy = pd.DataFrame({"utterance": [p.name for p in pairs], "pesq_wb": pesq})
    chosen = [pair.name for pair in fixed_utterances(pairs, noisy, 6)]
    assert chosen == ["p_04", "p_06", "p_10", "p_02", "p_05", "p_09"]
    assert [p.name for p in fixed_utterances(pairs[::-1], noisy, 6)] == chosen
    assert len(fixed_utterances(pairs, noisy, 20)) == 11
    assert len(fixed_utterances(pairs[:1], noisy, 6)) == 1


@pytest.mark.numerics
def test_a_run_keeps_the_enhanced_and_links_to_the_rest(pairs, tmp_path):
    references = tmp_path / "audio" / "digest"
    for run in ("one", "other"):
        with kept(tmp_path / "runs" / run / "audio", pairs[:2], references) as keep:
            for pair in pairs:
                keep(pair, 2 * pair.clean)
    folder = tmp_path / "runs" / "one" / "audio"
    names = {f"{name}-{kind}.wav" for name in ("a_1", "b_1") for kind in ("enhanced", "noisy", "clean")}
    assert {path.name for path in folder.iterdir()} == names
    assert {path.name for path in references.iterdir()} == {n for n in names if "enhanced" not in n}
    for path in folder.iterdir():
        assert path.is_symlink() == ("enhanced" not in path.name)
    (tmp_path / "runs").rename(tmp_path / "replaced")
    audio, rate = soundfile.read(tmp_path / "replaced" / "one" / "audio" / "a_1-noisy.wav")
    assert rate == 16_000
    assert np.allclose(audio, np.clip(pairs[0].noisy, -1, 1), atol=1 / 32768)


def test_clips_of_an_interrupted_scoring_are_kept_the_next_time(pairs, tmp_path):
    folder, references = tmp_path / "runs" / "one" / "audio", tmp_path / "audio" / "digest"

    def interrupted() -> None:
        with kept(folder, pairs, references) as keep:
            keep(pairs[0], pairs[0].clean)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not folder.exists()
    left = folder.with_name(".audio.partial")
    left.mkdir()
    (left / "old.wav").touch()
    with kept(folder, pairs, references) as keep:
        for pair in pairs:
            keep(pair, pair.clean)
    assert len(list(folder.glob("*-enhanced.wav"))) == 3
    assert list(folder.parent.iterdir()) == [folder]
