"""MP-SENet: github.com/yxlu-0102/MP-SENet."""

from clone import attribute, importing, register, scaled, settings


def build(config):
    with importing(config):
        width = scaled(config, 64, 4)
        return attribute("models.model", "MPNet")(settings(dense_channel=width, n_fft=512, beta=2.0))


register("mp-senet", build, direction="bi", domain="magnitude-phase", compress=0.3)
