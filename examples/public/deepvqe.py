"""DeepVQE: github.com/Xiaobin-Rong/deepvqe."""

from clone import Pairs, attribute, importing, register


def build(config):
    with importing(config):
        return Pairs(attribute("deepvqe", "DeepVQE")())


register("deepvqe", build, direction="uni")
