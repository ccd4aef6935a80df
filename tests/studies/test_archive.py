"""Studies in one file: what goes in comes out, and what is wrong is refused."""

from __future__ import annotations

import hashlib
import io
import json
import random
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ablate.models.errors import InputError
from ablate.models.plugins import code_digest, load_planned
from ablate.studies import imported
from ablate.studies import plan as plans
from ablate.studies.archive import MANIFEST, command_line, export
from ablate.studies.imported import accept, import_, unaccepted, untrusted
from ablate.studies.plan import run_dirs
from ablate.studies.scores import scores_of_runs
from ablate.training.rundir import RunDir


@pytest.fixture
def finished(study_on_disk, tmp_path: Path):
    study = study_on_disk(tmp_path / "root")
    for cell, seed in study.slots():
        study.start(cell, seed)
        study.advance(cell, seed, [0, 30, 60])
        study.finish(cell, seed)
    return study


def test_an_imported_study_has_the_same_scores_and_plan(finished, tmp_path: Path) -> None:
    manifest = export(finished.root, None, tmp_path / "study.tar.gz")
    assert manifest["runs"] == len(finished.slots())
    plan = import_(tmp_path / "study.tar.gz", tmp_path / "elsewhere")
    assert plan == finished.plan
    ours, theirs = (scores_of_runs(plan, root)[0] for root in (finished.root, tmp_path / "elsewhere"))
    assert ours.equals(theirs)
    for slot, run in run_dirs(plan, tmp_path / "elsewhere").items():
        assert run.metrics() == finished.run(*slot).metrics()
        assert run.state == finished.run(*slot).state
    assert import_(tmp_path / "study.tar.gz", tmp_path / "elsewhere") == plan


def test_other_lengths_go_in(study_on_disk, tmp_path: Path) -> None:
    study = study_on_disk(tmp_path / "root", lengths=(0.5,))
    for at in study.plan.every_step_fraction():
        for run in run_dirs(at, study.root).values():
            run.write_spec({"training_signature": run.signature})
            run.update_state(state="done")
    assert export(study.root, None, tmp_path / "study.tar.gz")["runs"] == 2 * len(study.slots())
    plan = import_(tmp_path / "study.tar.gz", tmp_path / "elsewhere")
    assert all(run.path.exists() for run in run_dirs(plan.at(0.5), tmp_path / "elsewhere").values())


def test_neither_audio_nor_weights_nor_names_of_people_go_in(finished, tmp_path: Path) -> None:
    run = finished.run(*finished.slots()[0])
    for name in ("audio/a.wav", "checkpoints/best.pt", "log.txt"):
        (run.path / name).parent.mkdir(exist_ok=True)
        (run.path / name).write_text("secret")
    report = finished.folder / "report"
    report.mkdir()
    (report / "report.html").write_text("<p>")
    (report / "clip.wav").write_text("secret")
    export(finished.root, None, tmp_path / "study.tar.gz")
    with tarfile.open(tmp_path / "study.tar.gz") as archive:
        names = archive.getnames()
        assert all(not member.uname and not member.uid for member in archive)
        assert "#!/bin/sh" in archive.extractfile("reproduce.sh").read().decode()
        assert "torch" in json.load(archive.extractfile("environment.json"))["packages"]
    assert "study/report/report.html" in names
    assert not [name for name in names if name.endswith((".wav", ".pt", "log.txt"))]


