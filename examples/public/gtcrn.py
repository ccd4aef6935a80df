"""GTCRN: github.com/Xiaobin-Rong/gtcrn."""

from clone import Pairs, attribute, importing, register


def build(config):
    with importing(config):
        return Pairs(attribute("gtcrn", "GTCRN")())


register("gtcrn", build, direction="uni")
