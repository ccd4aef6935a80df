"""BS-RoFormer: github.com/lucidrains/BS-RoFormer, six layers of width 96."""

from clone import attribute, importing, register, scaled

BANDS = (*[2] * 24, *[4] * 12, *[12] * 8, *[24] * 2, 17)


def build(config):
    with importing(config, stand_ins={"librosa": {"filters": None}}):
        net = attribute("bs_roformer.bs_roformer", "BSRoformer")(
            dim=scaled(config, 96, 8), depth=6, freqs_per_bands=BANDS, dim_freqs_in=257, stft_n_fft=512,
            stft_hop_length=128, stft_win_length=512, flash_attn=False, num_residual_streams=1,
        )  # fmt: skip
    return net


register("bs-roformer", build, direction="bi", domain="waveform")
