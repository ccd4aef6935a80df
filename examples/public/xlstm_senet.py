"""xLSTM-SENet: github.com/NikolaiKyhne/xLSTM-SENet, with four blocks."""

from clone import attribute, importing, register, scaled, source
from mamba_stand_in import STAND_INS


def build(config):
    import yaml

    cfg = yaml.safe_load((source(config) / "recipes" / "xLSTM-SENet" / "xLSTM-SENet_4N.yaml").read_text())
    cfg["stft_cfg"]["n_fft"] = 512
    for name in ("hid_feature", "embed_dim"):
        cfg["model_cfg"][name] = scaled(config, cfg["model_cfg"][name], 8)
    package = {"mamba_ssm": {"__path__": [str(source(config) / "mamba_install" / "mamba_ssm")]}}
    with importing(config, "", "mamba_install", stand_ins=STAND_INS | package):
        return attribute("models.generator", "xLSTMSENet")(cfg)


register("xlstm-senet", build, direction="bi", domain="magnitude-phase", compress=0.3)
