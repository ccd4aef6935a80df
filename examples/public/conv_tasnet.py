"""Conv-TasNet: github.com/kaituoxu/Conv-TasNet, one speaker."""

from clone import Waveform, attribute, importing, register


def build(config):
    with importing(config, "src"):
        net = attribute("conv_tasnet", "ConvTasNet")(256, 20, 256, 512, 3, 8, 4, 1)
    return Waveform(net)


register("conv-tasnet", build, direction="bi")
