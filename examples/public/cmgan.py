"""CMGAN: github.com/ruizhecao96/CMGAN."""

import torch
from clone import attribute, importing, register
from torch import nn


class Adapter(nn.Module):
    def __init__(self, config):
        super().__init__()
        with importing(config, "src"):
            self.net = attribute("models.generator", "TSCNet")(num_channel=64, num_features=257)

    def forward(self, noisy):
        size = torch.view_as_real(noisy).square().sum(-1).add(1e-9).sqrt()
        compressed = torch.view_as_real(noisy * size.pow(-0.7)).permute(0, 3, 2, 1)
        real, imag = (part.squeeze(1).transpose(1, 2) for part in self.net(compressed))
        size = (real.square() + imag.square() + 1e-9).sqrt()
        return torch.complex(real, imag) * size.pow(1 / 0.3 - 1)


register("cmgan", Adapter, direction="bi")