def changed(source: Path, target: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    with tarfile.open(source) as old, tarfile.open(target, "w:gz") as new:
        for member in old:
            data = change(member.name, old.extractfile(member).read())
            if data is not None:
                member.size = len(data)
                new.addfile(member, io.BytesIO(data))
    return target


def test_a_changed_score_is_damage(finished, tmp_path: Path) -> None:
    export(finished.root, None, tmp_path / "study.tar.gz")
    bad = changed(
        tmp_path / "study.tar.gz", tmp_path / "bad.tar.gz", lambda n, d: d + b" " if "scores/" in n else d
    )
    with pytest.raises(InputError, match=r"damaged: runs/.*parquet"):
        import_(bad, tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()


def test_what_is_no_export_is_refused(finished, tmp_path: Path) -> None:
    (tmp_path / "text.tar.gz").write_text("hello")
    with pytest.raises(InputError, match="not a file of ablate export"):
        import_(tmp_path / "text.tar.gz", tmp_path / "elsewhere")
    with pytest.raises(InputError, match="does not exist"):
        import_(tmp_path / "nothing.tar.gz", tmp_path / "elsewhere")
    export(finished.root, None, tmp_path / "study.tar.gz")
    bare = changed(
        tmp_path / "study.tar.gz", tmp_path / "bare.tar.gz", lambda n, d: None if n == MANIFEST else d
    )
    with pytest.raises(InputError, match=MANIFEST):
        import_(bare, tmp_path / "elsewhere")


def test_a_name_that_leaves_the_folder_is_refused(finished, tmp_path: Path) -> None:
    export(finished.root, None, tmp_path / "study.tar.gz")
    with tarfile.open(tmp_path / "evil.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("../outside")
        member.size = 1
        archive.addfile(member, io.BytesIO(b"x"))
    with pytest.raises(InputError, match="outside"):
        import_(tmp_path / "evil.tar.gz", tmp_path / "elsewhere")


def test_runs_with_other_scores_are_not_mixed(finished, tmp_path: Path) -> None:
    export(finished.root, None, tmp_path / "study.tar.gz")
    cell, seed = finished.slots()[0]
    run = finished.run(cell, seed)
    scores = run.scores_path(finished.plan.cell(cell).evaluations[seed])
    there = tmp_path / "elsewhere" / "runs" / run.signature / "scores"
    there.mkdir(parents=True)
    (there / scores.name).write_bytes(b"other")
    with pytest.raises(InputError, match="differ from the archive's"):
        import_(tmp_path / "study.tar.gz", tmp_path / "elsewhere")


def test_code_of_others_is_not_run(finished, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "mine").mkdir()
    plugin = tmp_path / "mine" / "my_net.py"
    plugin.write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write('x')")
    finished.write(finished.plan.model_copy(update={"plugins": {str(plugin): code_digest(plugin)}}).signed())
    export(finished.root, None, tmp_path / "study.tar.gz")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "configuration"))
    plan = import_(tmp_path / "study.tar.gz", tmp_path / "elsewhere")
    here = tmp_path / "elsewhere" / "studies" / plan.name / "plugins" / "0" / "my_net.py"
    assert plan.plugins == {str(here): code_digest(plugin)}
    assert untrusted(plan) == [str(here)]
    with pytest.raises(InputError, match="not trusted"):
        load_planned(plan.plugins)
    assert import_(tmp_path / "study.tar.gz", tmp_path / "elsewhere", trust_plugins=True) == plan
    assert untrusted(plan) == []
    assert plans.load(tmp_path / "elsewhere") == plan
    again = import_(tmp_path / "study.tar.gz", tmp_path / "third")
    assert untrusted(again) == []
    assert not (tmp_path / "ran").exists()
    load_planned(plan.plugins)
    assert (tmp_path / "ran").exists()


def test_a_plugin_that_has_changed_is_left_out(finished, tmp_path: Path) -> None:
    plugin = tmp_path / "my_net.py"
    plugin.write_text("x = 1\n")
    finished.write(finished.plan.model_copy(update={"plugins": {str(plugin): code_digest(plugin)}}).signed())
    plugin.write_text("x = 2\n")
    manifest = export(finished.root, None, tmp_path / "study.tar.gz")
    assert manifest["left_out"] == [str(plugin)]
    assert import_(tmp_path / "study.tar.gz", tmp_path / "elsewhere").plugins == finished.plan.plugins


def repacked(source: Path, target: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """An archive with other content, of which its manifest says that it is right."""
    with tarfile.open(source) as old:
        files = {member.name: old.extractfile(member).read() for member in old}
    manifest = json.loads(files.pop(MANIFEST))
    change(files)
    manifest["files"] = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    with tarfile.open(target, "w:gz") as new:
        for name, data in {**files, MANIFEST: json.dumps(manifest).encode()}.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            new.addfile(member, io.BytesIO(data))
    return target


def with_plan(files: dict[str, bytes], **changes: Any) -> None:
    plan = json.loads(files["study/plan.json"])
    files["study/plan.json"] = json.dumps(plan | changes).encode()


def names_its_report_as_plugin(files: dict[str, bytes]) -> None:
    files["study/report/evil.py"] = b"raise SystemExit"
    with_plan(files, plugins={"studies/toy/report/evil.py": None})


def brings_more_code(files: dict[str, bytes]) -> None:
    files["plugins/0/net.py"] = b"x = 1"
    files["plugins/0/pandas.py"] = b"raise SystemExit"
    digest = hashlib.sha256(f"net.py\n{hashlib.sha256(b'x = 1').hexdigest()}\n".encode()).hexdigest()
    with_plan(files, plugins={"net.py": digest})


def brings_other_code(files: dict[str, bytes]) -> None:
    files["plugins/0/net.py"] = b"x = 1"
    with_plan(files, plugins={"net.py": "0" * 64})


def plants_a_run(files: dict[str, bytes]) -> None:
    (some, *_) = (name for name in files if name.startswith("runs/"))
    signature = some.split("/")[1]
    files |= {name.replace(signature, "f" * 64): data for name, data in files.items() if signature in name}


def names_a_run_otherwise(files: dict[str, bytes]) -> None:
    plan = files["study/plan.json"].decode()
    signature = json.loads(plan)["cells"][0]["signatures"]["1"]
    files["study/plan.json"] = plan.replace(signature, "f" * 64).encode()
    for name in [name for name in files if signature in name]:
        files[name.replace(signature, "f" * 64)] = files.pop(name)


def adds_a_script(files: dict[str, bytes]) -> None:
    files["study/run.sh"] = b"exit"


def adds_weights(files: dict[str, bytes]) -> None:
    (some, *_) = (name for name in files if name.startswith("runs/"))
    files[f"runs/{some.split('/')[1]}/checkpoints/best.pt"] = b"x"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (brings_more_code, r"code that its plan does not name: .*pandas\.py"),
        (brings_other_code, "does not match the digest in its plan"),
        (plants_a_run, "a run that is not in its plan: ffff"),
        (names_a_run_otherwise, "seed 1: ffff.* is not this run's signature"),
        (adds_a_script, "an export has no member 'study/run.sh'"),
        (adds_weights, "an export has no member 'runs/.*best.pt'"),
        (lambda files: with_plan(files, name="../../other"), "its manifest of 'toy'"),
        (lambda files: with_plan(files, cells=3), "not a file of ablate export|is not a study's plan"),
    ],
)
def test_what_no_export_holds_is_refused(finished, tmp_path: Path, change, said: str) -> None:
    export(finished.root, None, tmp_path / "study.tar.gz")
    evil = repacked(tmp_path / "study.tar.gz", tmp_path / "evil.tar.gz", change)
    with pytest.raises(InputError, match=said):
        import_(evil, tmp_path / "elsewhere", trust_plugins=True)
    left = [path for path in (tmp_path / "elsewhere").rglob("*") if path.is_file()]
    assert [path.name for path in left] in ([], ["import.lock"])


