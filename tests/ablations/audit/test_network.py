from __future__ import annotations

import random
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from ablate.ablations.audit import audit_config, declarations, network, probes
from ablate.ablations.audit import network_under_test as subject_module
from ablate.ablations.audit.network_under_test import Subject, subject
from ablate.models.config import PRESETS, ModelConfig
from ablate.models.errors import InputError
from ablate.training.config import RECIPES, RunConfig

SMALL = ModelConfig(
    channels=16, layers=1, crossband_layers=1, crossband="pointwise", decoder_expansion=1, d_state=4
)
QUICK = RECIPES["quick"].model_copy(update={"crop_seconds": 0.2})
CHECK = {
    "A101": network.dead_parameters,
    "A102": network.overwritten_init,
    "A103": network.dominated_branches,
    "A104": network.saturated,
    "A105": network.non_finite,
    "A202": declarations.check,
}


def small(**fields: object) -> Subject:
    return subject(SMALL.model_copy(update=fields), QUICK)


def codes(config: ModelConfig) -> set[str]:
    return {f.code for f in audit_config(RunConfig(model=config, recipe=QUICK)) if f.severity == "error"}


@pytest.mark.parametrize("taps", ["centred", "past"])
def test_the_frames_of_a_projection_are_no_broken_word(taps: str) -> None:
    consistent = small(core="lstm", projection="consistent", filter_taps=taps)
    assert list(declarations.check(consistent)) == []


def test_a_planted_fault_of_a_core_is_found(faults: ModuleType, core_fault: str) -> None:
    code = faults.CORE_FAULTS[core_fault]
    found = list(CHECK[code](small(core=core_fault)))
    assert {f.code for f in found} == {code}
    assert all(f.severity == "error" and f.evidence and f.remedy for f in found)


