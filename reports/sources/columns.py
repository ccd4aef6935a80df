"""Reads other tools' tables: finds the columns of seed, utterance and metrics."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from ablate.models.errors import InputError, listed
from ablate.models.registry import suggestion
from ablate.training.metrics.registry import METRICS

from ..ingest import level_text

ALL = "all test files"
"""Name of a run's only utterance, if the table only has means of runs."""
OTHER_NAMES: dict[str, tuple[str, ...]] = {
    "seed": ("random_seed", "rng_seed", "manual_seed", "training_seed"),
    "utterance": ("file", "filename", "file_name", "fileid", "file_id", "utt", "utt_id", "wav", "key"),
    "pesq_wb": ("pesq", "wb_pesq", "pesqwb", "pesq_wideband"),
    "pesq_nb": ("nb_pesq", "pesqnb", "pesq_narrowband"),
    "si_sdr": ("sisdr", "si_snr", "sisnr"),
    "ssnr": ("segsnr", "snr_seg", "seg_snr"),
}
"""Our name of a column -> other tools' names, in lower case with `_` for other characters."""
CURVE = "_curve"
"""Column with the whole curve of each run, as a list of rows with a `step`."""
NOTES = "notes"
"""Key of a table's `attrs` with notes for the report."""
_SPLITS = {"val": {"val", "valid", "validation", "dev", "cv"}, "test": {"test", "testing"}}
ENDED = {"done", "diverged", "finished", "completed", "succeeded", "success", "published", "closed"}
FAILED = {
    *("failed", "crashed", "killed", "running", "preempted", "scheduled"),
    *("stopped", "queued", "created", "in_progress"),
}
"""States of runs without a final score, in lower case."""


PREFIX = r"\s*[./›]\s*"
"""Pattern of the separator between a tool's prefix and a column's name."""


def _plain(name: str) -> str:
    """A column's name in lower case, without its tool's additions (`params.seed`, `test › PESQ (Last)`)."""
    last = re.split(PREFIX, re.sub(r" \((Last|Max|Min)\)$", "", str(name)))[-1]
    return re.sub(r"\W+", "_", last).strip("_").lower()


def curve_name(name: str) -> str:
    """Our name of a curve: `val/pesq_wb` for another tool's `valid_PESQ`. Other names are not changed."""
    words = re.findall(r"[^\W_]+", str(name).lower())
    splits = [split for split, its in _SPLITS.items() if its & {*words}]
    rest = "_".join(word for word in words if word not in set().union(*_SPLITS.values()))
    measures = [ours for ours in METRICS if rest in (ours, *OTHER_NAMES.get(ours, ()))]
    return f"{splits[0]}/{measures[0]}" if len(splits) == len(measures) == 1 else name


def renamed(frame: pd.DataFrame, metric: str, given: Mapping[str, str]) -> tuple[pd.DataFrame, list[str]]:
    """A table with our names for seed, utterance and metrics, and a sentence on each name that was guessed.

    Args:
        metric: the column that must exist.
        given: our name -> the table's column.

    Raises:
        InputError: a given column is missing, or two columns fit one name.
    """
    for ours, asked in given.items():
        theirs = next(iter(_without_prefix(frame, [asked])), asked)
        if theirs not in frame.columns:
            raise InputError(f"no column {theirs!r} (for {ours}){suggestion(theirs, frame.columns)}")
        if ours in frame.columns and ours != theirs:
            frame = frame.drop(columns=ours)
        frame = frame.rename(columns={theirs: ours})
    notes = []
    for ours in dict.fromkeys(("seed", "utterance", metric, *METRICS)):
        if ours in frame.columns:
            continue
        known, of_test = (ours, *OTHER_NAMES.get(ours, ())), f"test/{ours}"
        meant = [c for c in frame.columns if _plain(c) in known or curve_name(c) == of_test]
        if len(meant) > 1 and ours in ("seed", metric):
            raise InputError(f"{listed(meant)} could be {ours!r}; name one with --column {ours}={meant[0]}")
        if len(meant) == 1:
            frame = frame.rename(columns={meant[0]: ours})
            notes.append(f"Column {meant[0]!r} is used as {ours}; choose another with --column {ours}=...")
    if metric not in frame.columns:
        raise InputError(
            f"no column for {metric}{suggestion(metric, frame.columns)}; name it with --column "
            f"{metric}=..., or choose another metric with --metric"
        )
    return frame, notes


