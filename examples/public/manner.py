"""MANNER: github.com/winddori2002/MANNER."""

from clone import attribute, importing, register, scaled


def build(config):
    with importing(config, stand_ins={"neptune": {}, "neptune.new": {}, "torchaudio": {}}):
        return attribute("src.models", "MANNER")(1, 1, scaled(config, 60, 4), 4, 8, 4, 2, 1, 64)


register("manner", build, direction="bi", domain="waveform", axes="b1t")
