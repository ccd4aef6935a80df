"""MP-SENet: github.com/yxlu-0102/MP-SENet."""

from clone import MagnitudePhase, attribute, importing, register, settings


def build(config):
    with importing(config):
        net = attribute("models.model", "MPNet")(settings(dense_channel=64, n_fft=512, beta=2.0))
    return MagnitudePhase(net)


register("mp-senet", build, direction="bi")
