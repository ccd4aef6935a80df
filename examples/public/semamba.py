"""SEMamba: github.com/RoyChao19477/SEMamba, at the size of its recipe."""

from clone import attribute, importing, register, scaled, source
from mamba_stand_in import STAND_INS


def build(config):
    import yaml

    recipe = source(config) / "recipes" / "SEMamba_advanced" / "SEMamba_advanced.yaml"
    cfg = yaml.safe_load(recipe.read_text())
    cfg["stft_cfg"]["n_fft"] = 512
    cfg["model_cfg"]["hid_feature"] = scaled(config, cfg["model_cfg"]["hid_feature"], 8)
    parent = next(source(config).glob("mamba-1_2_0*"))
    package = {"mamba_ssm": {"__path__": [str(parent / "mamba_ssm")]}}
    with importing(config, "", parent.name, stand_ins=STAND_INS | package):
        return attribute("models.generator", "SEMamba")(cfg)


register("semamba", build, direction="bi", domain="magnitude-phase", compress=0.3)
