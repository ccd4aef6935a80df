"""A run of a training command: the command called, watched, taken up again, and its test scored."""

from __future__ import annotations

import json
import logging
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablate.models.errors import InputError, listed
from ablate.models.plugins import load_planned

from .. import audio_samples
from ..config import EvaluationJob
from ..contract import Assignment, Program
from ..data.corpus import Corpus, Pair, corpus_folder, find_corpus, located
from ..environment import git_commit, host
from ..failures import DivergedError, Interrupted, RunFailure, failure_cause
from ..metrics import MetricPool
from ..progress import STATE_SECONDS, Progress
from ..rundir import RunDir, read_json, write_json, write_text
from . import argv, outputs
from .code import changed_since, last_change, lay_out, written_beside
from .config import CommandConfig, TrainingCommand
from .ending import ending, failure, says_diverged, was_lost
from .outputs import CurveFile, OutputError
from .process import run_command

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

BEAT = 60.0
"""Seconds between two writes of the state of a command that tells nothing."""
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
PROBE = (
    "import json,sys,platform;from importlib.metadata import distributions as d;"
    "print(json.dumps({'interpreter':sys.executable,'python':platform.python_version(),"
    "'packages':dict(sorted({x.metadata['Name']:x.version for x in d() if x.metadata['Name']}.items()))}))"
)
"""What a Python interpreter is asked before it trains."""


class Call:
    """A command about to be run for a run directory.

    Args:
        data: the folder of the corpus.
        threads: that it may use.
    """

    def __init__(self, run: RunDir, data: Path, threads: int) -> None:
        spec = run.spec
        self.run = run
        self.own = TrainingCommand.model_validate(spec["train"])
        self.overrides = CommandConfig(overrides=spec["overrides"]).overrides
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
            **(argv.variables(self.overrides) if self.own.overrides == "env" else {}),
        }

    @property
    def words(self) -> list[str]:
        """The command's words, without those to resume it."""
        return argv.fill(self.own.command, self.values, self.own.overrides, self.overrides)

    @property
    def resume(self) -> list[str]:
        """The words that resume it; none where there is nothing to resume from."""
        own = self.own
        if own.resume is None or own.resumes_itself:
            return []
        there = Path(argv.resume_file(own.resume, self.values)).is_file()
        return argv.fill(own.resume, self.values, "env", {}) if there else []

    def prepare(self) -> list[Path]:
        """Lay the folder out in which it runs, and what is linked there. An attempt that begins anew finds
        nothing of an earlier one, one that is resumed no files to be scored."""
        links = lay_out(self.copy, self.own, self.work, self.root)
        scores = self.out / self.own.scores
        if not self.resume and not self.own.resumes_itself:
            self.set_aside()
        elif not self.own.resumes_itself and scores.is_dir() and not scores.is_symlink():
            shutil.rmtree(scores)
        elif not self.own.resumes_itself:
            scores.unlink(missing_ok=True)
        self.out.mkdir(exist_ok=True)
        if self.own.overrides == "yaml":
            write_text(Path(self.values["config"]), argv.document(self.overrides))
        return links

    def set_aside(self) -> None:
        """Begin anew: what was written is kept beside, in place of what was kept before."""
        if self.out.is_dir() and any(self.out.iterdir()):
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


class Command(Program):
    """A user's command, opened for a run."""

    def __init__(self, call: Call, corpus: Corpus, assignment: Assignment, stack: ExitStack) -> None:
        self.call = call
        self.corpus = corpus
        self._assignment = assignment
        self._stack = stack

    @cached_property
    def pool(self) -> MetricPool:
        given = self._assignment
        processes = given.threads if given.processes is None else given.processes
        return self._stack.enter_context(MetricPool(processes, plugins=given.run.spec.get("plugins", {})))

    @property
    def has_audio(self) -> bool:
        return not self.call.own.is_table

    def train(self) -> None:
        """Call the command unless it has ended well before, and check what it left, which is kept."""
        given, call, ended = self._assignment, self.call, self.call.run.path / "ended.json"
        if not ended.exists():
            _train(call, given)
        try:
            outputs.check(call.own, call.out, self.corpus.test)
        except OutputError as error:
            if given.should_stop() and not ended.exists():
                raise Interrupted("the command was asked to end, and left no scores") from None
            write_json(ended, {"time": time.time()})
            beside = written_beside(call.work, call.copy)
            where = f"; it wrote outside {{out}}, in its own folder: {', '.join(beside)}" if beside else ""
            again = "; put them there and use --retry-failed, or train again with --rerun CELL"
            raise RunFailure("output") from OutputError(f"{error}{where}{again}")
        write_json(ended, {"time": time.time()})
        call.run.write_summary(_summary(call, given.progress))

    def pairs(self, job: EvaluationJob) -> Sequence[Pair]:
        if self.corpus.test_digest != job.test_digest:
            raise InputError(
                f"the test files of {self.corpus.path} have changed: digest {self.corpus.test_digest[:12]}, "
                f"planned {job.test_digest[:12]}"
            )
        return self.corpus.test

    def scores(
        self, job: EvaluationJob, pairs: Sequence[Pair], keep: audio_samples.Keep | None
    ) -> pd.DataFrame:
        call, cache = self.call, self._assignment.cache
        with failure_cause("output"):
            place = outputs.scores_at(call.own, call.out, pairs)
            return outputs.table(call.own, place, pairs, job.evaluation, self.pool, cache=cache, keep=keep)


