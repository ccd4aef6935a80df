"""TaylorSENet: github.com/Andong-Li-speech/TaylorSENet, on 161 bins."""

import torch
from clone import attribute, importing, register
from torch import nn


class Adapter(nn.Module):
    def __init__(self, config):
        super().__init__()
        with importing(config):
            self.net = attribute("nets.TaylorSENet", "TaylorSENet")()

    def forward(self, noisy):
        stacked = torch.stack([noisy.real, noisy.imag], 1)[:, :, :161].transpose(2, 3)
        real, imag = self.net(stacked).unbind(1)
        low = torch.complex(real, imag)
        low = low.transpose(1, 2) if low.shape[1] != 161 else low
        return torch.cat([low, noisy[:, 161:]], 1)


register("taylorsenet", Adapter, direction="uni")
