"""LiSenNet: github.com/hyyan2k/LiSenNet."""

import torch
from clone import attribute, importing, register, scaled, source


def mel_bands(n_freqs, f_min, f_max, n_mels, sample_rate):
    """Triangles on the mel scale, `(bin, band)`, as torchaudio's `melscale_fbanks` makes them."""
    mel = torch.linspace(*(2595 * torch.log10(1 + torch.tensor([f_min, f_max]) / 700)).tolist(), n_mels + 2)
    edges = 700 * (10 ** (mel / 2595) - 1)
    bins = torch.linspace(0, sample_rate / 2, n_freqs)[:, None]
    up = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    down = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return torch.minimum(up, down).clamp(min=0)


def build(config):
    torchaudio = {"torchaudio": {}, "torchaudio.functional": {"melscale_fbanks": mel_bands}}
    package = {"generator": {"__path__": [str(source(config) / "model" / "generator")]}}
    with importing(config, "model", stand_ins=package | torchaudio):
        net = attribute("generator.generator", "LiSenNet")(
            num_channels=scaled(config, 16, 4), n_blocks=2, n_fft=512, hop_length=256, compress_factor=0.3
        )
    return net


register("lisennet", build, direction="bi", domain="waveform", output="est")
