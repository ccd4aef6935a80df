"""BSRNN: github.com/sungwon23/BSRNN. Its filter of three taps reads the next frame."""

from clone import attribute, importing, register, scaled


def build(config):
    unused = {"matplotlib": {}, "matplotlib.pyplot": {}}
    with importing(config, stand_ins=unused):
        return attribute("module", "BSRNN")(num_channel=scaled(config, 64), num_layer=5)


register("bsrnn-public", build, direction="uni", looks_ahead=1)
