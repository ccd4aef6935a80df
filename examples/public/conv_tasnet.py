"""Conv-TasNet: github.com/kaituoxu/Conv-TasNet, one speaker."""

from clone import attribute, importing, register, scaled


def build(config):
    with importing(config, "src"):
        return attribute("conv_tasnet", "ConvTasNet")(
            scaled(config, 256), 20, scaled(config, 256), scaled(config, 512), 3, 8, 4, 1
        )


register("conv-tasnet", build, direction="bi", domain="waveform")
