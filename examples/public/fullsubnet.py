"""FullSubNet: github.com/haoxiangsnr/FullSubNet, with the settings of its recipe."""

import tomllib

import torch
from clone import attribute, importing, register, scaled, source
from torch import nn

RECIPE = "recipes/dns_interspeech_2020"


class Adapter(nn.Module):
    """In batches the network keeps every other bin while training, so items are enhanced one by one."""

    looks_ahead = True

    def __init__(self, config):
        super().__init__()
        settings = tomllib.loads((source(config) / RECIPE / "fullsubnet" / "train.toml").read_text())
        sizes = settings["model"]["args"]
        for name in ("fb_model_hidden_size", "sb_model_hidden_size"):
            sizes[name] = scaled(config, sizes[name])
        with importing(config, "", RECIPE, stand_ins={"librosa": {}}):
            self.net = attribute("fullsubnet.model", "Model")(**sizes)

    def forward(self, noisy):
        size = noisy.abs()[:, None]
        real, imag = torch.cat([self.net(item[None]) for item in size]).unbind(1)
        return torch.complex(real, imag) * noisy


register("fullsubnet", Adapter, direction="bi")
