"""PrimeK-Net: github.com/huaidanquede/PrimeK-Net."""

from clone import MagnitudePhase, attribute, importing, register, settings


def build(config):
    unused = {"torchvision.ops.deform_conv": {"DeformConv2d": None}, "torchvision": {}, "torchvision.ops": {}}
    with importing(config, stand_ins=unused):
        net = attribute("models.generator", "LKFCA_Net")(settings(dense_channel=64, n_fft=512, beta=2.0))
    return MagnitudePhase(net)


register("primek-net", build, direction="bi")
