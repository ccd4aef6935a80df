"""The content of a data folder, and problems that could bias results."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from ablate.models.errors import listed

from ..audio import SAMPLE_RATE
from ..metrics import MetricPool
from ..metrics.pool import CROWDED
from .alignment import wrong_pairs
from .cache import Report
from .corpus import TEST_COUNT, Corpus
from .levels import snr
from .noisy import noisy_scores
from .pairs import Pair, is_voicebank_test, spread

PUBLISHED_NOISY_PESQ = 1.97
PESQ_TOLERANCE = 0.02
SAMPLED = 24
NAMED = 20
"""Files named for each problem."""
SNR_BIN = 2.5


@dataclass(frozen=True)
class Leak:
    """A test pair seen in training: `what` is "clean audio", "noisy audio" or "speaker"."""

    what: str
    test: str
    train: str


def check(corpus: Corpus, *, processes: int | None = None, report: Report | None = None) -> dict[str, Any]:
    """Counts, hours, SNRs, speakers and warnings of a corpus, ready for JSON.

    The noisy PESQ-WB is that of an even sample of the test split (`noisy_pesq_sampled` is its size). Only
    VoiceBank+DEMAND, recognised by its files, is scored whole against its published 1.97.
    """
    everything = (*corpus.train, *corpus.validation, *corpus.test)
    wrong = wrong_pairs(everything, report=report)
    errors = [one.line(NAMED) for one in wrong if one.sure]
    warnings = [one.line(NAMED) for one in wrong if not one.sure]
    found: dict[str, list[str]] = {}
    for leak in leaks(corpus):
        found.setdefault(leak.what, []).append(f"{leak.test} ({leak.train})")
    warnings += [f"{what} of the test set in train: {listed(items, NAMED)}" for what, items in found.items()]
    if finding := noisy_score_finding(corpus, processes=processes, report=report):
        warnings.append(finding)
    if clipped := [pair.name for pair in everything if pair.clipped > 2]:
        warnings.append(f"{len(clipped)} pairs have samples at full scale: {listed(clipped, NAMED)}")
    if alone := [pair.name for pair in everything if pair.clean_sha256 == pair.noisy_sha256]:
        warnings.append(f"{len(alone)} pairs have no noise: {listed(alone, NAMED)}")
    if low := low_rates(corpus):
        warnings.append(low)
    warnings += not_measured([*corpus.validation, *corpus.test], processes=processes)
    sampled = corpus.test if is_voicebank_test(corpus.test) else spread(corpus.test, SAMPLED)
    scores = noisy_pesq(sampled, processes=processes, report=report)
    return {
        "name": corpus.name,
        "path": corpus.path,
        "kind": corpus.kind,
        "digest": corpus.digest,
        "test_digest": corpus.test_digest,
        "splits": {split: _split(getattr(corpus, split)) for split in ("train", "validation", "test")},
        "noisy_pesq_wb": round(mean(scores), 4) if scores else None,
        "noisy_pesq_sampled": len(scores),
        "notes": corpus.notes,
        "errors": errors,
        "warnings": warnings,
    }


def low_rates(corpus: Corpus) -> str | None:
    """A warning on test files sampled below 16 kHz; None if there are none."""
    low = Counter(pair.rate for pair in corpus.test if pair.rate < SAMPLE_RATE)
    if not low:
        return None
    told = ", ".join(f"{count} at {rate} Hz" for rate, count in sorted(low.items()))
    return (
        f"test files below {SAMPLE_RATE} Hz ({told}): their upper band is empty, so wideband PESQ and the "
        "metrics derived from it (CSIG, CBAK, COVL) are not comparable; use --metric pesq_nb"
    )


def leaks(corpus: Corpus) -> list[Leak]:
    """Test pairs whose clean or noisy audio, or whose speaker, is also in train or validation."""
    seen: dict[str, dict[str, str]] = {"clean audio": {}, "noisy audio": {}}
    speakers: dict[str, int] = Counter()
    for pair in (*corpus.train, *corpus.validation):
        seen["clean audio"].setdefault(pair.clean_sha256, pair.name)
        seen["noisy audio"].setdefault(pair.noisy_sha256, pair.name)
        if pair.speaker is not None:
            speakers[pair.speaker] += 1
    found = []
    tests = [*corpus.test, *(pair for further in corpus.extra_test_sets for pair in further.pairs)]
    for pair in tests:
        for what, digest in (("clean audio", pair.clean_sha256), ("noisy audio", pair.noisy_sha256)):
            if digest in seen[what]:
                found.append(Leak(what, pair.name, seen[what][digest]))
    shared = sorted({pair.speaker for pair in tests if pair.speaker in speakers} - {None}, key=str)
    found += [Leak("speaker", str(name), f"{speakers[str(name)]} files") for name in shared]
    return found


def noisy_score_finding(
    corpus: Corpus, *, processes: int | None = None, report: Report | None = None
) -> str | None:
    """A problem with a test split that has VoiceBank+DEMAND's names but not its noisy score; None if there is
    none.

    The 824 noisy files score 1.97 PESQ-WB as published; another mean shows that files were resampled, cut or
    mixed differently.
    """
    if not is_voicebank_test(corpus.test):
        return None
    if len(corpus.test) != TEST_COUNT:
        return (
            f"the test files are named like VoiceBank+DEMAND's, but there are {len(corpus.test)} instead "
            f"of {TEST_COUNT}: scores on them are not comparable with published ones"
        )
    scores = noisy_pesq(corpus.test, processes=processes, report=report)
    if len(scores) == TEST_COUNT and abs(mean(scores) - PUBLISHED_NOISY_PESQ) <= PESQ_TOLERANCE:
        return None
    score = f"{mean(scores):.3f} over {len(scores)} files" if scores else "not computable"
    return (
        "the test files are named like VoiceBank+DEMAND's, whose noisy PESQ-WB is "
        f"{PUBLISHED_NOISY_PESQ}; here it is {score}, so the audio is not the published one (it may be "
        "resampled or mixed differently)"
    )


def noisy_pesq(
    pairs: Sequence[Pair], *, processes: int | None = None, report: Report | None = None
) -> list[float]:
    """PESQ-WB of each noisy recording, without pairs whose clean one cannot be a reference."""
    if not pairs:
        return []
    with _pool(processes, pairs) as pool:
        return noisy_scores(pairs, pool, cache=pairs[0].cache, report=report)["pesq_wb"].dropna().to_list()


def _pool(processes: int | None, pairs: Sequence[Pair]) -> MetricPool:
    return MetricPool(min(processes or os.cpu_count() or 1, len(pairs)))


def not_measured(pairs: Sequence[Pair], *, processes: int | None = None) -> list[str]:
    """Warnings on recordings so long that PESQ crashes on them or does not measure them."""
    long = [pair for pair in pairs if pair.seconds > CROWDED]
    if not long:
        return []
    names: dict[str, list[str]] = defaultdict(list)
    with _pool(processes, long) as pool:
        signals = ((pair.clean, pair.noisy) for pair in long)
        measured = pool.map(signals, ["pesq_wb"], sample_rate=long[0].sample_rate)
        for pair, scored in zip(long, measured, strict=True):
            if reason := scored.errors.get("pesq_wb"):
                names[reason].append(pair.name)
    return [f"PESQ could not score: {listed(found, NAMED)}: {reason}" for reason, found in names.items()]


def _split(pairs: Sequence[Pair]) -> dict[str, Any]:
    logged, measured = [pair.snr for pair in pairs], [snr(pair.clean, pair.noisy) for pair in pairs]
    finite = [value for value in measured if abs(value) != float("inf")]
    return {
        "files": len(pairs),
        "hours": round(sum(pair.seconds for pair in pairs) / 3600, 4),
        "shortest_seconds": round(min((pair.seconds for pair in pairs), default=0.0), 3),
        "longest_seconds": round(max((pair.seconds for pair in pairs), default=0.0), 3),
        "sample_rates": _counts(pair.rate for pair in pairs),
        "channels": _counts(pair.channels for pair in pairs),
        "speakers": _counts(pair.speaker or "unknown" for pair in pairs),
        "noises": _counts(pair.noise for pair in pairs if pair.noise is not None),
        "snr_histogram": _counts(round(value / SNR_BIN) * SNR_BIN for value in finite),
        "snr_mean": _mean(finite),
        "snr_logged_mean": _mean([value for value in logged if value is not None]),
        "clipped_files": sum(pair.clipped > 2 for pair in pairs),
    }


def _counts(values: Iterable[Any]) -> dict[str, int]:
    return {f"{value}".removesuffix(".0"): count for value, count in sorted(Counter(values).items())}


def _mean(values: Sequence[float]) -> float | None:
    return round(mean(values), 2) if values else None
