from __future__ import annotations

import json
import math
import struct
from base64 import b64decode

import pytest

from ablate.models.errors import InputError
from ablate.training import event_files
from ablate.training.curves import CurveFormat

EVENTS = b64decode("""
SAAAAAAAAAD+kkidCbafXlVTw9pBGg1icmFpbi5FdmVudDoyUi4KLHRlbnNvcmJvYXJkLnN1bW1hcnkud3JpdGVyLmV2ZW50X2Zp
bGVfd3JpdGVy/5Y6HykAAAAAAAAAN/9fAAkAAAAAAADwPyoeCg8KCHZhbC9wZXNxFQAAAEAKCwoEbG9zcxUAAIA/2wDxJSsAAAAA
AAAAhhvDSwkAAAAAAADwPxBkKh4KDwoIdmFsL3Blc3EVZmYGQAoLCgRsb3NzFQAAAD/BCOKFLAAAAAAAAAD0rsxFCQAAAAAAAPA/
EMgBKh4KDwoIdmFsL3Blc3EVzcwMQAoLCgRsb3NzFauqqj40lo/FOQAAAAAAAACLBzfxCQAAAAAAAPA/EKwCKisKKQoIdmFsL3Bl
c3FCCggBEgAqBAAAIEBKEQoJCgdzY2FsYXJzEgFkGgF4eUUjIg==
""")
"""Written by TensorBoard 2.21's own writer: three steps of two scalars, and one as a tensor."""
WANDB = b64decode("""
OlcmQuG+AO/aS45vAAEICxJrChgSCF9ydW50aW1lggELMS42MzEzNjIxNjYKCxIFX3N0ZXCCAQEwCg4SCHZhbC9wZXNxggEBMgoK
EgRsb3NzggEBMQokEgpfdGltZXN0YW1wggEVMS43OTYwMzM4NDc0MTQ2ODVlKzA5EgCMfEu8fgABCA4SegofEghfcnVudGltZYIB
EjEuNjMzNzQ2NDE3OTk5OTk5OQoMEgVfc3RlcIIBAjEwChASCHZhbC9wZXNxggEDMi4xCgwSBGxvc3OCAQMwLjUKJRIKX3RpbWVz
dGFtcIIBFjEuNzk2MDMzODQ3NDE1NzA3M2UrMDkSAggKS18HQY0AAQgREogBChASCHZhbC9wZXNxggEDMi4yChsSBGxvc3OCARIw
LjMzMzMzMzMzMzMzMzMzMzMKJBIKX3RpbWVzdGFtcIIBFTEuNzk2MDMzODQ3NDE2NjI0ZSswOQofEghfcnVudGltZYIBEjEuNjM0
NDE5ODkwOTk5OTk5OAoMEgVfc3RlcIIBAjIwEgIIFL7yN4Z/AAEIFBJ7CgwSBV9zdGVwggECMzAKEBIIdmFsL3Blc3GCAQMyLjMK
DRIEbG9zc4IBBDAuMjUKJRIKX3RpbWVzdGFtcIIBFjEuNzk2MDMzODQ3NDE4OTAwM2UrMDkKHxIIX3J1bnRpbWWCARIxLjYzNDk2
NTQ1Njk5OTk5OTgSAggen4q0BXYAAQgbEnIKDBIFX3N0ZXCCAQI0MAoQEgh2YWwvcGVzcYIBAzIuNAoMEgRsb3NzggEDMC4yCiQS
Cl90aW1lc3RhbXCCARUxLjc5NjAzMzg0NzQxOTQ1NGUrMDkKGBIIX3J1bnRpbWWCAQsxLjY0OTUxODU3NBICCCg=
""")
"""The history of an offline run, as wandb 0.31 wrote it."""
NAMES = {"val/pesq_wb": "val/pesq"}


@pytest.fixture
def events(tmp_path):
    (tmp_path / "tb").mkdir()
    (tmp_path / "tb" / "events.out.tfevents.1").write_bytes(EVENTS)
    return tmp_path / "tb"


