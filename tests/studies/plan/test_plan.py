from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from ablate.ablations.claims import Endpoint
from ablate.ablations.factors import find
from ablate.ablations.grid import parse_factors
from ablate.models.errors import InputError
from ablate.models.plugins import digests as code_digests
from ablate.models.plugins import load as load_plugins
from ablate.studies import plan as plans
from ablate.studies.compute import Compute
from ablate.studies.launchers.local import LocalLauncher
from ablate.studies.plan import (
    AuditRecord,
    Plan,
    PlanChangedError,
    add,
    compare,
    extend,
    load,
    merge,
    rescored,
    run_dirs,
    run_label,
    save,
    store,
)
from ablate.studies.plan.resolve import default_name
from ablate.studies.session import Session
from ablate.studies.status import status
from ablate.studies.study import FIRST_TUNING_SEED, Study, Tuning
from ablate.studies.tune import candidates
from ablate.training.data.corpus import Corpus, find_corpus, located
from ablate.training.data.pairs import digests


def planned(root, corpus, **fields):
    fields = {"factors": parse_factors("bidirectional"), "data": str(corpus), "seeds": (1, 2)} | fields
    return plans.make(Study(**fields), root)[0]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("root")


def test_a_plan_survives_the_disk(root, corpus):
    plan = planned(root, corpus)
    plans.save(plan, root)
    assert plans.load(root, plan.name) == plan
    assert plans.find(root) == plan.name


def test_signatures_follow_the_run_spec(root, corpus):
    plan = planned(root, corpus)
    for cell in plan.cells:
        for seed in plan.seeds:
            assert plan.spec(cell, seed).training_signature == cell.signatures[seed]
    assert len({s for cell in plan.cells for s in cell.signatures.values()}) == 6


def test_a_wrong_option_leaves_no_study_behind(corpus, tmp_path):
    session = Session(
        root=tmp_path,
        audit=None,
        report=lambda plan: None,
        say=lambda line: None,
    )
    compute = Compute(storage="sqlite:///x.db")
    request = Study(factors=parse_factors("bidirectional"), data=str(corpus), seeds=(1,), compute=compute)
    with pytest.raises(InputError, match="cannot be used as a queue"):
        session.run(request)
    with pytest.raises(InputError, match="no study"):
        session.retry("nosuch", compute)
    assert plans.names(tmp_path) == []


@pytest.mark.parametrize(("audit", "kept"), [(None, True), (lambda *_: AuditRecord(), False)])
def test_going_on_without_an_audit_keeps_what_the_last_one_said(corpus, tmp_path, monkeypatch, audit, kept):
    request = Study(factors=parse_factors("bidirectional"), data=str(corpus), seeds=(1,))
    plan = plans.make(request, tmp_path)[0].model_copy(update={"audit": AuditRecord(waived=("A101",))})
    plans.save(plan, tmp_path)

    def stop(folder, compute):
        raise InterruptedError

    monkeypatch.setattr(LocalLauncher, "open", stop)
    session = Session(
        root=tmp_path,
        audit=audit,
        report=lambda plan: None,
        say=lambda line: None,
    )
    with pytest.raises(InterruptedError):
        session.run(request)
    assert (plans.load(tmp_path, plan.name).audit == plan.audit) is kept


def test_more_seeds_extend_a_plan_and_keep_what_it_has(root, corpus):
    old, new = planned(root, corpus), planned(root, corpus, seeds=(3,))
    old = old.model_copy(update={"audit": AuditRecord(waived=("A101",))})
    joined = merge(old, new, root)
    assert joined.seeds == (1, 2, 3)
    assert joined.audit == old.audit
    for cell in old.cells:
        assert joined.cell(cell.name).signatures.items() >= cell.signatures.items()


