from __future__ import annotations

from io import StringIO
from types import SimpleNamespace

from rich.console import Console

from ablate.studies.progress import ConsoleProgress


def test_every_round_is_counted_for_itself():
    told = StringIO()
    progress = ConsoleProgress(Console(file=told))
    for jobs, done in ((2, 0), (3, 1)):
        progress.start(jobs, done)
        progress.ended(SimpleNamespace(name="base seed 1"), "done", final=True)
        progress.close()
    assert told.getvalue().splitlines() == ["[1/2] base seed 1: done", "[2/3] base seed 1: done"]


def test_a_line_is_never_folded_outside_a_terminal():
    told = StringIO()
    progress = ConsoleProgress(Console(file=told, width=40))
    progress.start(1, 0)
    progress.ended(SimpleNamespace(name="bidirectional+decoder4x+crossband seed 1 at 2"), "done", final=True)
    assert told.getvalue() == "[1/1] bidirectional+decoder4x+crossband seed 1 at 2: done\n"