@contextmanager
def opened(assignment: Assignment) -> Iterator[Command]:
    """Read the spec, find the corpus."""
    run, cache = assignment.run, assignment.cache
    spec = run.spec
    with failure_cause("configuration"):
        load_planned(spec.get("plugins", {}))
    with failure_cause("data"):
        rate = TrainingCommand.model_validate(spec["train"]).sample_rate
        corpus = find_corpus(**located(spec), cache=cache, rate=rate)
        data = corpus_folder(corpus.path, cache)
    with failure_cause("configuration"):
        call = Call(run, data, assignment.threads)
    with ExitStack() as stack:
        yield Command(call, corpus, assignment, stack)


def _train(call: Call, given: Assignment) -> None:
    """Call the command until it ends well. A failure that comes twice where it was resumed is taken for the
    fault of what it was resumed from: it then begins anew."""
    former: tuple[int, str] | None = None
    while True:
        code, last, resumed = _attempt(call, given)
        if code == 0:
            return
        if not resumed or was_lost(code) or former not in (None, (code, last)):
            raise failure(code, last)
        if former is None:
            former = code, last
            logger.warning("the command failed when resumed (%s); once more", last)
        else:
            former = None
            logger.warning("the command failed twice when resumed (%s); it begins anew", last)
            call.set_aside()


def _attempt(call: Call, given: Assignment) -> tuple[int, str, bool]:
    """One call; the exit code, the last words, and whether it was resumed.

    Raises:
        RunFailure, Interrupted, DivergedError
    """
    run, own, progress = call.run, call.own, given.progress
    with failure_cause("configuration"):
        links = call.prepare()
    resume = call.resume
    command = [*call.words, *resume]
    curve = CurveFile(call.out / own.curve if own.curve else None)
    run.write_metrics([])
    progress.update(step=0, val_pesq_wb=None)
    former = run.attempts()[-1:] if given.before.state in ("pending", "running") else []
    linked = former[0].get("linked") if former else None
    linked = last_change(links) if linked is None else linked
    note = {"attempt": run.state.attempts, "time": time.time(), "resumed": bool(resume), "linked": linked}
    run.append_attempt(note | {"environment": call.interpreter()})
    logger.info("runs %s in %s%s", shlex.join(command), call.work, " (resumed)" if resume else "")
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
    with failure_cause("configuration"):
        code = run_command(
            run,
            command,
            folder=call.work,
            environment=call.environment,
            lock=given.lock,
            tick=look,
            should_stop=given.should_stop,
        )
    look()
    seconds = time.monotonic() - began
    write_json(run.path / "seconds.json", before + seconds)
    if changed := changed_since(links, linked):
        raise RunFailure("changed-link") from InputError(_who_changed(run, changed, note["time"]))
    if code is None:
        raise Interrupted("the command was asked to end; it is called again next time")
    code, last = ending(code, run.log, offset)
    logger.info("the command ended with %d after %.0f s", code, seconds)
    run.write_metrics([curve.lines[step] for step in sorted(curve.lines)])
    if curve.refused:
        logger.warning("%d lines of %s are no JSON objects with a step", curve.refused, own.curve)
    if code >= 0 and (lost := curve.lost()):
        raise DivergedError(f"{lost} is not finite at the end of {own.curve}", {"line": curve.last})
    if code > 0 and says_diverged(last):
        raise DivergedError(f"the command ended with exit code {code}: {last}", {})
    return code, last, bool(resume)


def _who_changed(run: RunDir, changed: Sequence[str], since: float) -> str:
    """Which linked paths changed, and the runs that may have done it."""
    beside = []
    for other in map(RunDir, run.path.parent.iterdir()):
        state = other.state
        if other.path != run.path and (state.finished or state.updated or 0.0) > since:
            beside.append(other.signature[:12])
    others = f", or one of the runs beside it ({listed(beside, 5)})" if beside else ""
    return (
        f"{listed(list(changed), 3)} changed while the command ran: this run wrote there{others}, or "
        "somebody else; files of train.folder are linked into every run: write below {out} alone, put "
        "back what was there, and use --retry-failed"
    )


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