def tidy(
    frame: pd.DataFrame,
    factors: Sequence[str],
    metric: str,
    columns: Mapping[str, str],
    baseline: str | None = None,
) -> tuple[pd.DataFrame, list[str]]:
    """A table of runs, or of runs and utterances, as `analyze` takes it.

    Args:
        factors: columns that define the cells; a tracker's prefix (`params.core`) may be left out.
        columns: our name -> the table's column.
        baseline: name of the cell outside the factors.

    Returns:
        The table with `cell`, the factors, `seed`, `utterance` and the metrics; and notes on assumptions.

    Raises:
        InputError: a column is missing, a factor has only one level, a seed occurs twice in a cell, or runs
            are means over different numbers of files.
    """
    frame, notes = renamed(frame, metric, columns)
    frame = frame.rename(columns=_without_prefix(frame, factors))
    if lacking := [name for name in factors if name not in frame.columns]:
        raise InputError(f"no column {lacking[0]!r} for a factor{suggestion(lacking[0], frame.columns)}")
    frame, left_out = _finished(frame, metric)
    notes += left_out
    for name in (*factors, *({"cell", "utterance"} & {*frame.columns})):
        frame[name] = frame[name].astype(object).map(lambda level: level_text(level) or None)
    if "cell" not in frame.columns:
        named = frame[list(factors)].fillna("-").astype(str)
        frame["cell"] = named.apply(lambda row: ",".join(f"{k}={v}" for k, v in row.items()), axis=1)
    of_grid = frame[frame["cell"].astype(str) != baseline]
    for name in factors:
        found = of_grid[name].dropna().unique()
        if len(found) < 2:
            held = f"only {found[0]!r}" if len(found) else "no value"
            raise InputError(f"factor {name!r} has {held} in this table; leave it out of --factors")
    by_utterance = "utterance" in frame.columns
    if not by_utterance:
        _check_same_files(frame)
        frame["utterance"] = ALL
        notes.append("One value per run: intervals cover only the variation between runs on these files.")
    frame, told = _seeds(frame, by_utterance)
    return frame, notes + told


def _without_prefix(frame: pd.DataFrame, names: Iterable[str]) -> dict[str, str]:
    """The table's name with a tracker's prefix (`params.core`, `metrics.pesq`) -> the name without it."""
    found = {}
    for name in names:
        if name not in frame.columns:
            meant = [c for c in frame.columns if re.split(PREFIX, str(c), maxsplit=1)[-1] == name]
            if len(meant) == 1:
                found[meant[0]] = name
    return found


def _finished(frame: pd.DataFrame, metric: str) -> tuple[pd.DataFrame, list[str]]:
    """The rows with a score, without failed or unfinished runs; and notes on the others."""
    states = next((c for c in frame.columns if str(c).lower() in ("status", "state")), None)
    notes = []
    if states is not None:
        gone = frame[states].astype(str).str.lower().isin(FAILED)
        if gone.any():
            kinds = ", ".join(f"{n} {state}" for state, n in frame.loc[gone, states].value_counts().items())
            notes.append(f"Left out because not finished: {kinds}.")
            frame = frame[~gone]
        known = frame[states].dropna().astype(str).str.lower()
        if strange := sorted({*known} - ENDED):
            raise InputError(f"{states} {strange[0]!r} is not done, diverged, or a state of a tracker")
        if not {*known} <= {"done", "diverged"} or states != "status":
            frame = frame.drop(columns=states)
    numbers = pd.to_numeric(frame[metric], errors="coerce")
    texts = frame[metric].astype(str).str.strip().str.lower()
    wrong = numbers.isna() & frame[metric].notna() & ~texts.isin(["", "none"])
    if wrong.any():
        at = frame.index[wrong]
        raise InputError(
            f"{metric} is not a number in row {at[0] + 2}: {frame.loc[at[0], metric]!r} ({len(at)} rows)"
        )
    frame = frame.assign(**{metric: numbers})
    empty = numbers.isna()
    if "status" in frame.columns:
        empty &= frame["status"].astype(str) != "diverged"
    if empty.any() and "utterance" not in frame.columns:
        notes.append(f"{int(empty.sum())} rows without {metric} are left out.")
        frame = frame[~empty]
    if frame.empty or empty.all():
        raise InputError(f"no row has a value of {metric}")
    return frame.reset_index(drop=True), notes


COUNTS = ("n_files", "num_files", "files", "n_utterances", "num_utterances", "test_files", "n")


def _check_same_files(frame: pd.DataFrame) -> None:
    """Raise InputError if a column shows that means are over different numbers of files."""
    for column in (c for c in frame.columns if _plain(c) in COUNTS):
        kinds = frame.groupby(column)["cell"].first()
        if len(kinds) > 1:
            shown = ", ".join(f"{n} ({cell})" for n, cell in kinds.items())
            raise InputError(f"these means cover different test files: {column} is {shown}")


def _seeds(frame: pd.DataFrame, by_utterance: bool) -> tuple[pd.DataFrame, list[str]]:
    """The table with integer seeds, and notes. If it lacks seeds, the rows of each cell are numbered."""
    if "seed" not in frame.columns:
        if by_utterance:
            raise InputError("no column 'seed' to recognise rows of one run; name it with --column seed=...")
        frame["seed"] = frame.groupby("cell").cumcount() + 1
        return frame, ["No column for the seed: each row counts as a separate run."]
    seeds = pd.to_numeric(frame["seed"], errors="coerce")
    if seeds.isna().any() or (seeds % 1 != 0).any():
        bad = frame.index[seeds.isna() | (seeds % 1 != 0)][0]
        raise InputError(f"the seed in row {bad + 2} is not a whole number: {frame.loc[bad, 'seed']!r}")
    frame["seed"] = seeds.astype("int64")
    twice = frame.duplicated(["cell", "seed", "utterance"], keep=False)
    if twice.any():
        first = frame[twice].iloc[0]
        rows = frame.index[twice & (frame["cell"] == first["cell"]) & (frame["seed"] == first["seed"])]
        what = f", utterance {first['utterance']!r}" if by_utterance else ""
        raise InputError(
            f"cell {first['cell']!r}, seed {first['seed']}{what} has several rows "
            f"({', '.join(str(row + 2) for row in rows[:5])}); keep one, add the factor in which they "
            "differ to --factors, or name another column with --column seed=..."
        )
    return frame, []