def test_a_file_of_the_archive_is_no_plugin(finished, tmp_path: Path) -> None:
    export(finished.root, None, tmp_path / "study.tar.gz")
    change = names_its_report_as_plugin
    evil = repacked(tmp_path / "study.tar.gz", tmp_path / "evil.tar.gz", change)
    plan = import_(evil, tmp_path / "elsewhere", trust_plugins=True)
    assert untrusted(plan) == ["studies/toy/report/evil.py"]
    assert not list((tmp_path / "elsewhere").rglob("evil.py"))


def test_specs_are_those_of_the_plan_and_scores_too(finished, tmp_path: Path) -> None:
    cell, seed = finished.slots()[0]
    signature = finished.run(cell, seed).signature

    def change(files: dict[str, bytes]) -> None:
        files[f"runs/{signature}/spec.json"] = json.dumps({"plugins": {"/tmp/evil.py": None}}).encode()
        files[f"runs/{signature}/scores/{'f' * 64}.parquet"] = b"planted"

    export(finished.root, None, tmp_path / "study.tar.gz")
    import_(repacked(tmp_path / "study.tar.gz", tmp_path / "evil.tar.gz", change), tmp_path / "elsewhere")
    run = RunDir(tmp_path / "elsewhere" / "runs" / signature)
    assert run.spec == finished.plan.spec(finished.plan.cell(cell), seed).document()
    assert [path.stem for path in (run.path / "scores").iterdir()] == [
        finished.plan.cell(cell).evaluations[seed]
    ]


def member(name: str, kind: bytes, target: str = "", size: int = 0) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type, found.linkname, found.size, found.mode = kind, target, size, 0o755
    return found


