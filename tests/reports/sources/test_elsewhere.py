from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from ablate.models.errors import InputError
from ablate.reports.cli import app
from ablate.reports.elsewhere import Elsewhere
from ablate.reports.sources.elsewhere import mlflow_runs, table_of
from ablate.training import event_files


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def table(**changes) -> pd.DataFrame:
    rows = [
        {"core": core, "seed": seed, "pesq": 2.0 + 0.2 * (core == "mamba") + 0.01 * seed}
        for core in ("lstm", "mamba")
        for seed in (1, 2, 3)
    ]
    return pd.DataFrame(rows).assign(**changes)


def effects(**options) -> pd.DataFrame:
    from ablate.reports.build import report_of

    found = Elsewhere(factors="core", **options)
    every = report_of(*found.read()).analysis.effects
    return every[every["kind"] == "main"].set_index("name")


def test_a_table_of_runs_gives_the_same_as_welch(here):
    from scipy import stats

    table().to_csv("runs.csv", index=False)
    row = effects(scores="runs.csv", base="core=lstm").loc["core"]
    on, off = (table().loc[lambda t, c=core: t["core"] == c, "pesq"] for core in ("mamba", "lstm"))
    interval = stats.ttest_ind(on, off, equal_var=False).confidence_interval()
    assert row["estimate"] == pytest.approx(0.2)
    assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high))


def test_the_command(here, capsys):
    table().to_csv("runs.csv", index=False)
    words = ["report", "--scores", "runs.csv", "--factors", "core", "--format", "json"]
    app(words, standalone_mode=False)
    found = json.loads(capsys.readouterr().out)
    assert {row["name"] for row in found["effects"]} == {"core"}


def versa(folder: Path, value: float) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    lines = [{"key": f"u{i}", "pesq": value + i, "estoi": 0.9} for i in range(4)]
    folder.write_text("\n".join(map(json.dumps, lines)) + "\n")


def test_versa_lines_by_pattern(here):
    for core, level in (("lstm", 2.0), ("mamba", 2.3)):
        for seed in (1, 2):
            versa(here / "exp" / core / f"scores_{seed}.jsonl", level + seed / 100)
    found = effects(scores="exp/{core}/scores_{seed}.jsonl", base="core=lstm").loc["core"]
    assert found["estimate"] == pytest.approx(0.3)


def wandb_file(path: Path, settings: dict, values: list[float]) -> None:
    import struct

    path.parent.mkdir(parents=True)
    data = b":W&B\xe1\xbe\x00"
    records = [event_files._message("wandb", "Record")() for _ in range(1 + len(values))]
    for key, value in settings.items():
        records[0].run.config.item.add(key=key, value=json.dumps(value))
    for step, (record, value) in enumerate(zip(records[1:], values, strict=True)):
        record.history.item.add(key="_step", value=str(step))
        record.history.item.add(nested=["val/pesq"], value=json.dumps(value))
    for record in records:
        message = record.SerializeToString()
        data += struct.pack("<IHB", 0, len(message), 1) + message
    path.write_bytes(data)


def test_offline_runs_of_wandb(here):
    for number, (core, seed) in enumerate((c, s) for c in ("lstm", "mamba") for s in (1, 2)):
        on, luck = core == "mamba", seed / 100
        file = here / "wandb" / f"offline-run-{number}" / "run.wandb"
        wandb_file(file, {"core": core, "seed": seed}, [1.0, 2.5 + 0.1 * on + luck, 2.0 + 0.3 * on + luck])
    what = {"scores": "wandb/offline-run-*", "column": ["pesq_wb=val/pesq"], "base": "core=lstm"}
    assert effects(**what).loc["core", "estimate"] == pytest.approx(0.3)
    assert effects(**what, take="max").loc["core", "estimate"] == pytest.approx(0.1)
    with pytest.raises(InputError, match=r"no values of 'val/pesk'; did you mean 'val/pesq'"):
        table_of("wandb/offline-run-*", "val/pesk", "last")


