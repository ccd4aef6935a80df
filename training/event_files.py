"""Reads event files of TensorBoard and of W&B's offline runs without either package.

TensorBoard frames protobuf messages like TFRecord, W&B like LevelDB's log. Unnamed fields are skipped. Field
numbers are those of TensorFlow's `event.proto`, `summary.proto`, `tensor.proto` and of
`wandb_internal.proto`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

Kinds = dict[str, dict[str, tuple[int, str, bool]]]
"""Message -> field -> number, type (a scalar's, or a message's name), and whether it is repeated."""

_TENSORBOARD: Kinds = {
    "Event": {"step": (2, "int64", False), "summary": (5, "Summary", False)},
    "Summary": {"value": (1, "Value", True)},
    "Value": {
        "tag": (1, "string", False),
        "simple_value": (2, "float", False),
        "tensor": (8, "Tensor", False),
    },
    "Tensor": {
        "dtype": (1, "int64", False),
        "content": (4, "bytes", False),
        "floats": (5, "float", True),
        "doubles": (6, "double", True),
    },
}
_WANDB: Kinds = {
    "Record": {"history": (2, "Items", False), "config": (5, "Items", False), "run": (17, "Run", False)},
    "Run": {"id": (1, "string", False), "config": (4, "Items", False), "name": (8, "string", False)},
    "Items": {"item": (1, "Item", True)},
    "Item": {"key": (1, "string", False), "nested": (2, "string", True), "value": (16, "string", False)},
}


@cache
def _message(package: str, name: str) -> Any:
    """The class of a message."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = _TENSORBOARD if package == "tensorboard" else _WANDB
    file = descriptor_pb2.FileDescriptorProto(
        name=f"ablate/{package}.proto", package=f"ablate.{package}", syntax="proto2"
    )
    field_type = descriptor_pb2.FieldDescriptorProto
    for kind, fields in kinds.items():
        message = file.message_type.add(name=kind)
        for field, (number, of, repeated) in fields.items():
            label = field_type.LABEL_REPEATED if repeated else field_type.LABEL_OPTIONAL
            added = message.field.add(name=field, number=number, label=label)
            if of in kinds:
                added.type, added.type_name = field_type.TYPE_MESSAGE, f".ablate.{package}.{of}"
            else:
                added.type = getattr(field_type, f"TYPE_{of.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"ablate.{package}.{name}"))


def _tensorboard_records(data: bytes) -> Iterator[bytes]:
    """Messages up to the first incomplete one, with which a file ends while it is written."""
    at = 0
    while at + 12 <= len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        if at + 16 + length > len(data):
            return
        yield data[at + 12 : at + 12 + length]
        at += 16 + length


def _wandb_records(data: bytes) -> Iterator[bytes]:
    """Messages up to the first incomplete one. A message is one full piece (1), or first (2), middle (3) and
    last (4) pieces; no piece crosses a block of 32 KiB. Seven bytes precede the first block's pieces."""
    block, at, whole = 32_768, 7, b""
    while at + 7 <= len(data):
        if block - at % block < 7:
            at += block - at % block
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        at += 7
        if kind == 0 or at + length > len(data):
            return
        whole = data[at : at + length] if kind in (1, 2) else whole + data[at : at + length]
        at += length
        if kind in (1, 4):
            yield whole


def tensorboard_scalars(path: Path) -> list[dict[str, float]]:
    """The scalars in an event file, or in all event files of a folder, a row per step.

    Raises:
        ValueError: there are no events.
    """
    files = sorted(path.glob("events.out.tfevents.*")) if path.is_dir() else [path]
    rows: dict[int, dict[str, float]] = {}
    event, messages = _message("tensorboard", "Event"), 0
    for file in files:
        for record in _tensorboard_records(file.read_bytes()):
            read, messages = _parsed(event, record, file), messages + 1
            for value in read.summary.value:
                number = _scalar(value)
                if number is not None:
                    rows.setdefault(read.step, {"step": read.step})[value.tag] = number
    if not messages:
        raise ValueError(f"{path} has no TensorBoard events")
    return [rows[step] for step in sorted(rows)]


def _scalar(value: Any) -> float | None:
    """A value's number; None for a picture, a histogram or text."""
    if value.HasField("simple_value"):
        return value.simple_value
    tensor = value.tensor
    if tensor.dtype not in (1, 2):
        return None
    if tensor.content:
        kind = "<f" if tensor.dtype == 1 else "<d"
        whole = len(tensor.content) == struct.calcsize(kind)
        return struct.unpack(kind, tensor.content)[0] if whole else None
    held = tensor.floats if tensor.dtype == 1 else tensor.doubles
    return held[0] if len(held) == 1 else None


def wandb_run(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The configuration and the history of a W&B offline run.

    Args:
        path: a `.wandb` file, or the folder `offline-run-...` with one.

    Returns:
        Settings by name, with `_id` and `_name` of the run; a row per step, nested keys joined by `.`.

    Raises:
        ValueError: the file is of another kind, or the folder does not have exactly one.
    """
    files = sorted(path.glob("*.wandb")) if path.is_dir() else [path]
    if len(files) != 1:
        raise ValueError(f"{path} has {len(files)} .wandb files; name the folder of one offline run")
    data = files[0].read_bytes()
    if not data.startswith(b":W&B"):
        raise ValueError(f"{files[0]} is not a .wandb file: its header is wrong")
    config: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    record = _message("wandb", "Record")
    for message in _wandb_records(data):
        read = _parsed(record, message, files[0])
        if read.HasField("run"):
            config |= {"_id": read.run.id, "_name": read.run.name, **_items(read.run.config)}
        elif read.HasField("config"):
            config |= _items(read.config)
        elif read.HasField("history"):
            row = _items(read.history)
            rows.append({"step": row.get("_step", len(rows)), **row})
    config.pop("_wandb", None)
    return config, rows


def _items(items: Any) -> dict[str, Any]:
    return {item.key or ".".join(item.nested): json.loads(item.value) for item in items.item}


def _parsed(kind: Any, record: bytes, file: Path) -> Any:
    from google.protobuf.message import DecodeError

    try:
        return kind.FromString(record)
    except DecodeError as error:
        raise ValueError(f"{file} is damaged: {error}") from None
