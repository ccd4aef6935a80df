"""SpatialNet: github.com/Audio-WestlakeU/NBSS, one channel."""

from clone import attribute, importing, register


def build(config):
    with importing(config):
        net = attribute("models.arch.SpatialNet", "SpatialNet")(
            dim_input=2, dim_output=2, num_layers=4, dim_squeeze=8, num_freqs=257, dim_hidden=96,
            dim_ffn=192, num_heads=4,
        )  # fmt: skip
    return net


register("spatialnet", build, direction="bi", axes="bft2")
