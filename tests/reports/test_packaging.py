"""Wheel and source distribution follow the links in `ablate/`: every file once, no tests, the template."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
ROOMS = ("models", "training", "ablations", "studies", "reports")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with the wheel, the source distribution, and under `again` the wheel made from that."""
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("built")
    for name in ("ablate", *ROOMS, "tests"):
        shutil.copytree(
            REPOSITORY / name, tree / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(REPOSITORY / name, tree)
    build(tree, "sdist", out)
    build(tree, "wheel", out)
    with tarfile.open(next(out.glob("*.tar.gz"))) as archive:
        archive.extractall(tree / "unpacked", filter="data")
    build(next((tree / "unpacked").iterdir()), "wheel", out / "again")
    return out


def build(tree: Path, kind: str, out: Path) -> None:
    code = f"from setuptools import build_meta; build_meta.build_{kind}({str(out)!r})"
    out.mkdir(exist_ok=True)
    subprocess.run([sys.executable, "-c", code], cwd=tree, check=True, capture_output=True)


def modules() -> set[str]:
    return {
        f"ablate/{path.relative_to(REPOSITORY).as_posix()}"
        for room in ROOMS
        for pattern in ("*.py", "*.j2", "*.css")
        for path in (REPOSITORY / room).rglob(pattern)
    } | {"ablate/__init__.py"}


@pytest.mark.parametrize("folder", [".", "again"])
def test_the_wheel_holds_every_file_once(built, folder):
    with zipfile.ZipFile(next((built / folder).glob("*.whl"))) as wheel:
        names = [name for name in wheel.namelist() if ".dist-info/" not in name]
    assert len(names) == len(set(names))
    assert set(names) == modules()


def test_the_source_distribution_holds_every_file_once(built):
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        members = archive.getmembers()
    assert not [member.name for member in members if member.issym() or member.islnk()]
    names = [member.name.split("/", 1)[-1] for member in members if member.isfile()]
    assert len(names) == len(set(names))
    held = {name for name in names if "/" in name and ".egg-info/" not in name}
    assert held == modules()


def test_the_wheel_works_where_the_source_is_not(built, tmp_path):
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path / "installed")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").write_text("name = 'the user'\n")
    code = (
        "import ablate, models, ablate.reports.cli as cli;"
        "print(ablate.__file__, models.name, ablate.build_model('bsrnn').config.channels);"
        "import sys; sys.argv = ['ablate', 'models']; cli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "installed")},
        capture_output=True,
        text=True,
    )
    first, _, rest = done.stdout.partition("\n")
    assert first == f"{tmp_path}/installed/ablate/__init__.py the user 64", done.stderr
    assert "mbsnet" in rest
