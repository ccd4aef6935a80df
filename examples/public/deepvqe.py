"""DeepVQE: github.com/Xiaobin-Rong/deepvqe."""

from clone import attribute, importing, register


def build(config):
    with importing(config):
        return attribute("deepvqe", "DeepVQE")()


register("deepvqe", build, direction="uni", axes="bft2")
