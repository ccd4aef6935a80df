"""CMGAN: github.com/ruizhecao96/CMGAN."""

from clone import attribute, importing, register, scaled


def build(config):
    with importing(config, "src"):
        return attribute("models.generator", "TSCNet")(num_channel=scaled(config, 64, 4), num_features=257)


register("cmgan", build, direction="bi", axes="b2tf", compress=0.3, output=(0, 1))
