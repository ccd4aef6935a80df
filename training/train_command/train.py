"""A run of a training command: calls, watches and resumes it, and scores its test."""

from __future__ import annotations

import json
import logging
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
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
from ..files import newest
from ..metrics import MetricPool
from ..progress import STATE_SECONDS, Progress
from ..rundir import RunDir, read_json, write_json, write_text
from ..subprocess_env import THREADS
from . import argv, outputs
from .code import changes, lay_out, written_beside
from .config import LOG, CommandConfig, TrainingCommand
from .config_files import text
from .curve import LiveCurve, log_start
from .outputs import OutputError
from .process import ending, fail, find_python, free_port, run_command, says_diverged, was_lost

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

BEAT = 60.0
"""Seconds between two writes of the state if a command reports nothing."""
PROBE = (
    "import json,sys,platform;from importlib.metadata import distributions as d;"
    "print(json.dumps({'interpreter':sys.executable,'python':platform.python_version(),"
    "'packages':dict(sorted({x.metadata['Name']:x.version for x in d() if x.metadata['Name']}.items()))}))"
)
"""Asks a Python interpreter for its version and packages before it trains."""


@dataclass
class Call:
    """The commands of a run, with their values.

    Args:
        given: overrides.
        data: the folder of the corpus.
        gpus: None: those that this process sees.
    """

    run: RunDir
    own: TrainingCommand
    given: Mapping[str, Any]
    seed: int
    data: Path
    threads: int
    gpus: str | None = None

    def __post_init__(self) -> None:
        self.out = self.run.path / "out"
        self.work = self.run.work
        self.root = self.run.path.parent.parent
        self.copy = self.root / "code" / self.own.digest
        self.values = {
            "seed": str(self.seed),
            "out": str(self.out.absolute()),
            "data": str(self.data),
            "config": str((self.run.path / f"config{self.own.ending}").absolute()),
            "threads": str(self.threads),
            "port": str(free_port()),
            "gpus": os.environ.get("CUDA_VISIBLE_DEVICES", "") if self.gpus is None else self.gpus,
            "gpu_count": str(self.own.gpus),
        }
        self.overrides = {key: argv.filled(value, self.values) for key, value in self.given.items()}
        self.variables = argv.variables(self.overrides) if self.own.overrides == "env" else {}
        threads = dict.fromkeys(THREADS, str(self.threads))
        self.environment = {**threads, **os.environ, "PYTHONUNBUFFERED": "1", **self.variables}

    @property
    def ended(self) -> int:
        """How many of its commands have succeeded; an attempt begins with the next one."""
        return read_json(self.run.path / "commands.json") or 0

    @ended.setter
    def ended(self, count: int) -> None:
        write_json(self.run.path / "commands.json", count)

    def words(self, which: int = 0) -> list[str]:
        """The words of one of its commands, without those to resume it. In a later one, a glob below `{out}`
        becomes the newest matching file."""
        filled = argv.fill(self.own.commands[which], self.values, self.own.overrides, self.overrides)
        return [self._newest(word) or word for word in filled] if which else filled

    def _newest(self, word: str) -> str | None:
        """A word with its glob below `{out}` replaced by the newest match; None without a match."""
        before, out, pattern = word.partition(self.values["out"] + "/")
        if not pattern:
            return word
        found = newest(self.out, pattern)
        return None if found is None else before + out + found.relative_to(self.out).as_posix()

    @property
    def resume(self) -> list[str]:
        """The words that resume its first command; none if there is nothing to resume."""
        if self.own.resume is None or self.own.resumes_itself or self.ended:
            return []
        filled = argv.fill(self.own.resume, self.values, "env", {})
        there = [word for word in map(self._newest, filled) if word is not None]
        return there if len(there) == len(filled) else []

    def prepare(self) -> list[Path]:
        """Lay out its folder and return the linked paths. A fresh attempt finds nothing of an earlier one; a
        resumed one finds no old files to score."""
        links = lay_out(self.copy, self.own, self.work, self.root)
        scores = self.out / self.own.scores
        if self.own.resumes_itself or self.ended:
            pass
        elif not self.resume:
            self.set_aside()
        elif scores.is_dir() and not scores.is_symlink():
            shutil.rmtree(scores)
        else:
            scores.unlink(missing_ok=True)
        self.out.mkdir(exist_ok=True)
        self.write_config(self.copy)
        return links

    def write_config(self, code: Path | None = None) -> None:
        """Write the file with the overrides, if its style has one; it is merged into the file of the code."""
        if self.own.overrides in argv.FILES:
            base = self.own.base(code)
            write_text(Path(self.values["config"]), text(base, self.overrides, self.own.ending))

    def set_aside(self) -> None:
        """Move the output to `out-failed/`, replacing an earlier one, to start from scratch."""
        if self.out.is_dir() and any(self.out.iterdir()):
            former = self.run.path / "out-failed"
            shutil.rmtree(former, ignore_errors=True)
            self.out.rename(former)

    def interpreter(self) -> dict[str, Any]:
        """Its Python and the packages installed there; only the program if it is not a Python."""
        words, path = self.words(self.ended), self.environment.get("PATH")
        found = {"program": shutil.which(words[0], path=path) or words[0]}
        if python := find_python(words, path):
            place: dict[str, Any] = {"cwd": self.work, "env": self.environment}
            with suppress(OSError, subprocess.SubprocessError, ValueError, IndexError):
                told = subprocess.run(
                    [python, "-c", PROBE], **place, capture_output=True, timeout=60, check=True
                )
                found |= json.loads(told.stdout.splitlines()[-1])
        return found


