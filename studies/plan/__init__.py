"""The plan of a study: cells, seeds, signatures; on disk as `studies/<name>/plan.json`.

`model` defines a plan, `resolve` makes one from a request, `store` reads and writes it, `difference` compares
two.
"""

from .difference import PlanChangedError, ResultsChangedError, check_results, compare, former, merge, rescored
from .model import AuditRecord, CorpusNote, ExtraTestSet, Look, Plan, run_label
from .resolve import add, cache_path, extend, make
from .store import find, is_done, lacks_weights, load, names, parse, run_dirs, run_of, save, study_path

__all__ = [
    "AuditRecord",
    "CorpusNote",
    "ExtraTestSet",
    "Look",
    "Plan",
    "PlanChangedError",
    "ResultsChangedError",
    "add",
    "cache_path",
    "check_results",
    "compare",
    "extend",
    "find",
    "former",
    "is_done",
    "lacks_weights",
    "load",
    "make",
    "merge",
    "names",
    "parse",
    "rescored",
    "run_dirs",
    "run_label",
    "run_of",
    "save",
    "study_path",
]
