"""Wheel and source distribution hold every file of the package once, from a checkout, a zip and an sdist."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import yaml

from ablate.models.distribution import DISTRIBUTION

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


OTHER = """from setuptools import setup
setup(name="ablate", version="0.2.3", packages=["ablate", "ablate.blocks"])
"""
"""A distribution that writes the files which the other project called `ablate` writes."""


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Path:
    tree = tmp_path_factory.mktemp("other")
    (tree / "setup.py").write_text(OTHER)
    for folder in (tree / "ablate", tree / "ablate" / "blocks"):
        folder.mkdir()
        (folder / "__init__.py").write_text("Report = 'of the other'\n")
    build(tree, "wheel", tree)
    return next(tree.glob("*.whl"))


@pytest.mark.slow
def test_the_other_project_of_the_name_is_noticed(built, other, tmp_path):
    """Both orders of installing, and what is left after one is uninstalled."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    ours, bin = next(built.glob("*.whl")), tmp_path / "venv" / "bin"
    packages = next((tmp_path / "venv" / "lib").glob("python*/site-packages"))
    (packages / "needed.pth").write_text(sysconfig.get_path("purelib"))

    def pip(*words: object) -> None:
        command = [sys.executable, "-m", "pip", "--python", bin / "python", *map(str, words)]
        subprocess.run(command, check=True, capture_output=True)

    def said() -> tuple[str, str]:
        done = subprocess.run([bin / "ablate", "--version"], cwd=tmp_path, capture_output=True, text=True)
        return done.stdout, done.stderr

    version = f"ablate {metadata.version('ablate-speech')}\n"
    install = ("install", "--no-deps", "--no-index", "--force-reinstall")
    pip(*install, ours)
    assert said() == (version, "")
    pip(*install, other)
    out, warned = said()
    assert out == version
    assert "another project, ablate 0.2.3" in warned
    assert "pip uninstall ablate, then pip install --force-reinstall --no-deps ablate-speech" in warned
    doctor = subprocess.run([bin / "ablate", "doctor"], cwd=tmp_path, capture_output=True, text=True)
    assert "another project, ablate 0.2.3" in doctor.stdout
    pip("uninstall", "--yes", "ablate")
    out, warned = said()
    assert out == version
    assert "ablate/__init__.py of ablate-speech is missing" in warned
    pip(*install, ours)
    assert said() == (version, "")
    pip("uninstall", "--yes", "ablate-speech")
    pip(*install, other)
    pip(*install, ours)
    assert "another project, ablate 0.2.3" in said()[1]


def test_messages_name_the_distribution_that_is_built():
    assert tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["name"] == DISTRIBUTION


def test_the_version_to_cite_is_the_version():
    cited = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())["version"]
    assert cited == tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]


def python(*words: str, cwd: Path, path: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(path)}
    return subprocess.run([sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True)
