"""PrimeK-Net: github.com/huaidanquede/PrimeK-Net."""

from clone import attribute, importing, register, scaled, settings


def build(config):
    unused = {"torchvision.ops.deform_conv": {"DeformConv2d": None}, "torchvision": {}, "torchvision.ops": {}}
    with importing(config, stand_ins=unused):
        width = scaled(config, 64, 4)
        return attribute("models.generator", "LKFCA_Net")(settings(dense_channel=width, n_fft=512, beta=2.0))


register("primek-net", build, direction="bi", domain="magnitude-phase", compress=0.3)
