"""Studies in one file: what goes in comes out, and what is wrong is refused."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ablate.models.errors import InputError
from ablate.models.plugins import code_digest, digests
from ablate.studies import plan as plans
from ablate.studies.archive import MANIFEST, command_line, export, import_
from ablate.studies.plan import run_dirs
from ablate.studies.scores import scores_of_runs


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
    for at in study.plan.every_length():
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
    with pytest.raises(InputError, match="no export"):
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
    with pytest.raises(InputError, match="other scores"):
        import_(tmp_path / "study.tar.gz", tmp_path / "elsewhere")


def test_code_of_others_is_not_run_unasked(finished, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    plugin = tmp_path / "mine" / "my_net.py"
    plugin.write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write('x')")
    finished.write(finished.plan.model_copy(update={"plugins": digests([plugin])}))
    export(finished.root, None, tmp_path / "study.tar.gz")
    (tmp_path / "ran").unlink()
    with pytest.raises(InputError, match=r"my_net\.py.*--trust-plugins"):
        import_(tmp_path / "study.tar.gz", tmp_path / "elsewhere")
    assert not (tmp_path / "ran").exists()
    plan = import_(tmp_path / "study.tar.gz", tmp_path / "elsewhere", trust_plugins=True)
    here = tmp_path / "elsewhere" / "studies" / plan.name / "plugins" / "0" / "my_net.py"
    assert plan.plugins == {str(here): code_digest(plugin)}
    assert import_(tmp_path / "study.tar.gz", tmp_path / "elsewhere", trust_plugins=True) == plan
    assert plans.load(tmp_path / "elsewhere") == plan


def test_the_command_line_is_kept_without_passwords() -> None:
    line = command_line(["run", "--grid", "a b", "--storage", "postgresql://me:secret@db/x"])
    assert line == "ablate run --grid 'a b' --storage 'postgresql://***@db/x'"
