"""DeepFilterNet3: github.com/Rikorose/DeepFilterNet, at 16 kHz and 257 bins; features as in its training."""

import torch
from clone import attribute, importing, register, scaled, source
from torch import nn

BINS, BANDS, DF_BINS = 257, 32, 96
SETTINGS = {"sr": 16000, "fft_size": 512, "hop_size": 128, "nb_erb": BANDS, "nb_df": DF_BINS}


def widths():
    """Bins of each of the bands: at least two, wider with frequency."""
    edges = torch.linspace(0, 1, BANDS + 1).pow(1.5).mul(BINS - 2 * BANDS).round().int()
    found = (edges.diff() + 2).tolist()
    found[-1] += BINS - sum(found)
    return found


class Adapter(nn.Module):
    own_loss = ("net.enc.lsnr_fc",)

    def __init__(self, config):
        super().__init__()
        stand_ins = {
            "df": {"__path__": [str(source(config) / "DeepFilterNet" / "df")]},
            "libdf": {"DF": None, "unit_norm_init": None},
        }
        with importing(config, "DeepFilterNet", stand_ins=stand_ins):
            config_ = attribute("df.config", "config")
            config_.use_defaults()
            for key, value in SETTINGS.items():
                config_.set(key.upper(), value, int, section="DF")
            module = __import__("df.deepfilternet3", fromlist=["DfNet"])
            config_.set("CONV_CH", scaled(config, 16, 8), int, section="deepfilternet")
            config_.set("EMB_HIDDEN_DIM", scaled(config, 256, 16), int, section="deepfilternet")
            bands = torch.zeros(BINS, BANDS)
            start = 0
            for band, width in enumerate(widths()):
                bands[start : start + width, band] = 1 / width
                start += width
            inverse = (bands > 0).float().t()
            self.net = module.DfNet(bands, inverse)
        self.register_buffer("bands", bands, persistent=False)

    def forward(self, noisy):
        spec = torch.view_as_real(noisy.transpose(1, 2))[:, None]
        power = spec.square().sum(-1)
        erb = (torch.log10(power @ self.bands + 1e-10) * 10 + 60) / 40
        scale = power[..., :DF_BINS].mean((1, 2, 3), keepdim=True).add(1e-10).sqrt()[..., None]
        out = self.net(spec, erb, spec[..., :DF_BINS, :] / scale)[0]
        return torch.view_as_complex(out[:, 0].contiguous()).transpose(1, 2)


register("deepfilternet3", Adapter, direction="uni")
