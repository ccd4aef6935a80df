"""What `docs/architecture.md` says of the house is so."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[1]
ROOMS = ("models", "training", "ablations", "studies", "reports")
LONGEST = 400


def name_of(path: Path) -> str:
    parts = path.relative_to(HOUSE).with_suffix("").parts
    return ".".join(("ablate", *(parts[:-1] if parts[-1] == "__init__" else parts)))


SOURCES = {name_of(path): path for room in ROOMS for path in (HOUSE / room).rglob("*.py")}
TREES = {name: ast.parse(path.read_text()) for name, path in SOURCES.items()}


def imports(name: str) -> Iterator[str]:
    """The modules of the house that a module imports: at its head, late or for types alone."""
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in SOURCES)
        elif isinstance(node, ast.ImportFrom):
            package = name.split(".") if SOURCES[name].stem == "__init__" else name.split(".")[:-1]
            above = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                yield from [n for n in (f"{origin}.{alias.name}", origin) if n in SOURCES][:1]


def room_of(name: str) -> int:
    return ROOMS.index(name.split(".")[1])


def test_imports_go_from_right_to_left() -> None:
    wrong = [(name, other) for name in SOURCES for other in imports(name) if room_of(other) > room_of(name)]
    assert not wrong


def test_no_import_circle() -> None:
    graph = {name: {*imports(name)} - {name} for name in SOURCES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' <- '.join(error.args[1])}")


def test_no_long_file() -> None:
    long = {str(path): n for path in SOURCES.values() if (n := len(path.read_text().splitlines())) > LONGEST}
    assert not long


def test_tests_lie_in_the_folder_of_what_they_test() -> None:
    """`tests/training/data/test_corpus.py` tests `training/data/corpus.py`; two have no package."""
    packages = {path.parent.relative_to(HOUSE) for path in SOURCES.values() if path.stem == "__init__"}
    elsewhere = {Path(), Path("docs"), Path("phantom")}
    wrong = []
    for test in (HOUSE / "tests").rglob("test_*.py"):
        folder, name = test.parent.relative_to(HOUSE / "tests"), test.stem.removeprefix("test_")
        module = HOUSE / folder / f"{name}.py"
        below = [*(HOUSE / folder).glob(f"*/**/{name}.py"), *(HOUSE / folder).glob(f"{name}/__init__.py")]
        if folder not in packages | elsewhere or (folder in packages and not module.exists() and below):
            wrong.append(str(test.relative_to(HOUSE)))
    assert wrong == []


def test_no_two_public_classes_of_one_name() -> None:
    where = defaultdict(list)
    for name, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                where[node.name].append(name)
    assert not {name: modules for name, modules in where.items() if len(modules) > 1}


PLACE = re.compile(rf"(?:{'|'.join((*ROOMS, 'docs', 'tests', 'benchmarks', 'examples'))})/[\w./-]*")
MODULE = re.compile(rf"(?:ablate\.)?((?:{'|'.join(ROOMS)})(?:\.\w+)+)")
FOREIGN = HOUSE / "docs" / "audits.md"
"""Names files of other people's repositories."""
DOCUMENTS = [path for path in [*HOUSE.glob("*.md"), *(HOUSE / "docs").glob("*.md")] if path != FOREIGN]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documents_name_what_is_there(document: Path) -> None:
    """Files and folders in backticks exist, and so do modules and what they hold."""
    named = re.findall(r"`([^`\n]+)`", document.read_text())
    places = [word for word in named if PLACE.fullmatch(word) and not (HOUSE / word).exists()]
    modules = [word for word in named if (m := MODULE.fullmatch(word)) and not is_there(f"ablate.{m[1]}")]
    assert not [*places, *modules]


def is_there(name: str) -> bool:
    """Whether a dotted name is a module, or a word in the module that the rest of it names."""
    if name in SOURCES:
        return True
    module, _, attribute = name.rpartition(".")
    while module not in SOURCES and "." in module:
        module = module.rpartition(".")[0]
    return module in SOURCES and re.search(rf"\b{attribute}\b", SOURCES[module].read_text()) is not None


def test_the_mask_of_cores_is_asked_in_one_place():
    """It is missing on macOS."""
    asking = [name for name, path in SOURCES.items() if "sched_getaffinity" in path.read_text()]
    assert asking == ["ablate.models.cores"]


def test_the_picture_shows_the_packages_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HOUSE / "benchmarks"))
    from packages import PICTURE, draw

    assert PICTURE.read_text() == draw(), "run python benchmarks/packages.py"