@pytest.fixture
def offline(tmp_path):
    (tmp_path / "offline-run-1").mkdir()
    (tmp_path / "offline-run-1" / "run-1.wandb").write_bytes(WANDB)
    return tmp_path / "offline-run-1"


def test_tensorboard(events):
    rows = CurveFormat(file="tb", names=NAMES).read(events)
    assert [row["step"] for row in rows] == [0, 100, 200, 300]
    assert [row["val/pesq_wb"] for row in rows] == pytest.approx([2.0, 2.1, 2.2, 2.5])
    assert rows[2]["loss"] == pytest.approx(1 / 3)
    assert CurveFormat(file="x", names=NAMES).read(events / "events.out.tfevents.1") == rows


def test_wandb_offline(offline):
    rows = CurveFormat(file="w", names=NAMES).read(offline)
    assert [(row["step"], row["val/pesq_wb"]) for row in rows] == [
        (0, 2.0),
        (10, 2.1),
        (20, 2.2),
        (30, 2.3),
        (40, 2.4),
    ]


def test_what_is_no_scalar_is_left_out(tmp_path):
    event = event_files._message("tensorboard", "Event")(step=1)
    event.summary.value.add(tag="a picture")
    event.summary.value.add(tag="loss", simple_value=0.5)
    message = event.SerializeToString()
    framed = struct.pack("<Q4x", len(message)) + message + bytes(4)
    (tmp_path / "events.out.tfevents.1").write_bytes(framed)
    assert event_files.tensorboard_scalars(tmp_path) == [{"step": 1, "loss": 0.5}]


def test_settings_of_an_offline_run(tmp_path):
    record = event_files._message("wandb", "Record")()
    record.run.id, record.run.name = "abc", "first"
    record.run.config.item.add(key="core", value=json.dumps("lstm"))
    message = record.SerializeToString()
    framed = WANDB + struct.pack("<IHB", 0, len(message), 1) + message
    (tmp_path / "run.wandb").write_bytes(framed)
    settings, rows = event_files.wandb_run(tmp_path / "run.wandb")
    assert settings == {"_id": "abc", "_name": "first", "core": "lstm"}
    assert len(rows) == 5


def test_a_message_in_pieces_over_blocks(tmp_path):
    """LevelDB's log cuts what crosses a block of 32 KiB into first, middle and last pieces."""
    record = event_files._message("wandb", "Record")()
    record.history.item.add(key="_step", value="7")
    record.history.item.add(key="text", value=json.dumps("x" * 100_000))
    message, data = record.SerializeToString(), bytearray(b":W&B\xe1\xbe\x00")
    at = 0
    while at < len(message):
        room = 32_768 - len(data) % 32_768 - 7
        piece = message[at : at + room]
        last = at + len(piece) == len(message)
        kind = (1 if last else 2) if at == 0 else (4 if last else 3)
        data += struct.pack("<IHB", 0, len(piece), kind) + piece
        at += len(piece)
    (tmp_path / "long.wandb").write_bytes(bytes(data))
    (row,) = event_files.wandb_run(tmp_path / "long.wandb")[1]
    assert (row["step"], len(row["text"])) == (7, 100_000)


@pytest.mark.parametrize("cut", range(1, 40, 7))
def test_a_file_that_is_still_written_gives_what_is_whole(events, offline, cut):
    file = events / "events.out.tfevents.1"
    file.write_bytes(EVENTS[:-cut])
    assert len(CurveFormat(file="x").read(events)) == 3
    file = offline / "run-1.wandb"
    file.write_bytes(WANDB[:-cut])
    assert len(CurveFormat(file="x").read(offline)) == 4