def test_other_lengths_are_the_trainings_of_those_steps(root, corpus):
    plan = planned(root, corpus, step_fractions=(1.0, 0.5))
    assert plan.step_fractions == (0.5,)
    assert plan.cells == tuple(
        cell.model_copy(update={"step_fractions": plan.cell(cell.name).step_fractions})
        for cell in planned(root, corpus).cells
    ), "the study's own length is as without others"
    half = plan.at(0.5)
    alone = planned(root, corpus, set={"recipe.steps": 20})
    assert half.step_fraction == 0.5
    assert [cell.signatures for cell in half.cells] == [cell.signatures for cell in alone.cells]
    assert [cell.evaluations for cell in half.cells] == [cell.evaluations for cell in alone.cells]
    assert {cell.config.recipe.steps for cell in half.cells} == {20}
    assert Plan.model_validate(plan.model_dump(mode="json")) == plan
    assert plan.every_step_fraction() == [plan, half]
    assert planned(root, corpus, recipe="reference", step_fractions=(0.5,)).step_fractions == (0.5,)


def test_lengths_extend_a_plan_and_stay(root, corpus):
    old = planned(root, corpus, step_fractions=(0.5,))
    joined = merge(old, planned(root, corpus, step_fractions=(0.25,), seeds=(3,)), root)
    assert (joined.step_fractions, joined.seeds) == ((0.25, 0.5), (1, 2, 3))
    assert merge(joined, planned(root, corpus), root) == joined
    for length in joined.step_fractions:
        assert all(cell.signatures.keys() == {1, 2, 3} for cell in joined.at(length).cells)


@pytest.mark.parametrize(
    ("lengths", "words"),
    [
        (
            (0.33,),
            r"0.33 of 40 steps is 13.2 steps, not a whole number; .*0.325 \(13\) or 0.35 \(14\)",
        ),
        ((0.01,), r"not a whole number; nearest fractions: 0.025 \(1\)"),
        ((1.001,), "is the full budget"),
        ((0.5, 0.501), "the same number of steps"),
        ((-1.0,), "above 0"),
        ((float("nan"),), "above 0"),
    ],
)
def test_lengths_that_no_step_count_fits_are_refused(root, corpus, lengths, words):
    with pytest.raises(ValueError, match=words):
        planned(root, corpus, step_fractions=lengths)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"set": {"recipe.steps": 7}}, "recipe.steps: 40 -> 7 (3 cells)"),
        ({"baseline": None}, "baseline: bsrnn -> None"),
        ({"factors": parse_factors("decoder4x")}, "cell decoder4x: new"),
        ({"test_data": True}, "corpus test_digest"),
        ({"tune": Tuning(space={"recipe.clip": (1, 5)})}, "tune: None ->"),
        ({"factors": (find("bidirectional"), find("pcs"))}, "cell pcs: new"),
    ],
)
def test_another_plan_of_the_same_name_is_refused_with_the_difference(root, corpus, change, words, tmp_path):
    if change.get("test_data"):
        import shutil

        other = tmp_path / "other"
        shutil.copytree(corpus, other)
        (other / "test" / "clean" / "d_0.wav").unlink()
        (other / "test" / "noisy" / "d_0.wav").unlink()
        change = {"test_data": str(other)}
    old = planned(root, corpus, name="same")
    new = planned(root, corpus, name="same", **change)
    assert any(words in line for line in compare(old, new)), compare(old, new)
    with pytest.raises(PlanChangedError, match="--study NAME"):
        merge(old, new, root)


@pytest.fixture(scope="module")
def far(tmp_path_factory):
    """A folder of noise to test on."""
    folder, draw = tmp_path_factory.mktemp("tests") / "far", np.random.default_rng(1)
    for kind in ("clean", "noisy"):
        (folder / kind).mkdir(parents=True)
        for number in range(2):
            soundfile.write(folder / kind / f"f{number}_1.wav", 0.1 * draw.standard_normal(16000), 16000)
    return folder


def test_further_test_corpora_are_scored_and_change_no_training(root, corpus, far):
    plain = planned(root, corpus, name="near")
    plan = planned(root, corpus, name="far", test_data=(str(corpus), str(far)))
    assert [(test.name, test.files) for test in plan.extra_test_sets] == [("far", 2)]
    for cell, own in zip(plan.cells, plain.cells, strict=True):
        assert (cell.signatures, cell.evaluations) == (own.signatures, own.evaluations)
        first, second = plan.evaluation_jobs(cell, 1)
        assert (first.signature, second.signature) == cell.scored_as(1)
        assert (second.test_path, second.test_digest) == (str(far), plan.extra_test_sets[0].digest)
        assert plan.spec(cell, 1).evaluated_on(second.test_digest, cell.signatures[1]) == second.signature
    assert [job.signature for job in plain.evaluation_jobs(plain.cells[0], 1)] == [
        plain.cells[0].evaluations[1]
    ]
    plans.save(plan, root)
    assert plans.load(root, "far") == plan
    assert merge(plan, planned(root, corpus, name="far", test_data=(str(corpus), str(far)), seeds=(3,)), root)
    without = planned(root, corpus, name="far", test_data=(str(corpus),))
    assert any("extra test sets: far (" in line and "-> none" in line for line in compare(plan, without))


