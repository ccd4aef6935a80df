"""Corpora as they are found in public: folders, names, lists, and what is said of what does not fit."""

from __future__ import annotations

import csv
import json
import os
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from ablate.models.errors import InputError
from ablate.training.data.corpus import Corpus, find_corpus, open_test
from ablate.training.data.layouts import Description
from ablate.training.data.pairing import pair_folders
from ablate.training.data.pairs import Pair

RATE = 16_000
LEVELS: dict[str, float] = {}


def put(path: Path, name: str, kind: str) -> Path:
    """A file whose content says which recording it is: its first samples are of a level of the name's own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    level = LEVELS.setdefault(name, 0.01 * (1 + len(LEVELS) % 60))
    audio = np.full(5_000, level)
    if kind == "noisy":
        audio = audio + 0.3 * np.random.default_rng(len(str(path))).standard_normal(5_000)
        audio[:10] = level
    soundfile.write(path, audio, RATE, "FLOAT")
    return path


def fill(
    clean: Path, noisy: Path, names: list[str], to_clean: Callable[[str], str] = str, to_noisy=str
) -> None:
    for name in names:
        put(clean / f"{to_clean(name)}.wav", name, "clean")
        put(noisy / f"{to_noisy(name)}.wav", name, "noisy")


def belongs(pairs: tuple[Pair, ...]) -> bool:
    """Whether clean and noisy are of one recording in every pair."""
    return all(np.isclose(pair.clean[0], pair.noisy[0]) for pair in pairs)


def opened(root: Path, **more) -> Corpus:
    corpus = Corpus.open(root, cache=root.parent / "cache", **more)
    for pairs in (corpus.train, corpus.validation, corpus.test):
        assert belongs(pairs)
    return corpus


TRAIN = [f"s{speaker}_{index}" for speaker in range(1, 5) for index in range(1, 4)]
TEST = ["t1_1", "t1_2"]
FOLDERS = {
    "Train/Clean": ("Train/Clean", "Train/Noisy", "Test/Clean", "Test/Noisy"),
    "kind first": ("clean/train", "noisy/train", "clean/test", "noisy/test"),
    "MS-SNSD": ("CleanSpeech_training", "NoisySpeech_training", "CleanSpeech_test", "NoisySpeech_test"),
    "LibriMix": ("wav16k/min/train-100/s1", "wav16k/min/train-100/mix_single", "wav16k/min/test/s1",
                 "wav16k/min/test/mix_single"),
    "DNS": ("datasets/training_set/clean", "datasets/training_set/noisy",
            "datasets/test_set/synthetic/no_reverb/clean", "datasets/test_set/synthetic/no_reverb/noisy"),
    "egs": ("tr/clean", "tr/noisy", "tt/clean", "tt/noisy"),
    "the folder above": ("VoiceBank/clean_trainset_28spk_wav", "VoiceBank/noisy_trainset_28spk_wav",
                         "VoiceBank/clean_testset_wav", "VoiceBank/noisy_testset_wav"),
}  # fmt: skip


@pytest.mark.parametrize("layout", FOLDERS)
def test_folders_are_found(tmp_path: Path, layout: str) -> None:
    root = tmp_path / "speech"
    clean, noisy, test_clean, test_noisy = FOLDERS[layout]
    fill(root / clean, root / noisy, TRAIN)
    fill(root / test_clean, root / test_noisy, TEST)
    put(root / "wav16k/min/train-100/mix_both/s1_1.wav", "other", "noisy")
    corpus = opened(root)
    assert sorted(pair.name for pair in (*corpus.train, *corpus.validation)) == TRAIN
    assert [pair.name for pair in corpus.test] == TEST


def test_folders_of_speakers(tmp_path: Path) -> None:
    root = tmp_path / "speech"
    place = lambda name: name.replace("_", "/")  # noqa: E731
    fill(root / "train/clean", root / "train/noisy", TRAIN, place, place)
    fill(root / "test/clean", root / "test/noisy", TEST, lambda n: f"t/{n}", lambda n: f"t/{n}")
    corpus = opened(root)
    assert sorted(pair.name for pair in (*corpus.train, *corpus.validation)) == TRAIN
    assert {pair.speaker for pair in corpus.train} < {"s1", "s2", "s3", "s4"}
    assert [pair.name for pair in corpus.test] == TEST


def test_files_below_that_do_not_pair_are_said(tmp_path: Path) -> None:
    root = tmp_path / "speech"
    fill(root / "train/clean", root / "train/noisy", TRAIN)
    fill(root / "test/clean", root / "test/noisy", TEST)
    before = opened(root)
    put(root / "train/clean/old/z_1.wav", "z", "clean")
    after = opened(root)
    assert after.digest == before.digest
    assert "1 file in subfolders are ignored because they do not pair" in after.notes


def test_files_below_and_above_that_pair_by_words_are_all_taken(tmp_path: Path) -> None:
    for kind in ("clean", "noisy"):
        put(tmp_path / kind / f"a_{kind}.wav", "a", kind)
        put(tmp_path / kind / f"below/b_{kind}.wav", "b", kind)
    assert [
        (pair.clean.stem, pair.other.stem)
        for pair in pair_folders(tmp_path / "clean", tmp_path / "noisy").pairs
    ] == [
        ("a_clean", "a_noisy"),
        ("b_clean", "b_noisy"),
    ]


def test_noisy_files_in_folders_of_their_snr_share_the_clean_ones(tmp_path: Path) -> None:
    """One of them lies where its clean file does, so that some names are equal."""
    clean, noisy = tmp_path / "clean", tmp_path / "noisy"
    for path, name in ((clean / "a", "a"), (clean / "b", "b")):
        put(path.with_suffix(".wav"), name, "clean")
    for place in ("a", "5dB/a", "5dB/b"):
        put(noisy / f"{place}.wav", place[-1], "noisy")
    paired = pair_folders(clean, noisy)
    assert [(pair.name, pair.clean.stem) for pair in paired.pairs] == [
        ("5dB_a", "a"),
        ("5dB_b", "b"),
        ("a", "a"),
    ]
    assert "3 noisy files share 2 clean files" in paired.notes


def test_a_validation_split_of_its_own_is_used_and_said(tmp_path: Path) -> None:
    root = tmp_path / "speech"
    fill(root / "train/clean", root / "train/noisy", TRAIN)
    fill(root / "test/clean", root / "test/noisy", TEST)
    drawn = opened(root)
    fill(root / "valid/clean", root / "valid/noisy", ["v1_1", "v2_1"])
    corpus = opened(root)
    assert [pair.name for pair in corpus.validation] == ["v1_1", "v2_1"]
    assert len(corpus.train) == len(TRAIN)
    assert corpus.validation_speakers == ("v1", "v2")
    assert "validation is the corpus' own, 2 pairs" in corpus.notes
    assert corpus.digest != drawn.digest
    planned = corpus.as_planned(drawn.digest, [drawn.test_digest])
    assert (planned.train, planned.validation, planned.digest) == (
        drawn.train,
        drawn.validation,
        drawn.digest,
    )
    assert find_corpus(str(root), drawn.digest, cache=tmp_path / "cache").validation == drawn.validation
    assert find_corpus(str(root), corpus.digest, cache=tmp_path / "cache").validation == corpus.validation


NAMES: dict[str, tuple[Callable[[str], str], Callable[[str], str]]] = {
    "DNS": (
        lambda n: f"clean_fileid_{n[1]}{n[3]}",
        lambda n: f"book_07_reader_0{n[1]}_snr5_tl-26_fileid_0{n[1]}{n[3]}",
    ),
    "MS-SNSD": (lambda n: f"clnsp{n[1]}{n[3]}", lambda n: f"noisy{n[3]}_SNRdb_5.0_clnsp{n[1]}{n[3]}"),
    "words": (lambda n: f"{n}_clean", lambda n: f"{n}_noisy"),
    "words in front": (lambda n: f"clean-{n}", lambda n: f"mix-{n}"),
    "a suffix": (str, lambda n: f"{n}_snr5"),
    "a prefix": (str, lambda n: f"rain_{n}"),
    "decomposed": (
        lambda n: unicodedata.normalize("NFC", f"é{n}"),
        lambda n: unicodedata.normalize("NFD", f"é{n}"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("names", NAMES)
def test_names_that_are_not_equal_pair_where_that_is_sure(tmp_path: Path, names: str) -> None:
    root = tmp_path / "speech"
    fill(root / "train/clean", root / "train/noisy", TRAIN, *NAMES[names])
    fill(root / "test/clean", root / "test/noisy", TEST, *NAMES[names])
    corpus = opened(root)
    assert len(corpus.train) + len(corpus.validation) == len(TRAIN)
    if names != "decomposed":
        assert any(note.startswith("paired by ") for note in corpus.notes)
    if names in ("DNS", "MS-SNSD", "a suffix"):
        assert [pair.snr for pair in corpus.test] == [5.0, 5.0]
    if names == "DNS":
        assert {pair.speaker for pair in corpus.train} < {"reader01", "reader02", "reader03", "reader04"}


def test_one_clean_file_for_several_noisy_stays_in_one_split(tmp_path: Path) -> None:
    root = tmp_path / "speech"
    for index in range(20):
        put(root / f"train/clean/clnsp{index}.wav", f"m{index}", "clean")
        for snr in (0, 10):
            put(root / f"train/noisy/noisy{index + snr}_SNRdb_{snr}.0_clnsp{index}.wav", f"m{index}", "noisy")
    fill(root / "test/clean", root / "test/noisy", TEST)
    corpus = opened(root)
    assert len(corpus.validation) == 4
    assert {pair.clean_name for pair in corpus.train}.isdisjoint(
        pair.clean_name for pair in corpus.validation
    )
    assert "40 noisy files share 20 clean files" in corpus.notes


def test_a_pattern_pairs_what_names_do_not(tmp_path: Path) -> None:
    root = tmp_path / "speech"
    args = lambda n: f"x{n[1]}{n[3]}_of_a", lambda n: f"b_{n[1]}{n[3]}x"
    fill(root / "train/clean", root / "train/noisy", TRAIN, *args)
    fill(root / "test/clean", root / "test/noisy", TEST)
    with pytest.raises(InputError, match=r"(?s)do not pair by name.*--pairs 'fileid"):
        opened(root)
    corpus = opened(root, pairs=r"(\d+)")
    assert len(corpus.train) + len(corpus.validation) == len(TRAIN)
    with pytest.raises(InputError, match=r"(?s)does not pair.*12 without a partner"):
        opened(root, pairs=r"(x\d*|b_\d*)")
    with pytest.raises(InputError, match=r"not a file or a regular expression"):
        opened(root, pairs=r"(\d+")
    (root / "corpus.yaml").write_text("pairs: '(\\d+)'\nspeakers: '^b_(\\d)'\n")
    told = opened(root)
    assert {pair.speaker for pair in told.train} | set(told.validation_speakers) == {"1", "2", "3", "4"}
    assert find_corpus(str(root), told.digest, cache=tmp_path / "cache").digest == told.digest


def test_what_a_worker_needs_to_find_pairs_is_recorded(tmp_path: Path) -> None:
    root = tmp_path / "speech"
    args = lambda n: f"x{n[1]}{n[3]}_of_a", lambda n: f"b_{n[1]}{n[3]}x"
    fill(root / "train/clean", root / "train/noisy", TRAIN, *args)
    fill(root / "test/clean", root / "test/noisy", TEST, *args)
    corpus = opened(root, pairs=r"(\d+)")
    found = find_corpus(str(root), corpus.digest, cache=tmp_path / "cache", pairs=corpus.pairs)
    assert found.train == corpus.train
    with pytest.raises(InputError, match="do not pair by name"):
        find_corpus(str(root), corpus.digest, cache=tmp_path / "cache")


def table(path: Path, rows: list[list[str]], separator: str = ",") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=separator).writerows(rows)


def scattered(root: Path) -> dict[str, tuple[Path, Path]]:
    """Files whose names say nothing, in folders that say nothing."""
    return {
        name: (
            put(root / "a" / f"x{index}.wav", name, "clean"),
            put(root / "b" / f"y{index}.wav", name, "noisy"),
        )
        for index, name in enumerate([*TRAIN, *TEST])
    }


@pytest.mark.parametrize("form", ["librimix", "speechbrain", "tsv", "json", "egs", "scp", "one list"])
def test_lists(tmp_path: Path, form: str) -> None:
    root = tmp_path / "speech"
    files = scattered(root)
    pairs = None
    for split, names in (("train", TRAIN), ("test", TEST)):
        places = [(name, *files[name]) for name in names]
        if form == "librimix":
            rows = [[n, f"/elsewhere/speech/b/{y.name}", f"/elsewhere/speech/a/{c.name}", "n.wav", "5000"]
                    for n, c, y in places]  # fmt: skip
            head = ["mixture_ID", "mixture_path", "source_1_path", "noise_path", "length"]
            table(root / "metadata" / f"mixture_{split}_mix_single.csv", [head, *rows])
        elif form == "speechbrain":
            rows = [
                [n, "0.3", f"$data_root/b/{y.name}", "wav", f"$data_root/a/{c.name}", "wav"]
                for n, c, y in places
            ]
            head = ["ID", "duration", "noisy_wav", "noisy_wav_format", "clean_wav", "clean_wav_format"]
            table(root / f"{split}.csv", [head, *rows])
        elif form == "tsv":
            table(root / f"{split}.tsv", [[f"a/{c.name}", f"b/{y.name}"] for _, c, y in places], "\t")
            pairs = "train.tsv"
            table(root / f"{split}.tsv", [["clean", "noisy", "speaker", "snr"],
                  *[[f"a/{c.name}", f"b/{y.name}", n[:2], "2.5"] for n, c, y in places]], "\t")  # fmt: skip
        elif form == "json":
            rows = {n: {"noisy_wav": f"{{data_root}}/b/{y.name}", "clean_wav": f"{{data_root}}/a/{c.name}"}
                    for n, c, y in places}  # fmt: skip
            (root / f"{split}.json").write_text(json.dumps(rows))
        elif form == "egs":
            folder = root / "egs" / "mine" / {"train": "tr", "test": "tt"}[split]
            folder.mkdir(parents=True)
            for kind, at in (("clean", 1), ("noisy", 2)):
                (folder / f"{kind}.json").write_text(json.dumps([[str(p[at]), 5000] for p in places]))
        elif form == "scp":
            folder = root / "data" / split
            folder.mkdir(parents=True)
            for kind, at in (("spk1", 1), ("wav", 2)):
                (folder / f"{kind}.scp").write_text("".join(f"{p[0]} {p[at]}\n" for p in places))
            (folder / "utt2spk").write_text("".join(f"{n} {n[:2]}\n" for n in names))
    if form == "one list":
        pairs = "pairs.csv"
        rows = [
            [f"a/{c.name}", f"b/{y.name}", "test" if n in TEST else "train"] for n, (c, y) in files.items()
        ]
        table(root / "pairs.csv", [["clean", "noisy", "split"], *rows])
    corpus = opened(root, pairs=pairs)
    assert len(corpus.train) + len(corpus.validation) == len(TRAIN)
    assert len(corpus.test) == len(TEST)
    assert any("listed in" in note for note in corpus.notes)
    if form in ("tsv", "scp"):
        assert {pair.speaker for pair in corpus.train} < {"s1", "s2", "s3", "s4"}
    if form == "tsv":
        assert corpus.test[0].snr == 2.5
    if form == "librimix":
        assert any("was made elsewhere" in note for note in corpus.notes)


def test_lists_that_cannot_be_used(tmp_path: Path) -> None:
    root = tmp_path / "speech"
    files = scattered(root)
    table(root / "odd.csv", [["one", "two"], *[[str(c), str(y)] for c, y in files.values()]])
    with pytest.raises(InputError, match=r"not clear which columns are .* its columns are one, two"):
        opened(root, pairs="odd.csv")
    table(root / "gone.csv", [["clean", "noisy"], ["a/x0.wav", "b/nowhere.wav"], ["a/x1.wav", "b/y1.wav"]])
    with pytest.raises(InputError, match=r"(?s)lists files that are missing.*b/nowhere\.wav does not exist"):
        opened(root, pairs="gone.csv")
    with pytest.raises(InputError, match="no such list"):
        opened(root, pairs="none.csv")
    (root / "wav.scp").write_text("a sox x.wav -t wav - |\n")
    (root / "spk1.scp").write_text("a a/x0.wav\n")
    with pytest.raises(InputError, match="which is not executed"):
        opened(root, pairs="wav.scp")


def test_names_in_a_list_split_two_folders(tmp_path: Path) -> None:
    root = tmp_path / "speech"
    fill(root / "wavs_clean", root / "wavs_noisy", [*TRAIN, *TEST])
    (root / "training.txt").write_text("".join(f"{name}|some words\n" for name in TRAIN))
    (root / "test.txt").write_text("".join(f"{name}|some words\n" for name in TEST))
    corpus = opened(root)
    assert len(corpus.train) + len(corpus.validation) == len(TRAIN)
    assert [pair.name for pair in corpus.test] == TEST


def test_a_description_names_the_folders(tmp_path: Path) -> None:
    root = tmp_path / "speech"
    fill(root / "one", root / "two", TRAIN)
    fill(root / "three", root / "four", TEST)
    (tmp_path / "corpus.yaml").write_text(
        "data: speech\ntrain: {clean: one, noisy: two}\ntest: {clean: three, noisy: four}\n"
    )
    assert [pair.name for pair in opened(root).test] == TEST
    (root / "corpus.yaml").write_text("train: {clean: one}\n")
    with pytest.raises(InputError, match="train needs clean and noisy, or a list"):
        opened(root)
    (root / "corpus.yaml").write_text("trian: {clean: one}\n")
    with pytest.raises(InputError, match=r"corpus\.yaml: trian"):
        opened(root)


def test_the_description_in_the_page_is_one() -> None:
    page = (Path(__file__).parents[3] / "docs" / "data.md").read_text()
    (block,) = re.findall(r"^```yml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    told = Description.model_validate(yaml.safe_load(block))
    assert all(getattr(told, name) is not None for name in Description.model_fields if name != "data")


def test_what_is_there_is_said_where_nothing_fits(tmp_path: Path) -> None:
    root = tmp_path / "speech"
    fill(root / "clean", root / "noisy", TRAIN)
    with pytest.raises(InputError, match=r"It holds clean/ .*noisy/ .*give the folder as --test-data"):
        opened(root)
    assert belongs(open_test(root, cache=tmp_path / "cache"))
    (tmp_path / "odd/music").mkdir(parents=True)
    with pytest.raises(InputError, match=r"It holds music/ \(empty\)"):
        opened(tmp_path / "odd")


def test_files_without_content_are_named(tmp_path: Path) -> None:
    root = tmp_path / "speech"
    fill(root / "train/clean", root / "train/noisy", TRAIN)
    fill(root / "test/clean", root / "test/noisy", TEST)
    bad = root / "train/clean"
    for name, write in {
        "s1_1": lambda path: path.symlink_to("../../.git/annex/objects/x.wav"),
        "s1_2": lambda path: path.symlink_to("nowhere.wav"),
        "s1_3": lambda path: path.write_bytes(b""),
        "s2_1": lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
    }.items():
        os.remove(bad / f"{name}.wav")
        write(bad / f"{name}.wav")
    with pytest.raises(InputError) as caught:
        opened(root)
    for line in (
        "git annex get",
        "a link to nowhere.wav",
        "is empty; copy it again",
        "git lfs pull",
        "2 not fetched",
    ):
        assert line in str(caught.value)


def test_recordings_of_other_formats_are_named(tmp_path: Path) -> None:
    root = tmp_path / "speech"
    fill(root / "train/clean", root / "train/noisy", TRAIN)
    fill(root / "test/clean", root / "test/noisy", TEST)
    (root / "train/clean/s9_1.m4a").write_bytes(b"x")
    assert any("s9_1.m4a; convert" in note for note in opened(root).notes)
    for path in (root / "test/clean").iterdir():
        path.rename(path.with_suffix(".sph"))
    with pytest.raises(InputError, match=r"holds no audio file.*t1_1\.sph"):
        opened(root)


def test_lengths_that_differ_a_little_are_cut_and_said(tmp_path: Path) -> None:
    root = tmp_path / "speech"
    fill(root / "train/clean", root / "train/noisy", TRAIN)
    fill(root / "test/clean", root / "test/noisy", TEST)
    before = opened(root)
    audio, _ = soundfile.read(root / "train/noisy/s1_1.wav", dtype="float32")
    soundfile.write(root / "train/noisy/s1_1.wav", np.append(audio, np.zeros(160)), RATE, "FLOAT")
    corpus = opened(root)
    assert {pair.samples for pair in (*corpus.train, *corpus.validation)} == {5_000}
    assert "1 pair of unequal length cut to the shorter file, by 160 samples at most (s1_1)" in corpus.notes
    assert corpus.digest != before.digest
    soundfile.write(root / "train/noisy/s1_1.wav", np.append(audio, np.zeros(1600)), RATE, "FLOAT")
    with pytest.raises(InputError, match=r"s1_1: lengths differ.*sox IN OUT trim 0 0\.31"):
        opened(root)
