"""DPCRN, as in github.com/Xiaobin-Rong/SEtrain."""

from clone import attribute, importing, register


def build(config):
    with importing(config):
        return attribute("model", "DPCRN")()


register("dpcrn", build, direction="uni", axes="bft2")
