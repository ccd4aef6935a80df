"""The average over a cell's seeds: scored from the runs' weights, shown beside the cells."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch

from ablate.ablations.grid import parse_factors
from ablate.ablations.runspec import run_path
from ablate.models import build_model
from ablate.models.errors import InputError
from ablate.reports.build import report_of_study
from ablate.reports.renderers import write
from ablate.studies import ensembles
from ablate.studies import plan as plans
from ablate.studies.archive import export
from ablate.studies.imported import import_
from ablate.studies.study import Study
from ablate.training.checkpoint import load_model
from ablate.training.data.corpus import open_test
from ablate.training.evaluate import enhance_utterances, score_test
from ablate.training.metrics import MetricPool, score
from ablate.training.rundir import RunDir

SMALL = {"model.channels": 16, "model.layers": 1, "model.crossband": "pointwise"}


@pytest.fixture(scope="module")
def root(tmp_path_factory, corpus):
    """A study of two cells, of two and of one trained seed."""
    root = tmp_path_factory.mktemp("averages")
    request = Study(
        factors=parse_factors("evaluation.mix_back=0,0.5"),
        base="bsrnn",
        baseline=None,
        data=str(corpus),
        seeds=(1, 2),
        set=SMALL,
        name="toy",
    )
    plan, opened = plans.make(request, root)
    plans.save(plan, root)
    with MetricPool(0) as pool:
        for cell in plan.cells:
            for seed in plan.seeds:
                run = RunDir(run_path(root, cell.signatures[seed]))
                if not (run.checkpoints / "best.pt").exists():
                    run.checkpoints.mkdir(parents=True)
                    torch.manual_seed(seed)
                    model = build_model(cell.config.model)
                    content = {"model": cell.config.model.model_dump(), "weights": model.state_dict()}
                    torch.save(content, run.checkpoints / "best.pt")
                    run.update_state(state="done", step=1, steps=1)
                path = run.scores_path(cell.evaluations[seed])
                path.parent.mkdir(exist_ok=True)
                model = load_model(run.checkpoints / "best.pt")
                frame = score_test(
                    model, opened.test, cell.config.evaluation, pool, cache=plans.cache_path(root)
                )
                frame.to_parquet(path)
    return root


@pytest.fixture(scope="module")
def scored(root):
    said: list[str] = []
    found = ensembles.score(plans.load(root), root, processes=0, say=said.append)
    assert [line.split(":")[0] for line in said] == ["base", "evaluation.mix_back=0.5"]
    return found


def test_the_outputs_of_the_seeds_are_averaged_and_scored(root, scored, corpus):
    plan = plans.load(root)
    pairs = open_test(str(corpus), cache=plans.cache_path(root))
    for cell in plan.cells:
        outputs = []
        for seed in plan.seeds:
            model = load_model(RunDir(run_path(root, cell.signatures[seed])).checkpoints / "best.pt")
            waves = enhance_utterances(
                model, [pair.noisy for pair in pairs], evaluation=cell.config.evaluation
            )
            outputs.append(dict(waves))
        expected = [
            score(pair.clean, np.mean([one[i] for one in outputs], axis=0), 16000)["si_sdr"]
            for i, pair in enumerate(pairs)
        ]
        average = scored[cell.name]
        assert average.seeds == 2
        assert average.scores["si_sdr"].to_list() == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("format", ["table", "md", "latex", "json", "html"])
def test_a_report_shows_them_without_an_interval(root, scored, format):
    report = report_of_study(root, metric="si_sdr")
    out = io.StringIO()
    write(report, format, out)
    mean = scored["base"].scores["si_sdr"].mean()
    assert report.ensembles[0].means["si_sdr"] == pytest.approx(mean)
    if format == "json":
        assert '"ensembles"' in out.getvalue()
    else:
        assert "base, seed ensemble" in " ".join(out.getvalue().split())
        assert f"{mean:.3f}" in out.getvalue()


def test_what_is_scored_stays_and_another_seed_makes_it_out_of_date(root, scored):
    plan = plans.load(root)
    assert ensembles.stored(plan, root).keys() == scored.keys()
    ensembles.score(plan, root, processes=0, say=lambda _: pytest.fail("nothing is left to score"))
    more = plans.extend(plan, (3,), root)
    assert ensembles.stored(more, root).keys() == scored.keys()  # the third is not trained yet
    RunDir(run_path(root, more.cells[0].signatures[3])).update_state(state="done")
    assert ensembles.stored(more, root) == {}


def test_an_archive_has_them_and_no_weights(root, scored, tmp_path):
    export(root, "toy", tmp_path / "toy.tar.gz")
    plan = import_(tmp_path / "toy.tar.gz", tmp_path / "root")
    assert ensembles.stored(plan, tmp_path / "root").keys() == scored.keys()
    more = plan.model_copy(update={"name": "other"})
    with pytest.raises(InputError, match="needs the weights"):
        ensembles.score(more, tmp_path / "root", processes=0, say=str)


def test_one_seed_is_no_average(root, scored):
    plan = plans.load(root)
    first, second = (c.model_copy(update={"signatures": {1: c.signatures[1]}}) for c in plan.cells)
    assert ensembles.stored(plan.model_copy(update={"cells": (first, plan.cells[1])}), root).keys() == {
        second.name
    }
    with pytest.raises(InputError, match="no cell of toy has two trained seeds"):
        ensembles.score(plan.model_copy(update={"cells": (first, second)}), root, processes=0, say=str)
