"""Conv-TasNet: github.com/kaituoxu/Conv-TasNet, one speaker."""

from clone import attribute, importing, register


def build(config):
    with importing(config, "src"):
        return attribute("conv_tasnet", "ConvTasNet")(256, 20, 256, 512, 3, 8, 4, 1)


register("conv-tasnet", build, direction="bi", domain="waveform")
