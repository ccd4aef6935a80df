"""DCUNet, as in github.com/sp-uhh/sgmse; a U-Net of complex convolutions."""

import torch
from clone import attribute, importing, register, source
from torch import nn


class Adapter(nn.Module):
    def __init__(self, config):
        super().__init__()
        with importing(config, stand_ins={"sgmse": {"__path__": [str(source(config) / "sgmse")]}}):
            self.net = attribute("sgmse.backbones.dcunet", "DCUNet")(dcunet_time_embedding="none")

    def forward(self, noisy):
        frames = noisy.shape[-1]
        padded = nn.functional.pad(torch.stack([noisy, noisy], 1), (0, (1 - frames) % 16))
        return self.net(padded, torch.ones(len(noisy)))[:, 0, :, :frames]


register("dcunet", Adapter, direction="bi")
