"""DTLN: github.com/lhwcv/DTLN_pytorch."""

from clone import Waveform, attribute, importing, register


def build(config):
    with importing(config, stand_ins={"audio_io": {"wav_read": None, "wav_write": None}}):
        net = attribute("DTLN_model", "Pytorch_DTLN")()
    return Waveform(net)


register("dtln", build, direction="bi")
