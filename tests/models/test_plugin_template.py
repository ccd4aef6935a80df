from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ablate.models import PRESETS, build_model, plugins
from ablate.models.errors import InputError
from ablate.models.interface import Interface
from ablate.models.plugin_template import write_start


@pytest.fixture
def started(tmp_path: Path) -> Iterator[str]:
    name = f"start-{tmp_path.name.replace('_', '-')}".lower()
    plugins.load([write_start(name, tmp_path)])
    yield name
    PRESETS.pop(name)


def test_it_is_a_network_that_runs_and_has_a_loss(started: str) -> None:
    network = build_model(started)
    interface = Interface.of(network)
    signal = interface.analyse(torch.randn(2, 4000))
    outputs = interface.outputs(network, signal)
    assert interface.enhanced(outputs, signal).shape == signal.shape
    assert interface.loss_of(outputs, signal, signal).item() > 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("My Net", "use a small letter"),
        ("class", "use a small letter"),
        ("../net", "use a small letter"),
        ("bsrnn", "already exists"),
    ],
)
def test_names_that_cannot_be(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        write_start(name, tmp_path)


def test_a_file_that_is_there_stays(tmp_path: Path) -> None:
    path = write_start("my-net", tmp_path)
    assert path.name == "my_net.py"
    path.write_text("mine")
    with pytest.raises(InputError, match="already exists"):
        write_start("my-net", tmp_path)
    assert path.read_text() == "mine"
