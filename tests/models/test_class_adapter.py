from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from ablate.models import build_model
from ablate.models.class_adapter import class_of_file
from ablate.models.errors import InputError
from ablate.models.interface import Interface

NETWORKS = """
import torch
from torch import nn

print("a greeting")

class Wave(nn.Module):
    def __init__(self, channels, kernel=8):
        super().__init__()
        self.first = nn.Conv1d(1, channels, kernel, padding="same")
        self.last = nn.Conv1d(channels, 1, 1)
    def forward(self, x):
        return self.last(self.first(x.unsqueeze(1)).relu()).squeeze(1)

class Channelled(Wave):
    def forward(self, x):
        return {"mask": x.new_zeros(()), "estimate": self.last(self.first(x))}

class Complex(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(x.abs())

class Pairs(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Conv2d(2, 2, 3, padding=1)
    def forward(self, x):
        return self.net(x)

class Last(nn.Module):
    def __init__(self, n_freqs, width=4):
        super().__init__()
        self.net = nn.GRU(2 * n_freqs, 2 * n_freqs, batch_first=True)
    def forward(self, x):
        b, f, t, _ = x.shape
        return self.net(x.transpose(1, 2).reshape(b, t, -1))[0].view(b, t, f, 2).transpose(1, 2)

class Parts(Pairs):
    def forward(self, x):
        real, imag = self.net(x).unbind(1)
        return real, imag

class Magnitude(nn.Module):
    def __init__(self, h):
        super().__init__()
        self.net = nn.LSTM(h.bins, h.bins, batch_first=True)
    def forward(self, mag):
        return self.net(mag)[0].sigmoid() * mag

class Polar(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Conv1d(257, 257, 1)
    def forward(self, magnitude, phase):
        return magnitude * self.net(magnitude).sigmoid(), phase, None

class OtherBins(nn.Module):
    def __init__(self, n_fft=320, hop=160, n_freqs=161):
        super().__init__()
        self.net = nn.Linear(n_freqs, n_freqs)
    def forward(self, x):
        pairs = self.net(torch.view_as_real(x).transpose(1, 3)).transpose(1, 3)
        return torch.view_as_complex(pairs.contiguous())

class Listed(Complex):
    def __init__(self, widths):
        super().__init__()
        self.net = nn.ModuleList(nn.Linear(w, w) for w in widths)

class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(40, 3)
    def forward(self, x):
        return self.net(x)

class Broken(Complex):
    def __init__(self):
        super().__init__()
        self.missing.weight

function = 1
"""
COUNT = itertools.count()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / f"networks_of_test_{next(COUNT)}.py"
    path.write_text(NETWORKS)
    return path


@pytest.mark.parametrize(
    ("name", "settings", "domain", "axes", "told"),
    [
        ("Wave", {"channels": 4}, "waveform", "bt", "guessed its input and output form: waveform bt"),
        ("Channelled", {"channels": 4, "kernel": 3}, "waveform", "b1t", "output 'estimate'"),
        ("Complex", {}, "spectrum", "bft", "it also runs with"),
        ("Pairs", {}, "spectrum", "b2ft", "it also runs with spectrum b2tf"),
        ("Pairs", {"axes": "b2tf"}, "spectrum", "b2tf", ""),
        ("Parts", {}, "spectrum", "b2ft", "output (0, 1)"),
        ("Last", {}, "spectrum", "bft2", "n_freqs=257 is guessed from its name"),
        ("Magnitude", {"h.bins": 257}, "magnitude", "btf", "magnitude btf"),
        ("Polar", {}, "magnitude-phase", "bft", "magnitude-phase bft"),
        ("OtherBins", {}, "spectrum", "bft", "spectrum bft of 320 points, hop 160"),
        ("Listed", {"widths": [3, 4]}, "spectrum", "bft", ""),
    ],
)
def test_what_a_class_takes_is_guessed_and_said(file, capsys, name, settings, domain, axes, told):
    brought = class_of_file(f"{file}:{name}", settings)
    network = build_model(brought.config)
    interface = Interface.of(network)
    assert (interface.domain, interface.axes) == (domain, axes)
    assert any(told in line for line in brought.told) or not told
    signal = interface.analyse(torch.randn(2, 4000))
    assert interface(network, signal).shape == signal.shape
    assert "greeting" in capsys.readouterr().err


def test_settings_are_arguments_each_time_anew(file):
    sizes = [
        build_model(class_of_file(f"{file}:Wave", {"channels": n}).config).first.out_channels for n in (2, 3)
    ]
    assert sizes == [2, 3]


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("Wave", {}, r"Wave\(channels, kernel=8\): channels has no default; give --set channels=\.\.\."),
        ("Wave", {"chanels": 1}, r"has no argument 'chanels'; did you mean 'channels'"),
        ("Wav", {}, "no network class 'Wav'; did you mean 'Wave'"),
        ("function", {}, "no network class 'function'"),
        (
            "Classifier",
            {},
            "does not accept any of the input and output forms that were tried; spectrum bft: .*--set domain",
        ),
        ("Broken", {}, r"Broken cannot be built: AttributeError: .* \(.*networks_of_test_\d+.py:\d+\)"),
        ("Complex", {"domain": "wave"}, "unknown domain 'wave'"),
    ],
)
def test_what_cannot_be_guessed(file, name, settings, message):
    with pytest.raises(InputError, match=message):
        class_of_file(f"{file}:{name}", settings)


def test_no_such_file(tmp_path):
    with pytest.raises(InputError, match=r"none\.py:Net: the file .*none\.py does not exist"):
        class_of_file(f"{tmp_path / 'none.py'}:Net")


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("net.py", "from layers_of_place import scale\n"),
        ("package/net.py", "from .layers_of_place import scale\n"),
        ("package/inner/net.py", "from ..layers_of_place import scale\n"),
        ("src/net.py", "from common_of_place.layers_of_place import scale\n"),
    ],
)
def test_imports_of_a_repository_are_found(tmp_path, place, text):
    root = tmp_path / f"repository_{next(COUNT)}"
    name = f"layers_of_place_{next(COUNT)}"
    beside = {"net.py": "", "src/net.py": "common_of_place"}.get(place, "package")
    path = root / place.replace("package", f"package_{next(COUNT)}")
    beside = str(path.relative_to(root).parts[0]) if beside == "package" else beside
    path.parent.mkdir(parents=True)
    (root / beside).mkdir(exist_ok=True)
    (root / beside / f"{name}.py").write_text("scale = 2\n")
    net = "from torch import nn\nclass Net(nn.Module):\n    def forward(self, x):\n        return scale * x\n"
    path.write_text(text.replace("layers_of_place", name) + net)
    assert class_of_file(f"{path}:Net").config.architecture == f"{path}:Net"
