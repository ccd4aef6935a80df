"""Online SpatialNet: github.com/Audio-WestlakeU/NBSS, one channel, attention over 251 frames."""

from clone import attribute, importing, register, scaled


def build(config):
    unused = {
        "mamba_ssm": {"Mamba": type("Mamba", (), {})},
        "mamba_ssm.utils": {},
        "mamba_ssm.utils.generation": {"InferenceParams": None},
    }
    with importing(config, stand_ins=unused):
        net = attribute("models.arch.OnlineSpatialNet", "OnlineSpatialNet")(
            dim_input=2, dim_output=2, num_layers=4, dim_squeeze=8, num_freqs=257,
            dim_hidden=scaled(config, 96, 8), dim_ffn=scaled(config, 192, 8), num_heads=4,
            attention="mhsa(251)",
        )  # fmt: skip
    return net


register("online-spatialnet", build, direction="uni", axes="bft2")