@pytest.mark.slow
def test_an_mlflow_experiment(here):
    import mlflow

    uri = f"sqlite:///{here}/m.db"
    client = mlflow.MlflowClient(uri)
    experiment = client.create_experiment("mine", artifact_location=str(here / "artifacts"))
    for row in table().to_dict("records"):
        run = client.create_run(experiment)
        client.log_param(run.info.run_id, "model.core", row["core"])
        client.log_param(run.info.run_id, "seed", row["seed"])
        for step, value in enumerate((1.0, row["pesq"] + 0.5, row["pesq"])):
            client.log_metric(run.info.run_id, "test_pesq", value, step=step)
        client.set_terminated(run.info.run_id)
    crashed = client.create_run(experiment)
    client.set_terminated(crashed.info.run_id, "FAILED")
    options = {"scores": "mlflow:mine", "tracking_uri": uri, "column": ["pesq_wb=test_pesq"]}
    options |= {"base": "core=lstm"}
    assert effects(**options).loc["core", "estimate"] == pytest.approx(0.2)
    assert mlflow_runs(uri, "mine", "test_pesq", "max")["test_pesq"].max() == pytest.approx(2.73)
    with pytest.raises(InputError, match=r"metric 'pesq'.*test_pesq"):
        mlflow_runs(uri, "mine", "pesq", "last")
    with pytest.raises(InputError, match=r"'yours' is not there.*mine"):
        mlflow_runs(uri, "yours", "test_pesq", "last")
    client.delete_experiment(experiment)
    with pytest.raises(InputError, match="was deleted"):
        mlflow_runs(uri, "mine", "test_pesq", "last")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scores": "none.csv"}, "there is no such file"),
        ({"scores": "mlflow:x"}, "--tracking-uri"),
        ({"scores": "a.xls"}, r"tables are read from .csv"),
        ({"scores": "runs.csv", "take": "best"}, "--take best; use last, max or min"),
        ({"scores": "runs.csv", "base": "cora=lstm"}, "--base names 'cora'; did you mean 'core'"),
        ({"scores": "runs.csv", "baseline": "ref"}, "no cell 'ref'"),
    ],
)
def test_bad_input(here, options, message):
    table().to_csv("runs.csv", index=False)
    (here / "a.xls").write_text("x")
    with pytest.raises(InputError, match=message):
        Elsewhere(factors="core", **options).read()


def test_factors_are_asked_for(here):
    with pytest.raises(InputError, match="--factors"):
        Elsewhere(scores="runs.csv").read()


def test_the_export_script_of_wandb_has_columns_of_dictionaries(here):
    rows = [
        {
            "summary": {"test/pesq": 2 + 0.2 * (core == "mamba") + 0.01 * seed**2, "_step": 9},
            "config": {"model": {"core": core}, "seed": seed},
            "name": f"{core}-{seed}",
        }
        for core in ("lstm", "mamba")
        for seed in (1, 2, 3)
    ]
    pd.DataFrame(rows).to_csv("project.csv")
    scores, _ = Elsewhere(scores="project.csv", factors="core", column=["pesq_wb=test/pesq"]).read()
    assert sorted(scores["pesq_wb"]) == pytest.approx([2.01, 2.04, 2.09, 2.21, 2.24, 2.29])


def test_the_table_of_clearml_as_csv(here):
    """As its web page writes the columns that are shown: settings by section, scalars with what of them."""
    frame = table().assign(ID="0a1", TYPE="training", NAME="t", STATUS="completed", ITERATION=9)
    frame = frame.rename(columns={"core": "Args.core", "seed": "General.seed", "pesq": "test › pesq (Last)"})
    frame.loc[5, ["STATUS", "test › pesq (Last)"]] = ["stopped", None]
    frame.to_csv("table.csv", index=False)
    scores, info = Elsewhere(scores="table.csv", factors="core").read()
    assert list(scores["pesq_wb"]) == list(table()["pesq"])[:5]
    assert "Left out because not finished: 1 stopped." in info.notes
    assert (
        "Column 'test › pesq (Last)' is used as pesq_wb; choose another with --column pesq_wb=..."
        in info.notes
    )
    frame["dev › pesq (Max)"] = 3.0
    frame.to_csv("table.csv", index=False)
    with pytest.raises(InputError, match=r"could be 'pesq_wb'.*--column pesq_wb="):
        Elsewhere(scores="table.csv", factors="core").read()


def test_the_two_tables_of_autrainer(here):
    """`autrainer postprocess` writes scores and settings of an experiment by the names of its runs."""
    frame = table()
    frame["run_name"] = [
        f"VB_{row.core}_Adam_0.001_8_epoch_5_None_None_{row.seed}" for row in frame.itertuples()
    ]
    frame = frame.rename(columns={"core": "model", "pesq": "test_pesq"}).assign(pesq=1.0, best_iteration=3)
    (here / "summary").mkdir()
    metrics = frame[["run_name", "pesq", "best_iteration", "test_pesq"]]
    metrics.to_csv("summary/metrics.csv", index=False)
    frame[["run_name", "model", "seed"]][::-1].to_csv("summary/config.csv", index=False)
    with pytest.raises(InputError, match="pesq, test_pesq could be 'pesq_wb'"):
        Elsewhere(scores="summary/*.csv", factors="model").read()
    found = Elsewhere(scores="summary/*.csv", factors="model", column=["pesq_wb=test_pesq"])
    scores, _ = found.read()
    assert sorted(scores["pesq_wb"]) == sorted(table()["pesq"])
    assert {*scores["cell"].astype(str)} == {"model=lstm", "model=mamba"}


def test_a_search_of_mlflow_as_csv(here):
    frame = table().rename(
        columns={"core": "params.core", "seed": "params.seed", "pesq": "metrics.test_pesq"}
    )
    frame.assign(run_id="a1", status="FINISHED").to_csv("search.csv")
    scores, _ = Elsewhere(scores="search.csv", factors="core", column=["pesq_wb=test_pesq"]).read()
    assert list(scores["pesq_wb"]) == list(table()["pesq"])
