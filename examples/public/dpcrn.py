"""DPCRN, as in github.com/Xiaobin-Rong/SEtrain."""

from clone import Pairs, attribute, importing, register


def build(config):
    with importing(config):
        return Pairs(attribute("model", "DPCRN")())


register("dpcrn", build, direction="uni")