def test_a_run_is_done_when_it_is_scored_on_every_corpus(root, corpus, far):
    plan = planned(root, corpus, name="scored", seeds=(7,), test_data=(str(corpus), str(far)))
    cell = plan.cells[0]
    run = plans.run_dirs(plan, root)[cell.name, 7]
    run.update_state(state="done")
    for signature in cell.scored_as(7):
        assert not plans.is_done(root, cell, 7)
        assert {row["state"] for row in status(plan, root)["runs"]} == {"pending"}
        path = run.scores_path(signature)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"PAR1" * 3)
    assert plans.is_done(root, cell, 7)


def test_a_plan_without_further_tests_opens_as_before(root, corpus):
    plan = planned(root, corpus, name="old")
    plans.save(plan, root)
    path = plans.study_path(root, "old") / "plan.json"
    data = json.loads(path.read_text())
    del data["further_tests"]
    for cell in data["cells"]:
        del cell["further"]
    path.write_text(json.dumps(data))
    assert plans.load(root, "old") == plan


@pytest.mark.parametrize(("place", "words"), [("nowhere", "no data folder"), ("", "has no test files")])
def test_an_unknown_or_empty_test_corpus_is_refused_before_training(root, corpus, tmp_path, place, words):
    with pytest.raises(InputError, match=words):
        planned(root, corpus, test_data=(str(corpus), str(tmp_path / place)))


def test_cells_may_differ_in_seeds(root, corpus, tmp_path):
    old = planned(root, corpus, seeds=(1,))
    uneven = add(old, {"baseline": [2, 3], "base": [2]}, root)
    assert [cell.seeds for cell in uneven.cells] == [(1, 2), (1,), (1, 2, 3)]
    assert uneven.seeds == (1, 2, 3)
    assert [(cell.name, seed) for cell, seed in uneven.runs] == list(run_dirs(uneven, root))
    save(uneven, tmp_path)
    assert load(tmp_path, uneven.name) == uneven
    even = extend(uneven, (1, 2), root)
    assert [cell.seeds for cell in even.cells] == [(1, 2), (1, 2), (1, 2, 3)]
    assert all(even.cell(c.name).signatures.items() >= c.signatures.items() for c in uneven.cells)


def test_bookkeeping_is_no_difference(root, corpus):
    assert compare(planned(root, corpus), planned(root, corpus, set={"recipe.keep_every": 5})) == []


def test_epochs_become_steps_of_the_corpus(root, corpus):
    plan = planned(root, corpus, recipe="reference", set={"recipe.epochs": 4, "recipe.batch_size": 4})
    lengths = {(cell.config.recipe.steps, cell.config.recipe.epochs) for cell in plan.cells}
    assert lengths == {(plan.corpus.train, None)}


def test_starting_from_another_studys_checkpoints(root, corpus):
    source = planned(root, corpus, name="source")
    plans.save(source, root)
    with pytest.raises(InputError, match="no other study"):
        planned(root, corpus, name="next", start_from="best")
    for run in plans.run_dirs(source, root).values():
        run.checkpoints.mkdir(parents=True)
        (run.checkpoints / "best.pt").write_bytes(run.signature.encode())
    follower = planned(root, corpus, name="next", start_from="best")
    assert (
        follower.cells[0].starts[1]["path"].endswith(f"{source.cells[0].signatures[1]}/checkpoints/best.pt")
    )
    assert follower.cells[0].signatures[1] != source.cells[0].signatures[1]
    with pytest.raises(InputError, match="no such checkpoint"):
        planned(root, corpus, start_from="missing.pt")


