from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ablate.models.errors import InputError
from ablate.models.interface import Interface, declare
from ablate.models.spectral import stft
from ablate.models.transform import Transform

WAVES = torch.randn(2, 4000, generator=torch.Generator().manual_seed(1))


class Takes(nn.Module):
    """Keeps what it is given, and gives it back as `give` does."""

    def __init__(self, give=lambda *given: given[0], **said) -> None:
        super().__init__()
        self.give = give
        declare(self, **said)

    def forward(self, *given: Tensor):
        self.given = given
        return self.give(*given)


@pytest.mark.parametrize(
    ("said", "shapes"),
    [
        ({}, [(2, 257, 32)]),
        ({"axes": "btf"}, [(2, 32, 257)]),
        ({"axes": "bft2"}, [(2, 257, 32, 2)]),
        ({"axes": "b2tf", "compress": 0.3}, [(2, 2, 32, 257)]),
        ({"axes": "b1f2t"}, [(2, 1, 257, 2, 32)]),
        ({"transform": Transform(320, 160, "sqrt-hann"), "axes": "b2ft"}, [(2, 2, 161, 26)]),
        ({"transform": Transform(400, 100, "hamming"), "compress": 0.3}, [(2, 201, 41)]),
        ({"domain": "magnitude"}, [(2, 257, 32)]),
        ({"domain": "magnitude", "axes": "b1tf", "compress": 0.5}, [(2, 1, 32, 257)]),
        ({"domain": "waveform"}, [(2, 4000)]),
        ({"domain": "waveform", "axes": "b1t"}, [(2, 1, 4000)]),
    ],
)
def test_a_network_that_gives_back_what_it_takes_changes_nothing(said, shapes):
    network = Takes(**said)
    interface = Interface.of(network)
    signal = interface.analyse(WAVES)
    enhanced = interface(network, signal)
    assert [tuple(given.shape) for given in network.given] == shapes
    assert torch.allclose(enhanced, signal, atol=1e-5)
    assert torch.allclose(interface.spectrum(enhanced, 4000), stft(WAVES), atol=1e-4)
    whole = interface(network, interface.whole(WAVES))
    assert torch.allclose(interface.utterance(whole, 4000), WAVES, atol=1e-5)


def test_magnitude_and_phase_are_two_arguments_and_the_first_two_outputs():
    network = Takes(lambda size, phase: (size, phase, None), domain="magnitude-phase", compress=0.3)
    interface = Interface.of(network)
    signal = interface.analyse(WAVES)
    assert torch.allclose(interface(network, signal), signal, atol=1e-5)
    assert torch.allclose(network.given[0], signal.abs() ** 0.3, atol=1e-6)


def test_a_network_that_says_nothing_is_called_as_it_is():
    network = Takes()
    signal = stft(WAVES)
    assert Interface.of(network).plain
    assert Interface.of(network)(network, signal) is signal


@pytest.mark.parametrize("place", [(), (0,), (100, 130)])
def test_compression_keeps_silence_and_its_gradients_finite(place):
    waves = torch.zeros(1, 4000)
    waves[:, list(place)] = 1.0
    network = Takes(compress=0.3, axes="bft2")
    network.scale = nn.Parameter(torch.ones(()))
    network.give = lambda spectrum: spectrum * network.scale
    interface = Interface.of(network)
    enhanced = interface(network, interface.analyse(waves))
    torch.view_as_real(enhanced).square().sum().backward()
    assert torch.isfinite(torch.view_as_real(enhanced)).all()
    assert torch.isfinite(network.scale.grad)


@pytest.mark.parametrize(
    ("give", "output"),
    [
        (lambda x: {"enhanced": x, "mask": None}, "enhanced"),
        (lambda x: (None, x), 1),
        (lambda x: [None, x], -1),
        (lambda x: (x[..., 0], x[..., 1]), (0, 1)),
        (lambda x: {"re": x[..., 0], "im": x[..., 1]}, ("re", "im")),
        (lambda x: torch.view_as_complex(x), None),
    ],
)
def test_the_enhanced_signal_is_found_in_what_a_network_gives(give, output):
    network = Takes(give, axes="bft2", output=output)
    signal = stft(WAVES)
    assert torch.equal(Interface.of(network)(network, signal), signal)


