"""SCNet: github.com/starrytong/SCNet, one source and one channel."""

from clone import attribute, importing, register, scaled, source


def build(config):
    with importing(config, stand_ins={"scnet": {"__path__": [str(source(config) / "scnet")]}}):
        net = attribute("scnet.SCNet", "SCNet")(
            sources=["speech"],
            audio_channels=1,
            dims=[2, *(scaled(config, width, 8) for width in (32, 64, 128))],
            nfft=512,
            hop_size=128,
            win_size=512,
        )
    return net


register("scnet", build, direction="bi", domain="waveform", axes="b1t")
