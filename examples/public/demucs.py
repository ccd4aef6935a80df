"""Demucs: github.com/facebookresearch/denoiser."""

from clone import Waveform, attribute, importing, register


def build(config):
    with importing(config, stand_ins={"denoiser": {"__path__": []}}):
        import denoiser
        from clone import source

        denoiser.__path__ = [str(source(config) / "denoiser")]
        net = attribute("denoiser.demucs", "Demucs")(hidden=48, causal=True)
    return Waveform(net)


register("demucs", build, direction="bi")
