"""MANNER: github.com/winddori2002/MANNER."""

from clone import Waveform, attribute, importing, register


def build(config):
    with importing(config, stand_ins={"neptune": {}, "neptune.new": {}, "torchaudio": {}}):
        net = attribute("src.models", "MANNER")(1, 1, 60, 4, 8, 4, 2, 1, 64)
    return Waveform(net, lambda net, wave: net(wave[:, None]))


register("manner", build, direction="bi")
