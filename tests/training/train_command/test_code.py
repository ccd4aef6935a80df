import subprocess

import pytest

from ablate.models.errors import InputError
from ablate.training.train_command import code
from ablate.training.train_command.config import TrainingCommand


@pytest.fixture
def folder(tmp_path):
    """A repository with code, a README, data, a hidden folder and a virtual environment."""
    place = tmp_path / "repo"
    for name in (
        *("train.py", "README.md", "conf.yaml", "net/model.py", "net/deep/core.py", "net/weights.bin"),
        *("data/clean/a.wav", ".hidden/x.py", "venv/pyvenv.cfg", "venv/lib/site.py", "runs/old/train.py"),
    ):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(f"# {name}\n")
    return place


def test_source_files_are_code(folder):
    (folder / "other.yaml").write_text("train:\n  command: x\nfactors:\n  y: {}\n")
    names = list(code.find_code(folder, (), [folder / "runs"]))
    assert names == ["conf.yaml", "net/deep/core.py", "net/model.py", "train.py"]


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (["*.py"], ["train.py"]),
        (["**/*.py"], ["net/deep/core.py", "net/model.py", "train.py"]),
        (["net/**"], ["net/deep/core.py", "net/model.py", "net/weights.bin"]),
        (["train.py", "net/*"], ["net/model.py", "net/weights.bin", "train.py"]),
    ],
)
def test_patterns_name_code(folder, patterns, names):
    assert list(code.find_code(folder, patterns, [folder / "runs"])) == names


def test_what_git_ignores_is_no_code(folder):
    subprocess.run(["git", "-C", folder, "init", "-q"], check=True)
    (folder / ".gitignore").write_text("conf.yaml\nruns/\n")
    assert list(code.find_code(folder, ())) == ["net/deep/core.py", "net/model.py", "train.py"]


def test_the_digest_is_of_names_and_contents_of_code_alone(folder):
    def digest():
        return code.digest_of(code.find_code(folder, ()))

    before = digest()
    (folder / "README.md").write_text("other words")
    assert digest() == before
    (folder / "net/model.py").write_text("# other code")
    changed = digest()
    assert changed != before
    (folder / "net/model.py").rename(folder / "net/network.py")
    assert digest() not in (before, changed)


def test_bad_code_is_refused(folder, tmp_path, monkeypatch):
    for patterns, said in ((["*.jl"], "matches no file"), (["../*.py"], "use patterns within it")):
        with pytest.raises(InputError, match=said):
            code.find_code(folder, patterns)
    with pytest.raises(InputError, match="does not exist"):
        code.find_code(tmp_path / "nowhere", ())
    monkeypatch.setattr(code, "MOST_FILES", 3)
    with pytest.raises(InputError, match="too much for code"):
        code.find_code(folder, ())


def laid_out(folder, tmp_path):
    patterns = ("**/*.py", "*.yaml")
    files = code.find_code(folder, patterns, [folder / "runs"])
    digest = code.digest_of(files)
    copy = code.keep(files, digest, tmp_path / "code")

    own = TrainingCommand(
        command="x {seed} {out} {overrides}", folder=str(folder), code=patterns, digest=digest
    )

    def again(name="work"):
        code.lay_out(copy, own, tmp_path / name, folder / "runs")
        return tmp_path / name

    return copy, again


def test_a_run_has_the_code_as_planned_and_links_to_the_rest(folder, tmp_path):
    _, again = laid_out(folder, tmp_path)
    (folder / "train.py").write_text("# edited")
    (folder / "net/later.py").write_text("# came later")
    (folder / "net/model.py").unlink()
    work = again()
    assert (work / "train.py").read_text() == "# train.py\n"
    assert (work / "net/model.py").read_text() == "# net/model.py\n"
    assert not (work / "net/later.py").exists()
    assert not (work / "runs").exists()
    assert (work / "data").is_symlink()
    assert (work / "net/weights.bin").resolve() == folder / "net/weights.bin"
    assert not (work / "net").is_symlink()


def test_what_a_command_writes_beside_is_found(folder, tmp_path):
    copy, again = laid_out(folder, tmp_path)
    work = again()
    assert code.written_beside(work, copy) == []
    (work / "net/checkpoint.pt").write_text("x")
    assert code.written_beside(work, copy) == ["net/checkpoint.pt"]


def test_a_copy_that_was_changed_is_not_run(folder, tmp_path):
    copy, again = laid_out(folder, tmp_path)
    (copy / "train.py").write_text("# changed")
    with pytest.raises(InputError, match="changed; plan it again"):
        again()
    (copy / "train.py").unlink()
    with pytest.raises(InputError, match="changed; plan it again"):
        again()


def test_code_edited_while_it_is_planned_is_noticed(folder, tmp_path):
    files = code.find_code(folder, ("*.py",))
    digest = code.digest_of(files)
    (folder / "train.py").write_text("# edited")
    with pytest.raises(InputError, match="the code changed"):
        code.keep(files, digest, tmp_path / "code")
    assert not (tmp_path / "code" / digest).exists()


def test_a_folder_with_weights_or_logs_is_each_runs_own_and_data_is_linked(tmp_path):
    for name in (
        "train.py",
        "data/a.wav",
        "exp/a.wav",
        "exp/best.pt",
        "logs/x.log",
        "net.pt",
        "named/b.ckpt",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "empty").mkdir()
    own = TrainingCommand(
        command="x {seed} {out} {overrides}", folder=str(tmp_path), links=("named",), code=("*.py",)
    )
    linked, empty = code.arrange(own, tmp_path / "root", ("train.py",))
    assert (linked, empty) == (["data", "named", "net.pt"], ["empty", "exp", "logs"])