@pytest.mark.parametrize("change", [-100, 100, 0])
def test_a_wave_of_nearly_the_same_length_is_cut_or_filled(change):
    give = (lambda x: x[:, None, :change]) if change < 0 else lambda x: nn.functional.pad(x, (0, change))
    network = Takes(give, domain="waveform")
    enhanced = Interface.of(network)(network, WAVES)
    assert enhanced.shape == WAVES.shape
    kept = 4000 + min(change, 0)
    assert torch.equal(enhanced[:, :kept], WAVES[:, :kept])
    assert not enhanced[:, kept:].any()


@pytest.mark.parametrize(
    ("give", "said", "message"),
    [
        (lambda x: {"a": x}, {"output": "b"}, r"no output 'b'; it returns keys a$"),
        (lambda x: (x,), {"output": 3}, r"no output 3; it returns tuple of 1"),
        (lambda x: {"a": x}, {"axes": "btf"}, r"returns dict of 1; set output to the enhanced"),
        (lambda x: x, {"output": 1}, r"returns one tensor, complex64 \(2, 257, 32\), without output 1"),
        (
            lambda x: x[..., :200, :],
            {"axes": "b1ft"},
            r"returns complex64 .*, expected \(2, 1, 257, 32\) \(b1ft\)",
        ),
        (lambda x: x.abs(), {"axes": "btf"}, r"returns float32 .* for a spectrum; return a complex tensor"),
        (lambda x: x[:, :900], {"domain": "waveform"}, r"returns float32 \(2, 900\) for waveforms"),
        (lambda x: x[:1], {"domain": "waveform"}, r"returns float32 \(1, 4000\) for waveforms"),
    ],
)
def test_what_a_network_gives_and_cannot_be_used(give, said, message):
    network = Takes(give, **said)
    interface = Interface.of(network)
    with pytest.raises(InputError, match=message):
        interface(network, interface.analyse(WAVES))


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"domain": "wavform"}, "unknown domain 'wavform'; did you mean 'waveform'"),
        ({"axes": "bf"}, "axes 'bf' of a spectrum are not valid: use each of bft once"),
        ({"domain": "waveform", "axes": "bft"}, "axes 'bft' of a waveform"),
        ({"domain": "waveform", "compress": 0.3}, "do not apply to a network of waveforms"),
        ({"compress": -1}, "is not above 0"),
        ({"transform": "hann"}, "transform='hann': expected Transform"),
        ({"ouput": 1}, "cannot declare 'ouput'; did you mean 'output'"),
    ],
)
def test_what_cannot_be_declared(said, message):
    with pytest.raises(InputError, match=message):
        declare(nn.Identity(), **said)


def test_an_attribute_of_that_name_that_is_something_else_is_the_networks_own():
    class Own(nn.Module):
        domain = ("not", "ours")

        def __init__(self) -> None:
            super().__init__()
            self.output, self.transform, self.compress = nn.Linear(2, 2), nn.Identity(), True

    assert Interface.of(Own()).plain
    assert Interface.of(declare(Own(), output="enhanced")).output == "enhanced"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hop": 600}, "512 points, hop 600, window 512"),
        ({"hop": 512}, "so windows have to overlap; give a hop below 512"),
        ({"n_fft": 400, "length": 512}, "400 points, hop 128, window 512"),
        ({"window": "han"}, "did you mean 'hann'"),
    ],
)
def test_a_transform_that_does_not_fit_together(fields, message):
    with pytest.raises(InputError, match=message):
        Transform(**fields)


@pytest.mark.parametrize("samples", [1, 100, 3999])
def test_a_transform_of_ones_own_takes_any_length(samples):
    transform = Transform(510, 90, length=400)
    waves = WAVES[:, :samples]
    assert torch.allclose(transform.synthesise(transform.analyse(waves), samples), waves, atol=1e-5)


@pytest.mark.parametrize("third", [False, True])
def test_a_loss_of_ones_own_gets_signals_as_the_network_takes_them(third):
    seen = []

    def two(outputs, clean):
        seen.append((outputs, clean))
        return clean.sum()

    def three(outputs, clean, noisy):
        seen.append((outputs, clean, noisy))
        return clean.sum()

    network = Takes(axes="b2tf", loss=three if third else two)
    signal = stft(WAVES)
    Interface.of(network).loss_of("outputs", signal, 2 * signal)
    outputs, clean, *noisy = seen[0]
    assert outputs == "outputs"
    assert clean.shape == (2, 2, 32, 257)
    assert len(noisy) == third
    with pytest.raises(InputError, match="this network has none"):
        Interface().loss_of(None, signal, signal)