def test_a_missing_study_names_those_there_are(root, corpus):
    plans.save(planned(root, corpus, name="there"), root)
    with pytest.raises(InputError, match="there"):
        plans.load(root, "elsewhere")
    with pytest.raises(ValueError, match="study name"):
        plans.load(root, "../../etc")
    with pytest.raises(InputError, match="no study"):
        plans.load(root / "empty")


def test_long_grids_get_short_names():
    factors = parse_factors("bidirectional,decoder4x,crossband,channels=16,24,32,48,64,layers=1,2,3,4")
    name = default_name(Study(factors=factors, base="mbsnet-ultralight-decoder"), "corpus" * 9)
    assert len(name) <= 120


def test_every_cell_is_tuned_at_the_same_candidates():
    tuning = Tuning(space={"recipe.learning_rate": (1e-4, 1e-2), "recipe.clip": (0.0, 10.0)}, trials=6)
    points = candidates(tuning)
    assert points == candidates(tuning)
    assert len({point["recipe.learning_rate"] for point in points}) == 6
    assert all(1e-4 <= point["recipe.learning_rate"] <= 1e-2 for point in points)
    below = sum(point["recipe.learning_rate"] < 1e-3 for point in points)
    assert 2 <= below <= 4
    assert run_label("base", FIRST_TUNING_SEED + 1) == "base tuning trial 2"
    with pytest.raises(ValueError, match="1000001 on are reserved for tuning"):
        Study(seeds=(1, FIRST_TUNING_SEED))


def test_another_claim_is_the_same_plan(root, corpus):
    from ablate.ablations.claims import Claim

    old = planned(root, corpus, name="claims")
    (factor,) = parse_factors("bidirectional")
    new = planned(
        root,
        corpus,
        name="claims",
        factors=(factor.with_claim(Claim(low=0.0, high=0.1)),),
    )
    assert compare(old, new) == []
    assert rescored(old, new) == ["factor bidirectional: its claims changed"]
    assert merge(old, new, root).factors == new.factors


def test_conditions_that_a_claim_did_not_have_yet_are_no_difference(root, corpus):
    from ablate.ablations.scale import Conditions

    new = planned(root, corpus)
    (factor,) = new.factors
    (claim,) = factor.claims
    assert claim.conditions is not None
    bare = factor.model_copy(update={"claims": (claim.model_copy(update={"conditions": None}),)})
    old = new.model_copy(update={"factors": (bare,)})
    assert compare(old, new) == rescored(old, new) == []
    assert merge(old, new, root).factors == new.factors
    other = claim.model_copy(update={"conditions": Conditions(steps=7)})
    changed = new.model_copy(update={"factors": (factor.model_copy(update={"claims": (other,)}),)})
    assert rescored(new, changed) == ["factor bidirectional: its claims changed"]


def test_the_code_of_a_plugin_is_part_of_the_plan(root, corpus, tmp_path):
    path = tmp_path / "net_of_plan.py"
    path.write_text("x = 1\n")
    old = planned(root, corpus, plugins=(str(path),))
    (code,) = old.plugins.values()
    assert old.cells[0].signatures != planned(root, corpus).cells[0].signatures
    assert Plan.model_validate(old.model_dump(mode="json")).spec(old.cells[0], 1).plugins == {str(path): code}
    new = old.model_copy(update={"plugins": {str(path): "0" * 64}}).signed()
    assert compare(old, new) == [f"plug-in {path}: its code changed ({code[:12]} -> {'0' * 12})"]
    assert not set(new.cells[0].signatures.values()) & set(old.cells[0].signatures.values())
    assert compare(planned(root, corpus), old) == [f"plug-in {path}: new"]


def test_the_margin_is_that_of_the_metric():
    assert Endpoint().margin == 0.05
    assert Endpoint(metric="stoi").margin is None
    assert Endpoint(metric="stoi", margin=0.01).margin == 0.01
    with pytest.raises(ValueError, match="did you mean 'pesq_wb'"):
        Endpoint(metric="pesqwb")