class Command(Program):
    """A user's command, opened for a run."""

    def __init__(self, call: Call, corpus: Corpus, pool: MetricPool, assignment: Assignment) -> None:
        self.call = call
        self.corpus = corpus
        self.pool = pool
        self.has_audio = not call.own.is_table
        self._assignment = assignment

    def train(self) -> None:
        """Call the command unless it has succeeded before. Its output is kept; if it cannot be scored, the
        evaluation fails."""
        given, call, ended = self._assignment, self.call, self.call.run.path / "ended.json"
        if not ended.exists():
            _train(call, given)
        try:
            outputs.check(call.own, call.out, self.corpus.test)
        except OutputError:
            if given.should_stop() and not ended.exists():
                call.ended = len(call.own.commands) - 1
                raise Interrupted("the command was asked to end and left no scores") from None
        except DivergedError:
            call.ended = 0
            raise
        write_json(ended, {"time": time.time()})
        call.run.write_summary(_summary(call, given.progress))

    def pairs(self, job: EvaluationJob) -> Sequence[Pair]:
        if self.corpus.test_digest != job.test_digest:
            raise InputError(
                f"the test files of {self.corpus.path} have changed: their digest is "
                f"{self.corpus.test_digest[:12]}, planned {job.test_digest[:12]}"
            )
        return self.corpus.test

    def scores(
        self, job: EvaluationJob, pairs: Sequence[Pair], keep: audio_samples.Keep | None
    ) -> pd.DataFrame:
        call, cache = self.call, self._assignment.cache
        with failure_cause("output"):
            try:
                left = outputs.scores_at(call.own, call.out, pairs)
                return outputs.table(left, pairs, job.evaluation, self.pool, cache=cache, keep=keep)
            except OutputError as error:
                beside = written_beside(call.work, call.copy)
                where = f"; it wrote outside {{out}}, next to its code: {', '.join(beside)}" if beside else ""
                raise OutputError(
                    f"{error}{where}; correct scores in the study file, or add the files, then run ablate "
                    "retry (this does not train again)"
                ) from None


@contextmanager
def opened(assignment: Assignment) -> Iterator[Command]:
    """Read the spec, find the corpus."""
    run, cache = assignment.run, assignment.cache
    spec = run.spec
    with failure_cause("configuration"):
        load_planned(spec.get("plugins", {}))
        own = TrainingCommand.model_validate(spec["train"])
    with failure_cause("data"):
        corpus = find_corpus(**located(spec), cache=cache, rate=own.sample_rate)
        data = corpus_folder(corpus.path, cache)
    with failure_cause("configuration"):
        overrides = CommandConfig(overrides=spec["overrides"]).overrides
        call = Call(run, own, overrides, spec["seed"], data, assignment.threads)
    processes = assignment.threads if assignment.processes is None else assignment.processes
    with MetricPool(processes, plugins=spec.get("plugins", {})) as pool:
        yield Command(call, corpus, pool, assignment)


def _train(call: Call, given: Assignment) -> None:
    """Call the commands until all have succeeded. If a resumed one fails twice in the same way, its
    checkpoint is taken for the cause and it starts from scratch."""
    former: tuple[int, str] | None = None
    while call.ended < len(call.own.commands):
        code, last, resumed = _attempt(call, given)
        if code == 0:
            if given.should_stop() and call.ended + 1 < len(call.own.commands):
                raise Interrupted("the command was asked to end; it is not known whether it had finished")
            call.ended += 1
        elif not resumed or was_lost(code) or former not in (None, (code, last)):
            fail(code, last)
        elif former is None:
            former = code, last
            logger.warning("the command failed when resumed (%s); trying once more", last)
        else:
            former = None
            logger.warning("the command failed twice when resumed (%s); it restarts from scratch", last)
            call.set_aside()