def test_rows_of_one_step_are_joined_as_lightning_writes_them(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,step,loss,val_pesq\n0,9,0.5,\n0,9,,2.1\n1,19,nan,\n1,19,,2.2\n")
    first, second = CurveFormat(file="metrics.csv", names={"val/pesq_wb": "val_pesq"}).read(path)
    assert first == {"step": 9, "epoch": 0.0, "loss": 0.5, "val/pesq_wb": 2.1}
    assert math.isnan(second["loss"])  # written as such: the training diverged, no field was empty
    epochs = CurveFormat(file="metrics.csv", step="epoch").read(path)
    assert [row["step"] for row in epochs] == [0, 1]


def test_json_a_list_and_lines(tmp_path):
    (tmp_path / "a.json").write_text('[{"epoch": 1, "pesq": 2.0}, {"epoch": 2, "pesq": 2.5}]')
    (tmp_path / "a.jsonl").write_text('{"epoch": 1, "pesq": 2.0}\n{"epoch": 2, "pesq": 2.5}\n{"epo')
    rows = [CurveFormat(file="", step="epoch").read(tmp_path / name) for name in ("a.json", "a.jsonl")]
    assert rows[0] == rows[1] == [{"step": 1, "pesq": 2.0}, {"step": 2, "pesq": 2.5}]


def test_rows_that_tell_no_step_are_counted(tmp_path):
    (tmp_path / "history.json").write_text('[{"train": 0.5}, {"train": 0.4, "pesq": 2.0}]')
    how = CurveFormat(file="", step="line", names={"val/pesq_wb": "pesq"})
    assert how.read(tmp_path / "history.json") == [
        {"step": 1, "train": 0.5},
        {"step": 2, "train": 0.4, "val/pesq_wb": 2.0},
    ]
    (tmp_path / "train.log").write_text("start\nloss 3\nnoise\nloss 2\n")
    rows = CurveFormat(file="", pattern=r"loss (?P<loss>\S+)", step="line").read(tmp_path / "train.log")
    assert rows == [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}]
    (tmp_path / "lines.csv").write_text("line,loss\n7,3\n9,2\n")
    told = CurveFormat(file="", step="line").read(tmp_path / "lines.csv")
    assert [row["step"] for row in told] == [7, 9]
    with pytest.raises(InputError, match="or count the rows with step: line"):
        CurveFormat(file="").read(tmp_path / "history.json")


def test_a_log_by_pattern(tmp_path):
    (tmp_path / "train.log").write_text(
        "start\nEpoch 3 | PESQ 2.31 | loss nan\nnoise\nEpoch 4 | PESQ 2.40 | loss 1e-3\n"
    )
    how = CurveFormat(file="x", pattern=r"Epoch (?P<step>\d+) \| PESQ (?P<pesq>[\d.]+) \| loss (?P<loss>\S+)")
    first, second = how.read(tmp_path / "train.log")
    assert (first["step"], first["pesq"], math.isnan(first["loss"])) == (3, 2.31, True)
    assert second == {"step": 4, "pesq": 2.4, "loss": 1e-3}


def test_of_several_files_the_newest(tmp_path):
    import os

    for number, name in enumerate(("version_0", "version_1")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.csv").write_text("step\n1\n")
        os.utime(tmp_path / name / "metrics.csv", (number, number))
    how = CurveFormat(file="version_*/metrics.csv")
    assert how.newest(tmp_path) == tmp_path / "version_1" / "metrics.csv"
    assert CurveFormat(file="none_*.csv").newest(tmp_path) is None


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "epoch,loss\n1,2\n", "no row with a step 'step'"),
        ("a.csv", "steps,loss\n1,2\n", "did you mean 'steps'"),
        ("a.json", '{"step": 1}', "one dict, not a list"),
        ("a.json", "[", "cannot be read as a curve"),
        ("a.txt", "1", "unknown format"),
        ("a.wandb", "1", "is not a .wandb file"),
        ("events.out.tfevents.1", "", "no TensorBoard event"),
    ],
)
def test_what_is_no_curve_is_said(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        CurveFormat(file=name).read(tmp_path / name)


def test_a_column_that_is_not_there_is_named_with_the_nearest(events):
    with pytest.raises(InputError, match=r"no column 'val/pesqs'; did you mean 'val/pesq'"):
        CurveFormat(file="x", names={"val/pesq_wb": "val/pesqs"}).read(events)


@pytest.mark.parametrize("pattern", ["(", r"(?P<epoch>\d+)", r"\d"])
def test_a_pattern_that_cannot_be_used(pattern):
    with pytest.raises(ValueError, match="pattern"):
        CurveFormat(file="x", pattern=pattern)