@pytest.mark.parametrize(
    "odd",
    [
        member("study/report/x", tarfile.SYMTYPE, "/etc/passwd"),
        member("study/report/x", tarfile.LNKTYPE, "manifest.json"),
        member("study/report/x", tarfile.FIFOTYPE),
        member("study/report/x", tarfile.CHRTYPE),
        member("study/report/x", tarfile.DIRTYPE),
        member("study/report/../../x", tarfile.REGTYPE),
        member("/study/report/x", tarfile.REGTYPE),
        member("study//report/x", tarfile.REGTYPE),
        member("runs/x/spec.json", tarfile.REGTYPE),
    ],
    ids=lambda odd: f"{odd.name} {odd.type.decode()}",
)
def test_only_regular_files_of_known_names_are_taken(tmp_path: Path, odd: tarfile.TarInfo) -> None:
    with tarfile.open(tmp_path / "evil.tar.gz", "w:gz") as archive:
        archive.addfile(odd)
    with pytest.raises(InputError, match=r"an export has no member|is not a regular file"):
        import_(tmp_path / "evil.tar.gz", tmp_path / "elsewhere")


def test_links_that_grow_past_the_longest_path_escape_nowhere(tmp_path: Path) -> None:
    """CVE-2025-4517: tarfile's own filters take a path that is too long to be resolved for a harmless one."""
    steps, name = "abcdefghijklmnop", "d" * 247
    with tarfile.open(tmp_path / "evil.tar.gz", "w:gz") as archive:
        at = ""
        for step in steps:
            archive.addfile(member(f"{at}{name}", tarfile.DIRTYPE))
            archive.addfile(member(f"{at}{step}", tarfile.SYMTYPE, name))
            at += f"{name}/"
        link = f"{'/'.join(steps)}/{'l' * 254}"
        archive.addfile(member(link, tarfile.SYMTYPE, "../" * len(steps)))
        archive.addfile(member("escape", tarfile.SYMTYPE, f"{link}/..{tmp_path}"))
        archive.addfile(member("planted", tarfile.LNKTYPE, "escape/victim"))
        archive.addfile(member("planted", tarfile.REGTYPE, size=5), io.BytesIO(b"owned"))
    (tmp_path / "victim").write_text("mine")
    with pytest.raises(InputError, match="not a file of ablate export"):
        import_(tmp_path / "evil.tar.gz", tmp_path / "elsewhere")
    assert (tmp_path / "victim").read_text() == "mine"


def bomb(archive: tarfile.TarFile) -> None:
    archive.addfile(member("study/report/x", tarfile.REGTYPE, size=200 << 20), Zeros())


def bomb_in_a_header(archive: tarfile.TarFile) -> None:
    archive.addfile(member("././@PaxHeader", tarfile.XHDTYPE, size=200 << 20), Zeros())


class Zeros:
    """As many zeros as are asked for."""

    def read(self, size: int) -> bytes:
        return bytes(size)


@pytest.mark.parametrize("fill", [bomb, bomb_in_a_header])
def test_an_archive_that_unpacks_to_very_much_is_refused(tmp_path: Path, fill, monkeypatch) -> None:
    with tarfile.open(tmp_path / "bomb.tar.gz", "w:gz", compresslevel=1) as archive:
        fill(archive)
    with pytest.raises(InputError, match="unpacks to more than"):
        import_(tmp_path / "bomb.tar.gz", tmp_path / "elsewhere")