def test_a_change_whose_output_overflows_does_not_hide_later_frames() -> None:
    class Exponential(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = (100 * functional.group_norm(x.transpose(1, 2), 1)).exp()
            x = x + x.roll(-1, 2)
            return (x - x.mean(1, keepdim=True)).transpose(1, 2)

    quiet = 0.01 * torch.randn(1, 37, 8, generator=torch.Generator().manual_seed(0))
    quiet[:, 0] = -10
    assert probes.Probe(Exponential(), ((quiet,), {}), 37).frames_ahead() == 1


def test_norms_of_each_frame_that_are_multiplied_hide_no_later_frames() -> None:
    class Powers(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(2):
                x = functional.layer_norm(x, x.shape[-1:]) ** 9
            x = x + x.roll(-1, 1)
            return x - x.mean(-1, keepdim=True)

    quiet = 0.01 * torch.randn(1, 37, 8, generator=torch.Generator().manual_seed(0))
    quiet[:, 0] *= 10_000
    assert probes.Probe(Powers(), ((quiet,), {}), 37).frames_ahead() == 1


@pytest.mark.parametrize("crossband", ["PointwiseClaimsMixing", "WrongAxis", "Residual"])
def test_a_cross_band_module_that_mixes_no_bands_is_found(faults: ModuleType, crossband: str) -> None:
    found = declarations.check(small(crossband=crossband))
    assert any(f.code == "A202" and f.where == "band_layers.0" and "band" in f.evidence for f in found)


def test_a_right_part_gives_no_error(faults: ModuleType, right_core: str) -> None:
    assert codes(SMALL.model_copy(update={"core": right_core})) == set()


def test_a_planted_fault_of_a_whole_network_is_found(faults: ModuleType, network_fault: str) -> None:
    found = codes(SMALL.model_copy(update={"architecture": network_fault}))
    assert found == {faults.NETWORK_FAULTS[network_fault]}


def test_a_gradient_that_is_not_finite_is_named_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    build = subject_module.build

    def poisoned(config: ModelConfig) -> torch.nn.Module:
        model = build(config)
        next(model.parameters()).register_hook(lambda gradient: gradient * torch.nan)
        return model

    name = next(iter(dict(build(SMALL).named_parameters())))
    monkeypatch.setattr(subject_module, "build", poisoned)
    problem = Subject(SMALL, QUICK).training.problem
    assert problem is not None
    assert problem.startswith("step 1: ")
    assert problem.endswith(f"; not finite: {name}")


def test_a_right_network_gives_no_error(faults: ModuleType, right_network: str) -> None:
    assert codes(SMALL.model_copy(update={"architecture": right_network})) == set()


@pytest.mark.parametrize(
    ("core", "code", "words"),
    [
        ("FixedFilters", "A101", "requires_grad is false"),
        ("PositionTable", "A101", "with longer clips"),
        ("DistanceTable", "A101", "with longer clips"),
        ("FewDead", "A104", "of its units are zero"),
        ("HalfDead", "A104", "of its units are zero"),
        ("DeadByLuck", "A104", "100.0% of its units are zero"),
        ("DeadByLuck", "A101", "but not with other initial values"),
        ("LastUnread", "A101", "2 parameters of the last layer of a stack are not used"),
        ("WipedRandom", "A102", "was set (faults.py:"),
    ],
)
def test_a_suspicion_is_a_note_with_a_number(faults: ModuleType, core: str, code: str, words: str) -> None:
    found = list(CHECK[code](small(core=core)))
    assert {f.severity for f in found} == {"note"}
    assert any(words in f.evidence and any(c.isdigit() for c in f.evidence) for f in found)


def test_the_number_of_frames_is_found(faults: ModuleType) -> None:
    for net, severity in (("SaysOneAhead", "error"), ("SaysNothingAhead", "note")):
        (found,) = declarations.check(small(architecture=net))
        assert (found.severity, "2 later frames" in found.evidence) == (severity, True)
        said = "does not declare looks_ahead; its configuration declares direction=uni, but"
        assert (said in found.evidence) == (severity == "note")


def test_the_write_after_which_a_value_differs_is_named(faults: ModuleType) -> None:
    (found,) = network.overwritten_init(small(core="WipedLater"))
    assert "then zero (" in found.evidence


def test_what_is_not_trained_is_not_counted(faults: ModuleType) -> None:
    assert small(core="FixedFilters").parameters == small(core="Residual").parameters


def test_one_cause_is_one_line(faults: ModuleType) -> None:
    (found,) = network.dead_parameters(small(core="TimesZero", layers=2))
    assert found.where == "under time_layers.{0,1}.extra"
    assert found.evidence.startswith("4 parameters under time_layers.{0,1}.extra")


def test_a_core_that_says_bi_and_is_uni_is_found(faults: ModuleType) -> None:
    (found,) = declarations.check(small(core="AlwaysCausal", direction="bi"))
    assert found.code == "A202"
    assert "no output changes when later frames do" in found.evidence
    assert not declarations.check(small(core="HonestConv", direction="bi"))


def test_a_decoder_of_another_width_than_declared_is_found(faults: ModuleType) -> None:
    found = declarations.check(small(decoder="WrongWidth", decoder_expansion=2))
    assert [f.where for f in found] == ["head.decoder"]
    assert "hidden_width=32" in found[0].evidence


def test_a_whole_network_that_says_causal_and_is_not_is_found(faults: ModuleType) -> None:
    (found,) = declarations.check(small(architecture="ForeignClaimsCausal"))
    assert (found.code, found.where) == ("A202", "network")


def test_dead_parameters_and_declared_ranges_are_named_by_path() -> None:
    faulty = small(core="mamba", ssm_skip="shadowed", dt_init="wiped", layers=2)
    assert [f.where for f in network.dead_parameters(faulty)] == ["time_layers.{0,1}.mamba.ssm.D"]
    wiped = [f for f in network.overwritten_init(faulty) if f.where.endswith(".dt")]
    assert [f.where for f in wiped] == ["time_layers.{0,1}.mamba.ssm.dt"]
    assert "[0.6931, 0.6931]" in wiped[0].evidence


@pytest.mark.parametrize("name", ["bsrnn", "mbsnet", "mbsnet-recovered"])
def test_presets_in_small_are_clean(name: str) -> None:
    config = PRESETS[name].model_copy(update={"channels": 32, "layers": 1, "crossband_layers": 1})
    assert codes(config) == set()


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["quick", "reference"])
@pytest.mark.parametrize("name", [name for name in PRESETS if not name.endswith("-as-trained")])
def test_every_preset_that_is_not_as_trained_is_clean(name: str, recipe: str) -> None:
    """Heavy ones are probed on shorter clips, which a note says."""
    assert [f for f in audit_config(RunConfig.of(name, recipe)) if f.code != "A404"] == []


@pytest.mark.slow
def test_the_network_as_trained_has_its_faults_at_full_size() -> None:
    found = audit_config(RunConfig.of("mbsnet-as-trained", "reference"))
    dead = [f.where for f in found if f.code == "A101"]
    assert dead == ["time_layers.{0,1,2,3}.mamba.ssm.D"]
    assert {"A102", "A103", "A104"} <= {f.code for f in found}


@pytest.mark.parametrize(("mixes", "crossband"), [(False, "pointwise"), (True, "bilstm"), (True, "bimamba")])
def test_band_mixing_is_measured(mixes: bool, crossband: str) -> None:
    assert declarations.measured(small(crossband=crossband)).mixes_bands is mixes


@pytest.mark.parametrize("core", ["lstm", "gru", "mamba", "attention"])
@pytest.mark.parametrize("direction", ["uni", "bi"])
def test_direction_is_measured_beside_norm_statistics(core: str, direction: str) -> None:
    audited = small(core=core, direction=direction, norm="group")
    assert declarations.measured(audited).looks_ahead is (direction == "bi")
    assert not declarations.check(audited)


@pytest.mark.numerics
def test_the_norm_alone_does_let_later_frames_through() -> None:
    model, batch = small(norm="group").model, small(norm="group").probe[:1]
    other = batch.clone()
    other[..., 20:] *= 3
    with torch.no_grad():
        assert not torch.allclose(model(batch)[..., :18], model(other)[..., :18])


@pytest.mark.numerics
def test_random_states_and_the_network_are_left_alone() -> None:
    audited = Subject(SMALL, QUICK)
    weights = {k: v.clone() for k, v in audited.model.state_dict().items()}
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # type: ignore[union-attr]
    network.check(audited)
    declarations.check(audited)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])  # type: ignore[arg-type]
    assert random.getstate() == states[2]
    assert all(torch.equal(v, weights[k]) for k, v in audited.model.state_dict().items())
    assert all(p.grad is None for p in audited.model.parameters())


