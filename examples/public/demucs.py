"""Demucs: github.com/facebookresearch/denoiser."""

from clone import attribute, importing, register, scaled


def build(config):
    with importing(config, stand_ins={"denoiser": {"__path__": []}}):
        import denoiser
        from clone import source

        denoiser.__path__ = [str(source(config) / "denoiser")]
        return attribute("denoiser.demucs", "Demucs")(hidden=scaled(config, 48), causal=True)


register("demucs", build, direction="bi", domain="waveform")