def test_a_study_with_a_plugin_opens_in_a_new_process(make_plan, tmp_path):
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "from ablate.models.config import CORES\n"
        "CORES.register('core-of-mine', 'ablate.models.recurrent:GRULayer')\n"
    )
    load_plugins([plugin])
    root = tmp_path / "root"
    plan = make_plan("core=lstm,core-of-mine", plugins=code_digests([plugin]))
    plans.save(plan, root)
    command = [sys.executable, "-c", "from ablate.reports.cli import main; main()", "status"]
    command += ["--root", str(root), "--format", "json"]
    told = subprocess.run(command, capture_output=True, text=True)
    assert json.loads(told.stdout)["counts"] == {"pending": 6}, told.stderr
    plugin.unlink()
    told = subprocess.run(command, capture_output=True, text=True)
    assert json.loads(told.stdout)["counts"] == {"pending": 6}, told.stderr


def test_each_study_is_read_once_for_all_starts(root, corpus, monkeypatch):
    source = planned(root, corpus, name="many")
    plans.save(source, root)
    for run in plans.run_dirs(source, root).values():
        run.checkpoints.mkdir(parents=True, exist_ok=True)
        (run.checkpoints / "latest.pt").write_bytes(b"weights")
    read = []
    load = store.load
    monkeypatch.setattr(store, "load", lambda *words: read.append(words) or load(*words))
    planned(root, corpus, name="after", start_from="latest")
    assert len(read) == 1


def wide_corpus(folder, rate=48_000):
    rng = np.random.default_rng(0)
    for split, names in (("train", ["a_1", "b_1", "c_1"]), ("test", ["d_1"])):
        for name in names:
            for kind in ("clean", "noisy"):
                (folder / split / kind).mkdir(parents=True, exist_ok=True)
                audio = 0.1 * rng.standard_normal(rate // 2)
                soundfile.write(folder / split / kind / f"{name}.wav", audio, rate)
    return folder


def test_a_study_keeps_the_digest_it_was_planned_with(tmp_path):
    folder, root = wide_corpus(tmp_path / "wide"), tmp_path / "root"
    plan = planned(root, folder, name="s", seeds=(1,))
    corpus = Corpus.open(folder, cache=root / "cache")
    *_, former = digests((*corpus.train, *corpus.validation))
    *_, former_test = digests(corpus.test)
    assert former != plan.corpus.digest
    note = plan.corpus.model_copy(update={"digest": former, "test_digest": former_test})
    old = plan.model_copy(update={"corpus": note}).signed()
    save(old, root)
    again = planned(root, folder, name="s", seeds=(1, 2))
    assert (again.corpus.digest, again.corpus.test_digest) == (former, former_test)
    assert compare(old, again) == []
    joined = merge(old, again, root)
    assert joined.cell("base").signatures[1] == old.cell("base").signatures[1]
    assert joined.cell("base").evaluations[1] == old.cell("base").evaluations[1]
    assert joined.seeds == (1, 2)
    assert planned(root, folder, name="t", seeds=(1,)).corpus.digest == plan.corpus.digest


def test_networks_of_a_study_have_one_rate_at_which_the_endpoint_is_defined(tmp_path, monkeypatch):
    folder, root = wide_corpus(tmp_path / "wide"), tmp_path / "root"
    monkeypatch.setattr("ablate.models.summary.rate_of", lambda config: 8_000)
    with pytest.raises(InputError, match="pesq_wb is defined at 16000 Hz, but the networks run at 8000 Hz"):
        planned(root, folder)
    assert planned(root, folder, endpoint=Endpoint(metric="pesq_nb")).endpoint.metric == "pesq_nb"
    rates = iter(range(8_000, 90_000, 8_000))
    monkeypatch.setattr("ablate.models.summary.rate_of", lambda config: next(rates))
    with pytest.raises(InputError, match="comparable only at one sample rate"):
        planned(root, folder)


def test_a_pattern_of_pairs_is_planned(tmp_path):
    folder = wide_corpus(tmp_path / "named", 16_000)
    for path in (folder / "train" / "noisy").iterdir():
        path.rename(path.with_stem(f"x-{ord(path.stem[0])}"))
    for path in (folder / "train" / "clean").iterdir():
        path.rename(path.with_stem(f"{ord(path.stem[0])}y"))
    plan = planned(tmp_path / "root", folder, pairs=r"(\d+)")
    spec = plan.spec(plan.cells[0], 1).document()
    assert spec["corpus"]["pairs"] == r"(\d+)"
    found = find_corpus(**located(spec), cache=tmp_path / "root" / "cache")
    assert found.digest == plan.corpus.digest