def _attempt(call: Call, given: Assignment) -> tuple[int, str, bool]:
    """One call: exit code, last words, and whether it was resumed.

    Raises:
        RunFailure, Interrupted, DivergedError
    """
    run, own, progress = call.run, call.own, given.progress
    with failure_cause("configuration"):
        links = call.prepare()
    resume, later = call.resume, call.ended > 0
    command = [*call.words(call.ended), *resume]
    offset, since, now = run.log.stat().st_size, time.time(), time.time_ns()
    lost = run.attempts()[-1:] if given.before.state in ("pending", "running") else []
    linked = (lost and lost[0].get("linked")) or max(
        (moment for moment in changes(links).values() if moment < now), default=now
    )
    goes_on = later or bool(resume) or own.resumes_itself
    start, known = (log_start(run), run.metrics()) if goes_on else (offset, [])
    curve = LiveCurve(own.curve, run, start, known)
    curve.take(ended=True)  # lines that a killed worker did not live to read
    run.write_metrics(curve.ordered)
    progress.update(**curve.state | {"curve_problem": None})
    run.append_attempt(
        {
            "attempt": run.state.attempts,
            "time": since,
            "resumed": later or bool(resume),
            "linked": linked,
            "log": offset,
            "environment": call.interpreter(),
        }
    )
    logger.info("runs %s in %s%s", shlex.join(command), call.work, " (resumed)" if resume else "")
    before = read_json(run.path / "seconds.json") or 0.0
    began = beaten = counted = time.monotonic()

    def look(ended: bool = False) -> None:
        nonlocal beaten, counted
        now = time.monotonic()
        if ended or now - counted > STATE_SECONDS:
            counted = now
            write_json(run.path / "seconds.json", before + now - began)
        if fresh := curve.take(ended):
            run.write_metrics(curve.ordered)
        if fresh or ended or now - beaten > BEAT:
            beaten = now
            progress.update(**curve.state | ({} if ended else {"curve_problem": None}))

    with failure_cause("configuration"):
        code = run_command(given, command, call.environment, look)
    look(ended=True)
    if changed := [path for path, moment in changes(links).items() if moment > linked]:
        raise RunFailure("changed-link") from InputError(_who_changed(run, changed, since))
    if code is None:
        raise Interrupted("the command was asked to end; it is called again next time")
    code, last = ending(code, run.log, offset)
    logger.info("the command ended with %d after %.0f s", code, counted - began)
    if curve.problem:
        logger.warning("no curve: %s", curve.problem)
    if own.curve is not None and code >= 0 and (loss := curve.lost()):
        where = "its output" if own.curve.file == LOG else own.curve.file
        raise DivergedError(f"{loss} is not finite at the end of {where}", {"line": curve.ordered[-1]})
    if code > 0 and says_diverged(last):
        raise DivergedError(f"the command ended with exit code {code}: {last}", {})
    return code, last, bool(resume)  # a later command is not resumed


def _who_changed(run: RunDir, changed: Sequence[str], since: float) -> str:
    """A message on changed linked paths and the runs that may have changed them."""
    others = {other.name: RunDir(other).state for other in run.path.parent.iterdir() if other != run.path}
    beside = [name[:12] for name, state in others.items() if (state.finished or state.updated or 0.0) > since]
    or_others = f", or one of the simultaneous runs ({listed(beside, 5)})" if beside else ""
    return (
        f"{listed(list(changed), 3)} changed while the command ran: this run wrote there{or_others}, or "
        "someone else. Files of train.folder are linked into every run: write only below {out}, "
        "restore the files, and run ablate retry"
    )


def _summary(call: Call, progress: Progress) -> dict[str, Any]:
    """The measurements of the run. Without a curve the whole command counts as one step."""
    run, commands = call.run, call.own.commands
    steps = run.state.step or 1
    seconds = read_json(run.path / "seconds.json") or 0.0
    progress.update(step=steps, steps=steps, seconds_per_step=seconds / steps)
    *former, last = [line["environment"] for line in run.attempts()]
    return {
        "seconds_per_step": seconds / steps,
        "seconds": seconds,
        "val_pesq_wb": run.state.val_pesq_wb,
        "command": "; ".join(shlex.join(call.words(which)) for which in range(len(commands))),
        "threads": int(call.values["threads"]),
        "machine": host(),
        "git_commit": git_commit(Path(__file__).parent),
        "commit": call.own.commit,
        **last,
        "changed_between_attempts": sorted({n for o in former for n in o | last if o.get(n) != last.get(n)}),
        "written_outside": written_beside(call.work, call.copy),
    }
