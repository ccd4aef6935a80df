"""SpatialNet: github.com/Audio-WestlakeU/NBSS, one channel."""

from clone import attribute, importing, register, scaled


def build(config):
    with importing(config):
        net = attribute("models.arch.SpatialNet", "SpatialNet")(
            dim_input=2, dim_output=2, num_layers=4, dim_squeeze=8, num_freqs=257,
            dim_hidden=scaled(config, 96, 8), dim_ffn=scaled(config, 192, 8), num_heads=4,
        )  # fmt: skip
    return net


register("spatialnet", build, direction="bi", axes="bft2")
