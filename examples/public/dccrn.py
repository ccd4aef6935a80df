"""DCCRN: github.com/huyanxin/DeepComplexCRN; its core between our transforms, declared causal."""

import torch
from clone import attribute, importing, register, scaled
from torch import nn


class Spectral(nn.Module):
    """In place of the network's own transform: real and imaginary parts stacked."""

    def forward(self, spectrum):
        return torch.cat([spectrum.real, spectrum.imag], 1)


class Inverse(nn.Module):
    def forward(self, stacked):
        real, imag = stacked.chunk(2, 1)
        return torch.complex(real, imag)


class Adapter(nn.Module):
    looks_ahead = False

    def __init__(self, config):
        super().__init__()
        with importing(config):
            self.net = attribute("dc_crn", "DCCRN")(
                rnn_units=scaled(config, 256),
                masking_mode="E",
                use_clstm=True,
                kernel_num=[scaled(config, width, 2) for width in (32, 64, 128, 256, 256, 256)],
            )
        self.net.stft, self.net.istft = Spectral(), nn.Identity()

    def forward(self, noisy):
        return Inverse()(self.net(noisy)[0])


register("dccrn", Adapter, direction="uni")
