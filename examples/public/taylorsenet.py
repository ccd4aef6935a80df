"""TaylorSENet: github.com/Andong-Li-speech/TaylorSENet, on 161 bins: a transform of 20 ms."""

from clone import attribute, importing, register, scaled

from ablate.models import Transform


def build(config):
    with importing(config):
        return attribute("nets.TaylorSENet", "TaylorSENet")(cd1=scaled(config, 64))


register("taylorsenet", build, direction="uni", axes="b2tf", transform=Transform(320, 160), compress=0.5)