def test_an_archive_may_unpack_to_a_hundred_times_its_size(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(imported, "LEAST", 1)
    path, noise = tmp_path / "large.tar.gz", random.Random(0).randbytes(1 << 20)
    for zeros, why in ((50 << 20, "it has no manifest"), (130 << 20, "unpacks to more than 1")):
        with tarfile.open(path, "w:gz", compresslevel=9) as archive:
            archive.addfile(member("study/report/x", tarfile.REGTYPE, size=len(noise)), io.BytesIO(noise))
            archive.addfile(member("study/report/y", tarfile.REGTYPE, size=zeros), Zeros())
        assert path.stat().st_size == pytest.approx(1.1 * (1 << 20), rel=0.1)
        with pytest.raises(InputError, match=why):
            import_(path, tmp_path / "elsewhere")


def test_a_study_that_is_written_while_it_is_exported_imports(finished, tmp_path: Path) -> None:
    """Every file of the archive is what its manifest says, whatever a training writes meanwhile."""
    run = finished.run(*finished.slots()[0])
    code = (
        "import sys\n"
        "from ablate.training.rundir import RunDir, write_text\n"
        "run = RunDir(sys.argv[1])\n"
        "text = run.metrics_path.read_text()\n"
        "print('ready', flush=True)\n"
        "for step in range(10**9):\n"
        "    run.update_state(step=step)\n"
        "    open(run.metrics_path, 'a').write('{\"step\": 1, \"x\": 1}\\n')\n"
    )
    command = [sys.executable, "-c", code, str(run.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        try:
            assert writer.stdout.readline() == b"ready\n"
            for number in range(10):
                export(finished.root, None, tmp_path / f"{number}.tar.gz")
                import_(tmp_path / f"{number}.tar.gz", tmp_path / f"root-{number}")
        finally:
            writer.kill()


def test_an_imported_run_keeps_its_mark_until_a_study_accepts_it(finished, tmp_path: Path) -> None:
    export(finished.root, None, tmp_path / "study.tar.gz")
    plan = import_(tmp_path / "study.tar.gz", tmp_path / "elsewhere")
    (run, *_) = run_dirs(plan, tmp_path / "elsewhere").values()
    assert not unaccepted(run, plan.name)
    assert unaccepted(run, "another")
    accept(run, "another")
    assert not unaccepted(run, "another")
    run.update_state(attempts=run.state.attempts + 1)
    assert not unaccepted(run, "third")
    (ours, *_) = run_dirs(finished.plan, finished.root).values()
    assert not unaccepted(ours, "another")


def test_an_import_gives_no_scores_to_a_study_that_is_there(finished, study_on_disk, tmp_path: Path) -> None:
    """A study that has planned the same runs would report the sender's scores as its own."""
    study_on_disk(tmp_path / "elsewhere", "mine")
    export(finished.root, None, tmp_path / "study.tar.gz")
    with pytest.raises(InputError, match=r"study 'mine' .*another --root"):
        import_(tmp_path / "study.tar.gz", tmp_path / "elsewhere")
    assert plans.names(tmp_path / "elsewhere") == ["mine"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_imported_runs_are_asked_about_and_the_report_says_so(corpus, schema, tmp_path: Path) -> None:
    """The sender's study, an import, and a study here that would take its runs, by the command line."""

    def ablate(root: str, *words: str) -> subprocess.CompletedProcess[str]:
        program = Path(sys.executable).with_name("ablate")
        line = [program, *words, "--root", tmp_path / root]
        return subprocess.run(line, capture_output=True, text=True, check=False)

    run = ["run", "--grid", "bidirectional", "--baseline", "none", "--data", str(corpus)]
    run += ["--waive", "all", "--jobs", "1"]
    short = ("steps=2", "crop_seconds=0.5", "batch_size=2", "validation_utterances=1")
    run += [word for field in short for word in ("--set", f"recipe.{field}")]
    archive = tmp_path / "study.tar.gz"
    for root in ("theirs", "mine"):
        (tmp_path / root).mkdir()
        shutil.copyfile(schema, tmp_path / root / "mlflow.db")
    assert ablate("theirs", *run, "--seeds", "1", "--study", "theirs").returncode == 0
    assert ablate("theirs", "export", "theirs", "-o", str(archive)).returncode == 0
    assert ablate("mine", "import", str(archive)).returncode == 0

    def reported(study: str) -> tuple[list[bool], str]:
        folder = tmp_path / "mine" / "studies" / study / "report"
        runs = json.loads((folder / "report.json").read_text())["study"]["runs"]
        return [run["imported"] for run in runs], (folder / "table.md").read_text()

    assert reported("theirs")[0] == [True, True]
    assert all(run.summary["imported"] for run in map(RunDir, (tmp_path / "mine" / "runs").iterdir()))
    assert "2 of 2 runs were imported: their scores were not measured here" in reported("theirs")[1]
    refused = ablate("mine", *run, "--seeds", "1", "--study", "mine")
    assert (refused.returncode, "--use-imported" in refused.stderr) == (5, True), refused.stderr
    assert not (tmp_path / "mine" / "studies" / "mine" / "plan.json").exists()
    taken = ablate("mine", *run, "--seeds", "2", "--study", "mine", "--use-imported")
    assert taken.returncode == 0, taken.stderr
    imported, text = reported("mine")
    assert sorted(imported) == [False, False, True, True]
    assert "2 of 4 runs were imported" in text


def test_the_command_line_is_kept_without_passwords() -> None:
    line = command_line(["run", "--grid", "a b", "--storage", "postgresql://me:secret@db/x"])
    assert line == "ablate run --grid 'a b' --storage 'postgresql://***@db/x'"
