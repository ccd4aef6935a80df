from __future__ import annotations

import csv
import io
import json

import pytest

from ablate.models.errors import InputError
from ablate.reports.renderers import write_document
from ablate.reports.sources.logs import finite, logs_document, matched, objections, parse_log, read_logs

GOOD = """\
epochs=120, batch_size=6, init_lr=0.001, data_dir=/data/vb, save_model_dir=./saved
Available GPUs: ['NVIDIA A100']
Model parameters: Total=2.96M, Trainable=2.96M
  0%|          | 0/1928 [00:00<?, ?it/s]\r  5%|5         | 100/1928 [00:40<12:00, 2.5it/s]\
INFO:root:Epoch 0, Step 100, loss: 0.1246, disc_loss: 0.1737, PESQ: 1.6852
some warning on stderr: epochs are long
INFO:root:TEST - Generator loss: 0.0517, Discriminator loss: 0.0170, PESQ: 2.3234
INFO:root:? New best model saved at epoch 0 with loss 0.051663
100%|##########| 137/137 [01:00, 2.3it/s]\rINFO:root:Epoch 1, Step 100, loss: 0.09, disc_loss: 0.1, PESQ: 2
INFO:root:TEST - Generator loss: 0.0500, Discriminator loss: 0.0160, PESQ: 2.6000
INFO:root:? New best model saved! Loss: 0.050000
INFO:root:TEST - Generator loss: 0.0490, Discriminator loss: 0.0160, PESQ: 2.5500
INFO:root:Epoch 3, Step 100, loss: 0.09, disc_loss: 0.1, PESQ: 2.0
INFO:root:Epoch 3, Step 200, loss: 0.0"""

DIVERGED = """\
epochs=120, batch_size=4, init_lr=0.001, data_dir=/data/vb, save_model_dir=./other
Model parameters: Total=3.95M, Trainable=3.95M
INFO:root:Epoch 0, Step 100, loss: 0.2, disc_loss: 0.1, PESQ: 1.5
INFO:root:TEST - Generator loss: 0.06, Discriminator loss: 0.02, PESQ: 2.0
INFO:root:Epoch 1, Step 100, loss: 0.2, disc_loss: 0.1, PESQ: 1.5
INFO:root:TEST - Generator loss: 0.06, Discriminator loss: 0.02, PESQ: 2.1
INFO:root:Epoch 2, Step 100, loss: 0.2, disc_loss: 0.1, PESQ: 1.5
INFO:root:Epoch 2, Step 200, loss: nan, disc_loss: nan, PESQ: 1.5
INFO:root:TEST - Generator loss: nan, Discriminator loss: nan, PESQ: 0.0000
INFO:root:Epoch 3, Step 100, loss: nan, disc_loss: nan, PESQ: 0.0
INFO:root:TEST - Generator loss: nan, Discriminator loss: nan, PESQ: 0.0000
"""


def logs():
    return {**parse_log(GOOD, "good"), **parse_log(DIVERGED, "bad")}


def test_epochs_are_numbered_from_zero_between_progress_bars():
    assert parse_log(GOOD, "good") == {"good": {0: 2.3234, 1: 2.6, 2: 2.55}}


def test_diverged_epochs_count_as_no_result():
    bad = parse_log(DIVERGED, "bad")["bad"]
    assert finite(bad) == {0: 2.0, 1: 2.1}
    assert len(bad) == 4


def test_matched_epochs_give_a_range():
    assert matched(logs()) == {"good - bad": pytest.approx({0: 0.3234, 1: 0.5})}


def test_reasons_against_attribution_are_said():
    text = "\n".join(objections(logs()))
    for part in ("Each log is one run", "test set", "good 3, bad 2", "is +0.32 to +0.50", "bad diverged"):
        assert part in text
    assert "good diverged" not in text


def test_two_trainings_in_one_file_are_told_apart():
    runs = parse_log(DIVERGED + DIVERGED.split("\n", 2)[2], "x")
    assert list(runs) == ["x#1", "x#2"]
    assert [len(run) for run in runs.values()] == [4, 4]


def test_a_test_line_cut_off_in_its_number_is_no_result():
    text = DIVERGED.split("INFO:root:Epoch 2")[0]
    assert parse_log(text.rstrip() + "00", "x") == parse_log(text.rstrip()[:-1], "x") == {"x": {0: 2.0}}


def test_every_form():
    forms = {}
    for format in ("table", "md", "latex", "html", "csv", "json"):
        out = io.StringIO()
        write_document(logs_document(logs(), format), format, out)
        forms[format] = out.getvalue()
    for format in ("table", "md", "html"):
        assert "Not an attribution" in forms[format]
    assert "2.6000 (epoch 1)" in forms["latex"]
    data = json.loads(forms["json"])
    assert data["schema"] == "ablate-logs/2"
    assert data["attributable"] is False
    assert data["logs"]["bad"] == {"0": 2.0, "1": 2.1, "2": None, "3": None}
    rows = list(csv.DictReader(io.StringIO(forms["csv"])))
    assert rows[1] == {"epoch": "1", "good": "2.6000", "bad": "2.1000", "good - bad": "+0.5000"}
    assert rows[2]["bad"] == "nan"


def test_a_file_that_is_no_log_is_refused(tmp_path):
    (tmp_path / "a.log").write_text("hello\n")
    with pytest.raises(ValueError, match="has no line of the form"):
        read_logs([tmp_path / "a.log"])
    with pytest.raises(InputError, match="no log file"):
        read_logs([tmp_path / "b.log"])


def test_files_of_one_name_are_told_apart_by_their_folder(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "train.log").write_text(GOOD)
    paths = [tmp_path / folder / "train.log" for folder in ("a", "b")]
    assert list(read_logs(paths)) == [str(path) for path in paths]
