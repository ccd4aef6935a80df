"""GTCRN: github.com/Xiaobin-Rong/gtcrn."""

from clone import attribute, importing, register


def build(config):
    with importing(config):
        return attribute("gtcrn", "GTCRN")()


register("gtcrn", build, direction="uni", axes="bft2")