def test_a_network_that_does_not_run_is_bad_input_with_its_own_line() -> None:
    with pytest.raises(InputError, match=r"does not run on \(1, 257, 37\).*test_network\.py:\d+"):
        audit_config(RunConfig(model=SMALL.model_copy(update={"core": "Broken"}), recipe=QUICK))


def test_a_shape_that_depends_on_the_batch_is_said_as_that(faults: ModuleType) -> None:
    with pytest.raises(InputError, match="it depends on the batch size"):
        audit_config(
            RunConfig(model=SMALL.model_copy(update={"architecture": "HalvesBatches"}), recipe=QUICK)
        )


def test_what_a_network_prints_goes_to_stderr(faults: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert codes(SMALL.model_copy(update={"core": "Talkative"})) == set()
    printed = capsys.readouterr()
    assert (printed.out, "a layer of" in printed.err) == ("", True)


class Broken(torch.nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ torch.ones(3, 3)


@pytest.fixture(autouse=True)
def _broken(faults: ModuleType) -> None:
    from ablate.models.config import CORES

    if "Broken" not in list(CORES):
        CORES.register("Broken", Broken)


def test_inner_widths_of_stacked_layers() -> None:
    decoder = probes.decoders_of(small(decoder_expansion=2).model)[0][1]
    assert 32 in probes.inner_widths(decoder, 16)
