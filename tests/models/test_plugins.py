from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ablate.models import plugins
from ablate.models.errors import InputError

REPOSITORY = Path(plugins.__file__).resolve().parents[1]


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def python(tmp_path):
    """Run code as a user's Python does: `ablate` is installed, its folders are nowhere on the path."""
    installed = tmp_path / "installed"
    installed.mkdir()
    (installed / "ablate").symlink_to(REPOSITORY)

    def run(code: str, folder: Path) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(installed)},
            capture_output=True,
            text=True,
        )
        return done.stdout if done.returncode == 0 else done.stderr.strip().splitlines()[-1]

    return run


USER = {
    "models/__init__.py": "from .generator import Generator\nname = 'the user'\n",
    "models/generator.py": "class Generator:\n    pass\n",
}


@pytest.mark.parametrize("order", ["import ablate; import models", "import models; import ablate"])
@pytest.mark.slow
def test_models_is_the_users_before_and_after_ablate(python, tmp_path, order):
    code = (
        f"{order}; from ablate.models.network import build_model; from models.generator import Generator;"
        "import ablate.reports, ablate.studies.driver, ablate.ablations.audit;"
        "print(models.name, ablate.ModelConfig.__module__, ablate.build_model is build_model)"
    )
    found = python(code, write(tmp_path / "user", USER))
    assert found == "the user ablate.models.config True\n"


@pytest.mark.parametrize("start", [".", "elsewhere"])
def test_a_plugin_imports_the_models_beside_it(python, tmp_path, start):
    folder = write(
        tmp_path / "user",
        USER
        | {
            "my_net.py": "import models\nfrom models.generator import Generator\n"
            "from ablate.models import CORES\nCORES.register('the-users', Generator)\n",
        },
    )
    (folder / "elsewhere").mkdir()
    code = (
        "import sys; sys.path.remove('') if START else None;"
        f"from ablate.models.plugins import load; load([r'{folder / 'my_net.py'}']);"
        "from ablate.models import CORES; import models; print(models.name, CORES['the-users'].__name__)"
    ).replace("START", str(start != "."))
    assert python(code, folder / start) == "the user Generator\n"


def test_the_folder_of_a_plugin_comes_between_the_standard_library_and_installed_packages(python, tmp_path):
    files = {"pesq.py": "name = 'mine'\n", "random.py": "1 / 0\n", "my_net.py": "import random, pesq\n"}
    folder = write(tmp_path / "user", files)
    code = (
        f"from ablate.models.plugins import load; import sys; load([r'{folder / 'my_net.py'}']);"
        "print(sys.modules['pesq'].name)"
    )
    assert python(code, tmp_path) == "mine\n"


@pytest.mark.parametrize("user", [{}, USER])
def test_a_plugin_of_0_1_is_told_the_new_names(python, tmp_path, user):
    folder = write(tmp_path / "user", user | {"old.py": "from models import CORES\n"})
    code = f"from ablate.models.plugins import load; load([r'{folder / 'old.py'}'])"
    found = python(code, tmp_path)
    assert found.startswith("ablate.models.errors.InputError: plug-in")
    assert "its name is now `ablate.models`" in found or "write `from ablate.models import ...`" in found


def test_this_project_under_another_name_is_refused(python, tmp_path):
    folder = write(tmp_path / "user", {"old.py": "from training.config import Recipe\n"})
    code = f"from ablate.models.plugins import load; load([r'{folder / 'old.py'}'])"
    found = python(code, REPOSITORY)
    assert "imports 'training'" in found
    assert "write `from ablate.training import ...`" in found


def test_another_folder_of_that_name_is_refused(python, tmp_path):
    first = write(tmp_path / "first", USER | {"one.py": "import models\n"})
    second = write(tmp_path / "second", USER | {"two.py": "import models\n"})
    paths = [str(first / "one.py"), str(second / "two.py")]
    code = f"from ablate.models.plugins import load; load({paths})"
    found = python(code, tmp_path)
    assert f"imports 'models', which is {first / 'models' / '__init__.py'} in this process" in found


CODE = {
    "my_net.py": "import json\nimport blocks_of_test.deep\nfrom helper_of_test import *\n"
    "def build():\n    import late_of_test\n",
    "blocks_of_test/__init__.py": "",
    "blocks_of_test/deep.py": "from . import deeper\nfrom .. import nothing\n",
    "blocks_of_test/deeper.py": "",
    "blocks_of_test/unused.py": "",
    "helper_of_test.py": "from spaces_of_test.inner import x\n",
    "spaces_of_test/inner.py": "x = 1\n",
    "late_of_test.py": "import my_net\n",
    "json.py": "",
    "unused.py": "",
}


def test_the_code_of_a_plugin_is_what_it_imports_from_its_folder(tmp_path):
    folder = write(tmp_path, CODE)
    found = {file.relative_to(folder).as_posix() for file in plugins.sources(folder / "my_net.py")}
    assert found == set(CODE) - {"json.py", "unused.py", "blocks_of_test/unused.py"}


@pytest.mark.parametrize("name", sorted(CODE))
def test_the_digest_is_of_all_its_code(tmp_path, name):
    write(tmp_path / "a", CODE)
    write(tmp_path / "b", CODE)
    first, second = (plugins.code_digest(tmp_path / x / "my_net.py") for x in "ab")
    assert first == second
    with (tmp_path / "b" / name).open("a") as file:
        file.write("# changed\n")
    counts = name not in ("json.py", "unused.py", "blocks_of_test/unused.py")
    assert (plugins.code_digest(tmp_path / "b" / "my_net.py") != first) is counts


def test_changed_code_is_refused(tmp_path):
    path = write(tmp_path, {"net.py": "x = 1\n"}) / "net.py"
    planned = plugins.digests([path])
    assert plugins.load_planned(planned) == plugins.load([path])
    with pytest.raises(InputError, match=f"has changed since this run was planned .*{'0' * 12}"):
        plugins.load_planned({str(path): "0" * 64})
    path.write_text("x = 2\n")
    with pytest.raises(InputError, match="since this process imported it; start again"):
        plugins.digests([path])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("none.py", None, "none.py does not exist"),
        ("net.txt", "", "is not a Python file"),
        ("broken.py", "x = (\n", "fails when imported: SyntaxError"),
        ("failing.py", "1 / 0\n", "fails when imported: ZeroDivisionError"),
    ],
)
def test_what_cannot_be_loaded(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    for _ in range(2):
        with pytest.raises(InputError, match=message):
            plugins.load([tmp_path / name])


CHATTY = """
import torch
from ablate.models import ARCHITECTURES, PRESETS, ModelConfig
print("imported")
class Chatty(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        print("built")
        self.scale = torch.nn.Parameter(torch.ones(1))
    def forward(self, noisy):
        print("run")
        return self.scale * noisy
ARCHITECTURES.register("chatty-of-test", Chatty)
PRESETS["chatty-of-test"] = ModelConfig(architecture="chatty-of-test")
"""


@pytest.mark.slow
def test_what_a_network_prints_goes_to_stderr(tmp_path):
    path = write(tmp_path, {"chatty_of_test.py": CHATTY}) / "chatty_of_test.py"
    command = "from ablate.reports.cli import main; main()"
    asked = ["models", "chatty-of-test", "--plugin", str(path), "--format", "json"]
    done = subprocess.run(
        [sys.executable, "-c", command, *asked],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["causal"] is None
    assert {"imported", "built", "run"} <= set(done.stderr.split())
