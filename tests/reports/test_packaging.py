"""Wheel and source distribution hold every file of the package once, from a checkout, a zip and an sdist."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PACKAGES = ("models", "training", "ablations", "studies", "reports")
OUTSIDE = ("docs", "tests", "benchmarks", "examples")


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("this is not a git checkout")
    return [name for name in listed.stdout.split("\0") if name and (REPOSITORY / name).is_file()]


def modules() -> set[str]:
    """What the wheel has to hold: each tracked file of the packages, and the root's own module."""
    inside = {name for name in tracked() if name.split("/")[0] in PACKAGES}
    return {f"ablate/{name}" for name in (*inside, "__init__.py", "py.typed")}


def test_no_link_is_tracked():
    """A checkout without symbolic links is the whole project."""
    assert not [name for name in tracked() if (REPOSITORY / name).is_symlink()]


def test_every_package_is_listed():
    """`packages` in pyproject.toml is written by hand."""
    listed = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {Path(name).parent for name in tracked() if name.endswith("__init__.py")}
    inside = {folder for folder in folders if not folder.parts or folder.parts[0] in PACKAGES}
    assert sorted(listed) == sorted(".".join(("ablate", *folder.parts)) for folder in inside)


def test_every_folder_with_code_is_a_package():
    folders = {Path(name).parent for name in tracked() if name.endswith(".py")}
    code = {folder for folder in folders if folder.parts and folder.parts[0] in PACKAGES}
    assert not [str(folder) for folder in code if not (REPOSITORY / folder / "__init__.py").is_file()]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """Wheel and source distribution from a zip of the checkout, which keeps no links; in `again` the wheel
    made from that source distribution.
    """
    place, out = tmp_path_factory.mktemp("place"), tmp_path_factory.mktemp("built")
    with zipfile.ZipFile(place / "tree.zip", "w") as packed:
        for name in tracked():
            packed.write(REPOSITORY / name, name)
    tree = place / "any-name"
    with zipfile.ZipFile(place / "tree.zip") as packed:
        packed.extractall(tree)
    build(tree, "sdist", out)
    build(tree, "wheel", out)
    with tarfile.open(next(out.glob("*.tar.gz"))) as archive:
        archive.extractall(place / "unpacked", filter="data")
    build(next((place / "unpacked").iterdir()), "wheel", out / "again")
    return out


def build(tree: Path, kind: str, out: Path) -> None:
    code = f"from setuptools import build_meta; build_meta.build_{kind}({str(out)!r})"
    out.mkdir(exist_ok=True)
    subprocess.run([sys.executable, "-c", code], cwd=tree, check=True, capture_output=True)


@pytest.mark.slow
@pytest.mark.parametrize("folder", [".", "again"])
def test_the_wheel_holds_every_file_once(built, folder):
    with zipfile.ZipFile(next((built / folder).glob("*.whl"))) as wheel:
        names = [name for name in wheel.namelist() if ".dist-info/" not in name]
    assert len(names) == len(set(names))
    assert set(names) == modules()


@pytest.mark.slow
def test_the_source_distribution_holds_every_file_once(built):
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        members = archive.getmembers()
    assert not [member.name for member in members if member.issym() or member.islnk()]
    names = [member.name.split("/", 1)[-1] for member in members if member.isfile()]
    assert len(names) == len(set(names))
    assert {name.removeprefix("ablate/") for name in modules()} <= set(names)
    assert not [name for name in names if name.split("/")[0] in OUTSIDE]


@pytest.mark.slow
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
    done = python("-c", code, cwd=tmp_path, path=tmp_path / "installed")
    first, _, rest = done.stdout.partition("\n")
    assert first == f"{tmp_path}/installed/ablate/__init__.py the user 64", done.stderr
    assert "mbsnet" in rest


@pytest.mark.slow
def test_a_clone_called_ablate_is_the_package_of_its_parent(built, tmp_path):
    """The price of a root that is the package: in its parent folder a clone comes first."""
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path / "installed")
    (tmp_path / "ablate").mkdir()
    (tmp_path / "ablate" / "__init__.py").write_text("name = 'the clone'\n")
    here = python("-c", "import ablate; print(ablate.name)", cwd=tmp_path, path=tmp_path / "installed")
    assert here.stdout.strip() == "the clone", here.stderr
    safe = python(
        "-P", "-c", "import ablate; print(ablate.__file__)", cwd=tmp_path, path=tmp_path / "installed"
    )
    assert safe.stdout.strip() == f"{tmp_path}/installed/ablate/__init__.py", safe.stderr


def python(*words: str, cwd: Path, path: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(path)}
    return subprocess.run([sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True)
