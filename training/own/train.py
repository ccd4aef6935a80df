"""A run of a training of one's own: the command called, watched, taken up again, and its test scored."""

from __future__ import annotations

import json
import logging
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ablate.models.errors import InputError
from ablate.models.plugins import load_planned

from .. import clips
from ..causes import DivergedError, Failed, Interrupted, classify, failing_as
from ..config import EvaluationJob
from ..data.corpus import Corpus, corpus_folder, find_corpus
from ..data.noisy import noisy_scores
from ..environment import git_commit, host
from ..files import replacing
from ..metrics import MetricPool
from ..progress import STATE_SECONDS, Progress
from ..rundir import Cause, RunDir, read_json, write_json, write_text
from . import outputs, words
from .code import lay_out, written_beside
from .config import OwnConfig, OwnTraining
from .outputs import CurveFile, OutputError
from .process import run_command

logger = logging.getLogger(__name__)

BEAT = 60.0
"""Seconds between two writes of the state of a command that tells nothing."""
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
FROM_OUTSIDE = {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
"""Signals that someone else sends: the attempt was lost, the command has not failed."""
PROBE = (
    "import json,sys,platform;from importlib.metadata import distributions as d;"
    "print(json.dumps({'interpreter':sys.executable,'python':platform.python_version(),"
    "'packages':dict(sorted({x.metadata['Name']:x.version for x in d() if x.metadata['Name']}.items()))}))"
)
"""What a Python interpreter is asked before it trains."""


class CommandError(Exception):
    """A command ended badly."""


class Call:
    """A command about to be run for a run directory.

    Args:
        data: the folder of the corpus.
        threads: that it may use.
    """

    def __init__(self, run: RunDir, data: Path, threads: int) -> None:
        spec = run.spec
        self.run = run
        self.own = OwnTraining.model_validate(spec["train"])
        self.overrides = OwnConfig(overrides=spec["overrides"]).overrides
        self.out = run.path / "out"
        self.work = run.path / "work"
        self.root = run.path.parent.parent
        self.copy = self.root / "code" / self.own.digest
        self.values = {
            "seed": str(spec["seed"]),
            "out": str(self.out.absolute()),
            "data": str(data),
            "config": str((run.path / "config.yaml").absolute()),
            "threads": str(threads),
        }
        self.environment = {
            **dict.fromkeys(THREADS, str(threads)),
            **os.environ,
            "PYTHONUNBUFFERED": "1",
            **(words.variables(self.overrides) if self.own.overrides == "env" else {}),
        }

    @property
    def words(self) -> list[str]:
        """The command's words, without those to resume it."""
        return words.fill(self.own.command, self.values, self.own.overrides, self.overrides)

    @property
    def resume(self) -> list[str]:
        """The words that resume it; none where there is nothing to resume from."""
        if self.own.resume is None or not Path(words.resume_file(self.own.resume, self.values)).is_file():
            return []
        return words.fill(self.own.resume, self.values, "env", {})

    def prepare(self) -> None:
        """Lay the folder out in which it runs, and remove what an earlier attempt left to be scored."""
        lay_out(self.copy, self.own.digest, Path(self.own.folder), self.own.code, self.work, self.root)
        self.out.mkdir(exist_ok=True)
        run = self.run.path
        for path in (self.out / self.own.scores, run / "scores", run / "audio", run / "summary.json"):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        if self.own.overrides == "yaml":
            write_text(Path(self.values["config"]), words.document(self.overrides))

    def set_aside(self) -> None:
        """Begin anew: what was written is kept beside, in place of what was kept before."""
        former = self.run.path / "out-failed"
        shutil.rmtree(former, ignore_errors=True)
        self.out.rename(former)

    def interpreter(self) -> dict[str, Any]:
        """The Python that runs it and what is installed there; the program alone where it is no Python."""
        program = self.words[0]
        found = {"program": shutil.which(program, path=self.environment.get("PATH")) or program}
        if not Path(program).name.startswith("python"):
            return found
        try:
            told = subprocess.run(
                [program, "-c", PROBE],
                cwd=self.work,
                env=self.environment,
                capture_output=True,
                text=True,
                timeout=60,
                check=True,
            )
            return found | json.loads(told.stdout.splitlines()[-1])
        except (OSError, subprocess.SubprocessError, ValueError, IndexError):
            return found


def train_and_score(
    run: RunDir,
    evaluations: Sequence[EvaluationJob],
    progress: Progress,
    *,
    lock: int,
    cache: Path,
    threads: int,
    processes: int,
    should_stop: Callable[[], bool],
) -> None:
    """Run the command of a run to its end, unless it has ended before, and score its tests.

    Args:
        lock: descriptor of the run's lock, which the command inherits.

    Raises:
        Failed, Interrupted, DivergedError: as a training of ours.
    """
    spec = run.spec
    with failing_as("configuration"):
        load_planned(spec.get("plugins", {}))
    with failing_as("data"):
        corpus = find_corpus(spec["corpus"]["path"], spec["corpus"]["digest"], cache=cache)
        data = corpus_folder(corpus.path, cache)
    with failing_as("configuration"):
        call = Call(run, data, threads)
    ended = run.path / "ended.json"
    if not ended.exists():
        _train(call, progress, lock, should_stop)
        try:
            with failing_as("output"):
                _check_output(call, corpus)
        except Failed:
            if should_stop():
                raise Interrupted("the command was asked to end, and left no scores") from None
            raise
        write_json(ended, {"time": time.time()})
    try:
        with failing_as("error"), MetricPool(processes, plugins=spec.get("plugins", {})) as pool:
            for job in evaluations:
                if not run.has_scores(job.signature):
                    _score(call, corpus, job, pool, cache)
    except (Failed, DivergedError) as failure:
        if isinstance(failure, DivergedError) or failure.doing == "output":
            ended.unlink()  # the next attempt calls the command again
        raise
    if not run.summary:
        run.write_summary(_summary(call, progress))


def _train(call: Call, progress: Progress, lock: int, should_stop: Callable[[], bool]) -> None:
    """Call the command until it ends well. A failure that comes twice where it was resumed is taken for the
    fault of what it was resumed from: it then begins anew."""
    former: tuple[int, str] | None = None
    while True:
        with failing_as("configuration"):
            call.prepare()
        resume = call.resume
        code, last = _attempt(call, [*call.words, *resume], bool(resume), progress, lock, should_stop)
        if code == 0:
            return
        if not resume or _was_lost(code) or former not in (None, (code, last)):
            raise _failure(code, last)
        if former is None:
            former = code, last
            logger.warning("the command failed when resumed (%s); once more", last)
        else:
            former = None
            logger.warning("the command failed twice when resumed (%s); it begins anew", last)
            call.set_aside()


def _attempt(
    call: Call,
    command: list[str],
    resumed: bool,
    progress: Progress,
    lock: int,
    should_stop: Callable[[], bool],
) -> tuple[int, str]:
    """One call; the exit code and the last words.

    Raises:
        Failed, Interrupted, DivergedError
    """
    run, own = call.run, call.own
    curve = CurveFile(call.out / own.curve if own.curve else None)
    run.write_metrics([])
    note = {"attempt": run.state.attempts, "time": time.time(), "resumed": resumed}
    run.append_attempt(note | {"environment": call.interpreter()})
    logger.info("runs %s in %s%s", shlex.join(command), call.work, " (resumed)" if resumed else "")
    beaten = counted = time.monotonic()

    def look() -> None:
        nonlocal beaten, counted
        if time.monotonic() - counted > STATE_SECONDS:
            counted = time.monotonic()
            write_json(run.path / "seconds.json", before + counted - began)
        fresh = curve.take()
        if fresh:
            run.append_metrics(*fresh)
        if fresh or time.monotonic() - beaten > BEAT:
            beaten = time.monotonic()
            last, best = curve.last, curve.best
            progress.update(
                step=last["step"] if last else 0, val_pesq_wb=best[outputs.VALUE] if best else None
            )

    before = read_json(run.path / "seconds.json") or 0.0
    began, offset = time.monotonic(), run.log.stat().st_size
    with failing_as("configuration"):
        code = run_command(
            run,
            command,
            folder=call.work,
            environment=call.environment,
            lock=lock,
            tick=look,
            should_stop=should_stop,
        )
    look()
    seconds = time.monotonic() - began
    write_json(run.path / "seconds.json", before + seconds)
    last = _last_words(run.log, offset)
    if code is None:
        raise Interrupted("the command was asked to end; it is called again next time")
    logger.info("the command ended with %d after %.0f s", code, seconds)
    run.write_metrics([curve.lines[step] for step in sorted(curve.lines)])
    if curve.refused:
        logger.warning("%d lines of %s are no JSON objects with a step", curve.refused, own.curve)
    if lost := curve.lost():
        raise DivergedError(f"{lost} is not finite in the last line of {own.curve}", {"line": curve.last})
    if code != 0 and outputs.NOT_A_NUMBER.search(last):
        raise DivergedError(f"the command ended with exit code {code}: {last}", {})
    return code, last


def _was_lost(code: int) -> bool:
    return code < 0 and -code in FROM_OUTSIDE


def _failure(code: int, last: str) -> Failed:
    """What a bad exit says: the signal or the code, and the last words."""
    cause: Cause
    if code < 0:
        name = signal.Signals(-code).name
        cause = "lost-worker" if _was_lost(code) else _told(last) or "error"
        error: Exception = CommandError(f"the command was ended by {name}" + (f": {last}" if last else ""))
    else:
        error = CommandError(f"exit code {code}: {last or 'it printed nothing'}")
        cause = _told(last) or ("configuration" if code in (2, 126, 127) else "error")
    failed = Failed(cause)
    failed.__cause__ = error
    return failed


def _told(line: str) -> Cause | None:
    """The cause that a line of output tells: memory that ran out, or a broken device."""
    if "MemoryError" in line:
        return "out-of-memory"
    cause = classify(RuntimeError(line), "error")
    return cause if cause != "error" else None


def _last_words(log: Path, offset: int, most: int = 20_000) -> str:
    """The last line with a word that a command printed; of several, one that tells of memory."""
    with log.open("rb") as file:
        end = file.seek(0, 2)
        file.seek(max(offset, end - most))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    for line in reversed(lines[-50:]):
        if _told(line):
            return line[:500]
    return lines[-1][:500] if lines else ""


def _check_output(call: Call, corpus: Corpus) -> None:
    try:
        outputs.scores_at(call.own, call.out, corpus.test)
    except OutputError as error:
        beside = written_beside(call.work, call.copy)
        if not beside:
            raise
        raise OutputError(
            f"{error}; it wrote outside {{out}}, in its own folder: {', '.join(beside)}"
        ) from None


def _score(call: Call, corpus: Corpus, job: EvaluationJob, pool: MetricPool, cache: Path) -> None:
    """Score a test, and keep a few enhanced utterances of the first."""
    run, pairs = call.run, corpus.test
    if corpus.test_digest != job.test_digest:
        raise InputError(
            f"the test files of {corpus.path} have changed: digest {corpus.test_digest[:12]}, "
            f"planned {job.test_digest[:12]}"
        )
    with failing_as("output"):
        place = outputs.scores_at(call.own, call.out, pairs)
    logger.info("scores %d test utterances (%s)", len(pairs), job.signature[:12])
    with ExitStack() as stack:
        keep = None
        if not call.own.is_table and not run.audio.exists():
            fixed = clips.fixed_utterances(pairs, noisy_scores(pairs, pool, cache=cache))
            keep = stack.enter_context(clips.kept(run.audio, fixed, run.references(job.test_digest)))
        try:
            scores = outputs.table(call.own, place, pairs, job.evaluation, pool, cache=cache, keep=keep)
        except OutputError as error:
            raise Failed("output") from error
    with replacing(run.scores_path(job.signature)) as temporary:
        scores.to_parquet(temporary, index=False)


def _summary(call: Call, progress: Progress) -> dict[str, Any]:
    """What was measured of the run once. Without a curve the whole command counts as one step."""
    run = call.run
    steps = run.state.step or 1
    seconds = read_json(run.path / "seconds.json") or 0.0
    progress.update(step=steps, steps=steps, seconds_per_step=seconds / steps)
    environments = [line["environment"] for line in run.attempts()]
    last = environments[-1]
    changed = {name for one in environments for name in one | last if one.get(name) != last.get(name)}
    return {
        "seconds_per_step": seconds / steps,
        "seconds": seconds,
        "val_pesq_wb": run.state.val_pesq_wb,
        "command": shlex.join(call.words),
        "threads": int(call.values["threads"]),
        "machine": host(),
        "git_commit": git_commit(Path(__file__).parent),
        **last,
        "changed_between_attempts": sorted(changed),
        "written_outside": written_beside(call.work, call.copy),
    }
