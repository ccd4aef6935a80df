"""DTLN: github.com/lhwcv/DTLN_pytorch."""

from clone import attribute, importing, register


def build(config):
    with importing(config, stand_ins={"audio_io": {"wav_read": None, "wav_write": None}}):
        return attribute("DTLN_model", "Pytorch_DTLN")()


register("dtln", build, direction="bi", domain="waveform")
