import math
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from ablate.models import build_model
from ablate.models.config import ModelConfig
from ablate.training import adversary, environment, optimisation, seeds, transfer
from ablate.training import discriminator as discriminator_module
from ablate.training import losses as losses_module
from ablate.training import trainer as trainer_module
from ablate.training.config import RESULTS_VERSION, Recipe
from ablate.training.data.batches import Batches
from ablate.training.optimisation import learning_rate_factor, parameter_groups
from ablate.training.trainer import DivergedError, Trainer

TINY = {"channels": 16, "layers": 1, "crossband_layers": 1, "decoder_expansion": 1}
CPU = torch.device("cpu")
JUDGED = {"adversarial_weight": 1.0, "adversarial_start": 0.0}


@dataclass
class Pair:
    name: str
    clean: np.ndarray
    noisy: np.ndarray


def pairs(count: int = 6, samples: int = 4000) -> list[Pair]:
    random = np.random.default_rng(5)
    tones = np.sin(np.arange(samples) * random.uniform(0.05, 0.5, (count, 1))) * 0.1
    noisy = tones + 0.05 * random.standard_normal((count, samples))
    return [Pair(f"u{i}", tones[i].astype(np.float32), noisy[i].astype(np.float32)) for i in range(count)]


@dataclass
class Scorer:
    """Stands for PESQ: a value by how loud the judged wave is; None for the clips listed."""

    failing: tuple[int, ...] = ()
    calls: list[int] = field(default_factory=list)

    def __call__(self, waves):
        self.calls.append(len(waves))
        values = [2 + float(np.tanh(np.abs(judged).mean())) for _, judged in waves]
        return lambda: [None if i in self.failing else value for i, value in enumerate(values)]


def make(
    recipe=None, model=None, *, network=None, scorer=None, seed=1, data=None, accumulation=None
) -> Trainer:
    course = Recipe(**{"steps": 6, "batch_size": 3, "crop_seconds": 0.2, **(recipe or {})})
    torch.manual_seed(seeds.torch_seed(seed, "init"))
    network = network or build_model(ModelConfig(**{**TINY, **(model or {})}))
    batches = Batches(
        data or pairs(), batch_size=course.batch_size, crop=round(course.crop_seconds * 16_000), seed=seed
    )
    return Trainer(
        network, course, batches, seed=seed, device=CPU, scorer=scorer or Scorer(), accumulation=accumulation
    )


def losses(trainer: Trainer, count: int) -> list[float]:
    return [trainer.train_step().loss for _ in range(count)]


def same_weights(one: Trainer, other: Trainer) -> bool:
    pairs_of = zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs_of)


@pytest.mark.parametrize(
    ("recipe", "wanted"),
    [
        (Recipe(schedule="constant"), [1, 1, 1]),
        (Recipe(schedule="step", decay=0.5, decay_every=0.25), [1, 0.5**2, 0.5**3]),
        (Recipe(schedule="exponential", decay=0.5, decay_every=0.25), [1, 0.5**2, 0.5**3.96]),
        (Recipe(schedule="cosine"), [1, 0.5, 0.5 * (1 + math.cos(math.pi * 0.99))]),
    ],
)
def test_schedules_go_by_parts_of_the_training(recipe, wanted):
    for steps in (100, 1000):
        found = [learning_rate_factor(recipe, int(steps * part), steps) for part in (0, 0.5, 0.99)]
        assert found == pytest.approx(wanted)


def test_warm_up_rises_to_the_schedule():
    recipe = Recipe(schedule="cosine", warmup=0.1)
    plain = Recipe(schedule="cosine")
    for steps in (100, 1000):
        factors = [learning_rate_factor(recipe, step, steps) for step in range(steps)]
        without = [learning_rate_factor(plain, step, steps) for step in range(steps)]
        shares = [one / other for one, other in zip(factors, without, strict=True)]
        warm = steps // 10
        assert shares[:warm] == pytest.approx([(step + 1) / warm for step in range(warm)])
        assert factors[warm - 1 :] == without[warm - 1 :]
    assert learning_rate_factor(Recipe(schedule="constant", warmup=1.0), 49, 100) == 0.5


def test_reference_decays_every_tenth_epoch_of_120():
    recipe = Recipe()
    factors = [learning_rate_factor(recipe, epoch, 120) for epoch in range(120)]
    assert factors == pytest.approx([0.98 ** (epoch // 10) for epoch in range(120)])


@pytest.mark.parametrize(("steps", "interval"), [(40, 20), (400, 40), (1501, 151), (5, 20)])
def test_a_training_is_validated_ten_times_at_most(steps, interval):
    assert Recipe().validation_interval(steps) == interval
    assert Recipe(validate_every=7).validation_interval(steps) == 7


def test_one_batch_can_be_overfitted():
    trainer = make(
        {"steps": 40, "crop_seconds": 0.1, "schedule": "constant", "learning_rate": 1e-2}, data=pairs(3)
    )
    trainer.batches.items = lambda step: [(0, 0.0), (1, 0.0), (2, 0.0)]
    found = losses(trainer, 40)
    assert found[-1] < 0.5 * found[0]


def test_same_seed_same_losses_other_seed_others():
    first = losses(make(JUDGED), 3)
    assert first == losses(make(JUDGED), 3)
    assert first != losses(make(JUDGED, seed=2), 3)


@pytest.mark.numerics
@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("model", [{}, {"core": "mamba", "crossband": "bimamba"}])
def test_accumulation_is_the_same_step_up_to_rounding(model):
    recipe = {"batch_size": 4, "steps": 3, **JUDGED}
    whole, cut = make(recipe, model), make(recipe, model, accumulation=2)
    assert cut.micro_batches == 2
    for _ in range(3):
        one, other = whole.train_step(), cut.train_step()
        assert one.loss == pytest.approx(other.loss, rel=1e-8)
        assert one.grad_norm == pytest.approx(other.grad_norm, rel=1e-7)
        assert one.discriminator_loss == pytest.approx(other.discriminator_loss, rel=1e-7)


def test_more_micro_batches_than_items_are_as_many_as_items():
    assert make({"batch_size": 3}, accumulation=8).micro_batches == 3


def test_state_makes_it_go_on_bit_for_bit():
    unbroken = make({**JUDGED, "schedule": "cosine", "optimizer": "adamw", "weight_decay": 0.01})
    whole = losses(unbroken, 5)
    half = make({**JUDGED, "schedule": "cosine", "optimizer": "adamw", "weight_decay": 0.01})
    assert losses(half, 2) == whole[:2]
    torch.manual_seed(99)
    resumed = make({**JUDGED, "schedule": "cosine", "optimizer": "adamw", "weight_decay": 0.01}, seed=1)
    resumed.model.load_state_dict(build_model(ModelConfig(**TINY)).state_dict())
    resumed.restore(half.state())
    assert resumed.step == 2
    assert losses(resumed, 3) == whole[2:]
    assert same_weights(unbroken, resumed)


def test_an_average_goes_on_bit_for_bit_and_leaves_the_training_as_it_is():
    recipe = {"ema": 0.5}
    plain, unbroken, half, resumed = make(), make(recipe), make(recipe), make(recipe, seed=2)
    assert losses(plain, 6) == losses(unbroken, 6)
    assert same_weights(plain, unbroken)
    losses(half, 4)
    resumed.seed = resumed.batches.seed = 1
    resumed.restore(half.state())
    losses(resumed, 2)
    assert same_weights(unbroken, resumed)
    found, wanted = resumed.state()["weights"], unbroken.state()["weights"]
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize(("ema", "horizon"), [(0.5, 3), (1.0, 6), (1 / 12, 1)])
def test_the_average_is_the_mean_so_far_and_then_exponential(ema, horizon):
    trainer = make({"ema": ema})
    name = next(iter(trainer.model.state_dict()))
    wanted = 0.0
    for step in range(1, 7):
        trainer.train_step()
        weights = trainer.model.state_dict()[name].double()
        wanted = wanted + (weights - wanted) / min(step, horizon)
        torch.testing.assert_close(trainer.network.state_dict()[name].double(), wanted, rtol=1e-5, atol=1e-7)


def test_discriminator_starts_when_told_and_its_term_later():
    scorer = Scorer()
    recipe = {"adversarial_weight": 1.0, "discriminator_start": 0.5, "adversarial_start": 0.67}
    trainer, plain = make(recipe, scorer=scorer), make()
    steps = [trainer.train_step() for _ in range(6)]
    assert [step.discriminator_loss is None for step in steps] == [True] * 3 + [False] * 3
    assert scorer.calls == [6, 6, 6]
    without = [plain.train_step().loss for _ in range(6)]
    assert [s.loss for s in steps[:5]] == without[:5]
    assert steps[5].loss > without[5]


@pytest.mark.numerics
def test_discriminator_is_not_trained_by_the_networks_loss():
    trainer = make({**JUDGED, "discriminator_start": 1.0})
    before = {name: value.clone() for name, value in trainer.adversary.judge.state_dict().items()}
    trainer.train_step()
    assert all(
        torch.equal(before[name], value) for name, value in trainer.adversary.judge.state_dict().items()
    )
    assert all(parameter.requires_grad for parameter in trainer.adversary.judge.parameters())


def discriminator_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    return trainer.state()["discriminator"]


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("lag", [1, 2, 9])
def test_a_discriminator_that_lags_learns_the_same_later(lag):
    recipe = {"adversarial_weight": 1.0, "adversarial_start": 1.0, "schedule": "cosine"}
    prompt, late = make(recipe), make({**recipe, "judge_lag": lag})
    wanted = [prompt.train_step().discriminator_loss for _ in range(6)]
    found = [late.train_step().discriminator_loss for _ in range(6)]
    behind = min(lag, 5)
    assert found[:behind] == [None] * behind
    assert found[behind:5] == wanted[: 5 - behind]
    assert found[5] == pytest.approx(sum(wanted[5 - behind :]) / (behind + 1))
    assert equal(discriminator_of(prompt), discriminator_of(late))


def test_a_step_asks_for_no_pesq_but_that_of_the_step_it_learns():
    asked, started = [], []

    def scorer(waves):
        number = len(started)
        started.append(number)

        def wait():
            asked.append((number, len(started)))
            return [2.0] * len(waves)

        return wait

    trainer = make({**JUDGED, "judge_lag": 2}, scorer=scorer)
    for _ in range(6):
        trainer.train_step()
    assert asked == [(0, 3), (1, 4), (2, 5), (3, 6), (4, 6), (5, 6)]


def test_what_is_not_learned_yet_goes_through_a_checkpoint(tmp_path):
    recipe = {**JUDGED, "judge_lag": 2, "judged_clips": 0.6}
    unbroken, half = make(recipe), make(recipe)
    whole = losses(unbroken, 6)
    assert losses(half, 3) == whole[:3]
    torch.save(half.state(), tmp_path / "state.pt")
    scorer = Scorer()
    resumed = make(recipe, scorer=scorer)
    resumed.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    assert losses(resumed, 3) == whole[3:]
    assert same_weights(unbroken, resumed)
    assert equal(discriminator_of(unbroken), discriminator_of(resumed))
    assert scorer.calls == [4] * 3


@pytest.mark.parametrize(("share", "clips"), [(1.0, 3), (0.6, 2), (0.01, 1)])
def test_a_share_of_the_clips_is_judged(share, clips):
    scorer = Scorer()
    trainer = make({**JUDGED, "judged_clips": share}, scorer=scorer)
    trainer.train_step()
    assert scorer.calls == [2 * clips]


@pytest.fixture
def on_the_device(monkeypatch):
    """Optimisers as on a GPU: one kernel, which looks itself whether the step is to be taken."""
    monkeypatch.setattr(optimisation, "FUSED", ("cpu", "cuda"))


ASKING = ("aten::_local_scalar_dense", "aten::equal", "aten::nonzero")
"""What makes the processor wait for a device."""


def of_the_kernel(event) -> bool:
    """Whether an event is of the fused optimiser, whose own count of steps lies where the weights are."""
    while event is not None and event.name != "aten::_fused_adam_":
        event = event.cpu_parent
    return event is not None


def test_a_step_asks_the_device_once(on_the_device, monkeypatch):
    """Its numbers, a step late; and the waves where PESQ is to be measured."""
    read = []

    def counted(tensor):
        wait = transfer.to_host(tensor)
        return lambda: read.append(tuple(tensor.shape)) or wait()

    for module in (trainer_module, adversary):
        monkeypatch.setattr(module, "to_host", counted)
    for recipe, waves in (({"si_sdr_weight": 1.0}, 0), ({**JUDGED, "judge_lag": 1}, 1)):
        trainer = make(recipe)
        trainer.start_step()
        read.clear()
        with torch.profiler.profile() as profile:
            assert trainer.start_step().number == 1
        asked = [event for event in profile.events() if event.name in ASKING and not of_the_kernel(event)]
        assert asked == []
        assert [len(shape) for shape in read] == [3] * waves + [1]


def test_a_step_is_told_when_the_next_one_is_started():
    one, other = make(), make()
    told = [one.start_step() for _ in range(3)] + [one.finish_step(), one.finish_step()]
    wanted = [other.train_step() for _ in range(3)]
    assert told == [None, *wanted, None]


@pytest.mark.parametrize("recipe", [{}, {"optimizer": "adamw", "weight_decay": 0.01}])
@pytest.mark.numerics
def test_fused_optimisers_take_the_same_steps(recipe, on_the_device, monkeypatch):
    fused = make(recipe)
    monkeypatch.undo()
    plain = make(recipe)
    assert losses(fused, 4) == pytest.approx(losses(plain, 4), rel=1e-4)


def test_complex_parameters_do_without_the_fused_kernel(on_the_device):
    weight = torch.nn.Parameter(torch.ones(2, dtype=torch.complex64))
    optimiser = optimisation.Optimiser(Recipe(optimizer="adamw"), iter([weight]), 0.1, CPU)
    weight.grad = torch.full_like(weight, 1j)
    optimiser.step(1.0, torch.tensor(False))
    assert weight.tolist() == [1, 1]
    optimiser.step(1.0, torch.tensor(True))
    assert weight.tolist() == pytest.approx([1 - 0.1j] * 2)
    optimiser.restore(optimiser.state())
    optimiser.step(1.0, torch.tensor(True))


def moving_parts(trainer: Trainer) -> list[torch.Tensor]:
    """Weights, the states of both optimisers, the discriminator."""
    optimisers = (trainer.optimiser, trainer.adversary.optimiser)
    states = [value for o in optimisers for state in o.state()["state"].values() for value in state.values()]
    weights = (*trainer.model.state_dict().values(), *trainer.adversary.judge.parameters())
    return [value.clone() for value in (*weights, *states)]


@pytest.mark.parametrize("gated", ["by the kernel", "by the processor"])
@pytest.mark.parametrize("what", ["loss", "gradient", "discriminator"])
def test_nothing_moves_where_it_is_not_finite_nor_afterwards(what, gated, monkeypatch):
    if gated == "by the kernel":
        monkeypatch.setattr(optimisation, "FUSED", ("cpu",))
    trainer = make({**JUDGED, "schedule": "constant"}, data=pairs())
    losses(trainer, 2)
    poisoned = {
        "loss": next(trainer.model.parameters()),
        "gradient": next(trainer.model.parameters()),
        "discriminator": trainer.adversary.judge.slope,
    }[what]
    if what == "loss":
        batch = trainer.feed.batch
        trainer.feed.batch = lambda step: [wave * (math.nan if step == 2 else 1) for wave in batch(step)]
    else:
        poisoned.register_hook(lambda gradient: gradient * (math.nan if trainer.step == 2 else 1))
    before = moving_parts(trainer)
    trainer.start_step()
    after = moving_parts(trainer)
    names = {"loss": "the loss is nan", "gradient": "norm of the gradient is nan"}
    with pytest.raises(DivergedError, match="diverged at step 3 of 6: .*" + names.get(what, "discriminator")):
        trainer.start_step()
    assert all(torch.equal(a, b) for a, b in zip(after, moving_parts(trainer), strict=True))
    if what != "discriminator":
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert trainer.step == 2


def test_no_discriminator_no_pesq():
    scorer = Scorer()
    trainer = make(scorer=scorer)
    trainer.train_step()
    assert trainer.adversary is None
    assert scorer.calls == []


def test_a_clip_without_pesq_is_dropped_alone_and_counted():
    trainer = make(JUDGED, scorer=Scorer(failing=(0, 4)))
    step = trainer.train_step()
    assert step.dropped_clips == 2
    assert math.isfinite(step.discriminator_loss)


@pytest.mark.numerics
def test_gradient_is_clipped_and_its_norm_before_that_told():
    trainer = make({"clip": 1e-3})
    step = trainer.train_step()
    assert step.grad_norm > 1e-3
    squares = sum((p.grad**2).sum() for p in trainer.model.parameters() if p.grad is not None)
    assert squares.sqrt().item() == pytest.approx(1e-3, rel=1e-3)


def test_bf16_trains_float32_weights():
    trainer = make({"precision": "bf16"})
    seen = []
    trainer.model.register_forward_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    found = losses(trainer, 3)
    assert seen == [True] * 3
    assert found == pytest.approx(losses(make(), 3), rel=0.05)
    assert found != losses(make(), 3)
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}


def test_nan_in_a_batch_stops_at_that_step_with_the_weights_before_it():
    data = pairs()
    trainer, healthy = make(data=data), make(data=pairs())
    losses(trainer, 2), losses(healthy, 2)
    index, _ = trainer.batches.items(2)[0]
    data[index].noisy[:] = np.nan
    with pytest.raises(DivergedError, match="diverged at step 3 of 6: the loss is nan") as caught:
        trainer.train_step()
    assert same_weights(trainer, healthy)
    assert trainer.step == 2
    evidence = caught.value.evidence
    assert evidence["step"] == 3
    assert np.isnan(evidence["noisy"]).any()
    assert evidence["items"][0][0] == data[index].name
    assert set(evidence["gradient_norms"]) <= {name for name, _ in trainer.model.named_parameters()}


def test_infinite_gradient_stops_before_the_step_and_names_the_parameter():
    trainer, healthy = make(), make()
    name, parameter = next(iter(trainer.model.named_parameters()))
    parameter.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(DivergedError, match="norm of the gradient") as caught:
        trainer.train_step()
    norms = caught.value.evidence["gradient_norms"]
    assert not math.isfinite(norms.pop(name))
    assert all(math.isfinite(norm) for norm in norms.values())
    assert same_weights(trainer, healthy)


def test_infinite_weight_stops():
    trainer = make({"learning_rate": 1e37})
    with pytest.raises(DivergedError, match=r"a weight is no longer finite|the loss is"):
        losses(trainer, 3)


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_weight_decay_is_for_the_matrices_of_the_network_alone(optimizer):
    model = {"core": "mamba", "crossband": "bilstm"}
    recipe = {**JUDGED, "optimizer": optimizer, "weight_decay": 0.1}
    trainer = make(recipe, model)
    decayed, rest = trainer.optimiser.torch.param_groups
    assert (decayed["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    matrices = {names[id(parameter)] for parameter in decayed["params"]}
    assert len(matrices) + len(rest["params"]) == len(names)
    alone = {name.rpartition(".")[2] for name in set(names.values()) - matrices}
    assert {"A_log", "D", "bias", "norm_weight", "norm_bias", "bias_ih_l0"} <= alone
    assert {name.rpartition(".")[2] for name in matrices} == {
        *("weight", "weight_ih_l0", "weight_hh_l0", "weight_ih_l0_reverse", "weight_hh_l0_reverse"),
    }
    (judge,) = trainer.adversary.optimiser.torch.param_groups
    assert judge["weight_decay"] == 0
    trainer.train_step()


def test_a_parameter_may_decline_weight_decay():
    model = torch.nn.Linear(2, 2)
    model.weight._no_weight_decay = True
    decayed, rest = parameter_groups(model, 0.1)
    assert (decayed["params"], len(rest["params"])) == ([], 2)


def test_without_weight_decay_there_is_one_group_as_ever():
    (group,) = make().optimiser.torch.param_groups
    assert group["weight_decay"] == 0
    assert len(group["params"]) == len(list(make().model.parameters()))


class Putting(torch.nn.Module):
    """A network with an operation that has no deterministic form on any device."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(1))

    def forward(self, spectrogram):
        return spectrogram * torch.ones(1).put_(torch.tensor([0]), self.gain)


def test_an_operation_without_a_deterministic_form_is_named_and_tolerated(caplog):
    plain, trainer, resumed = (make(network=Putting()) for _ in range(3))
    wanted = losses(plain, 4)
    with environment.prepared(CPU, "fp32", torch.get_num_threads()):
        assert losses(trainer, 2) == wanted[:2]
        state = trainer.state()
    assert state["not_deterministic"] == ["put_"]
    assert "put_ is not deterministic here" in caplog.text
    with environment.prepared(CPU, "fp32", torch.get_num_threads()):
        resumed.restore(state)
        assert torch.is_deterministic_algorithms_warn_only_enabled()
        assert losses(resumed, 2) == wanted[2:]


def test_unresolved_recipes_are_refused():
    with pytest.raises(ValueError, match="120"):
        make({"steps": None, "epochs": 120})


@pytest.fixture
def double(monkeypatch):
    """Everything in double precision: rounding, which differs between processors, then stays below 1e-10."""
    batch = Batches.batch
    monkeypatch.setattr(Batches, "batch", lambda *a: tuple(wave.astype(np.float64) for wave in batch(*a)))
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def course_of_results(core: str, recipe=None, **changes) -> list[float]:
    """Loss, gradient norm and discriminator loss of five steps; the last two have the adversarial term."""
    model = {"core": core, "crossband": "bimamba" if core == "mamba" else "bilstm"}
    trainer = make({**JUDGED, "adversarial_start": 0.5, **(recipe or {})}, model, **changes)
    steps = [trainer.train_step() for _ in range(5)]
    return [value for s in steps for value in (s.loss, s.grad_norm, s.discriminator_loss)]


GOLDEN = {
    "lstm": [
        *(0.415271836413, 0.0452808929853, 0.58663025628),
        *(0.416584788437, 0.049190323822, 0.18725705516),
        *(0.411567153812, 0.0453663415835, 0.0885015391231),
        *(0.447933083671, 0.40405707274, 0.0910619043969),
        *(0.627779130364, 0.970025248933, 0.028507807643),
    ],
    "mamba": [
        *(0.415831668333, 0.0459418185693, 0.588256385021),
        *(0.413762410974, 0.0484723956012, 0.190042810512),
        *(0.408956748352, 0.0458868405117, 0.116629017054),
        *(0.459307634594, 0.580103170017, 0.105141590254),
        *(0.60919628848, 0.930723467633, 0.0271387252274),
    ],
}


@pytest.mark.numerics
@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("core", ["lstm", "mamba"])
def test_results_are_those_of_this_results_version(core):
    found = course_of_results(core)
    assert found == pytest.approx(GOLDEN[core], rel=1e-7), (
        f"the first steps give {found}; they gave {GOLDEN[core]} when RESULTS_VERSION became "
        f"{RESULTS_VERSION}. If results are meant to change raise it in training/config.py and record these."
    )


def other_order(monkeypatch):
    items = Batches.items
    monkeypatch.setattr(Batches, "items", lambda self, step: items(self, step + 1))


def other_place(monkeypatch):
    items = Batches.items
    monkeypatch.setattr(Batches, "items", lambda self, step: [(i, 0.99 * p) for i, p in items(self, step)])


def other_initialisation(monkeypatch):
    xavier = torch.nn.init.xavier_uniform_
    monkeypatch.setattr(torch.nn.init, "xavier_uniform_", lambda w, gain=1.0: xavier(w, 1.001 * gain))


def other_loss(monkeypatch):
    monkeypatch.setattr(losses_module, "FLOOR", 1e-5)


def other_dropout(monkeypatch):
    monkeypatch.setattr(discriminator_module, "DROPOUT", 0.31)


def other_stream(monkeypatch):
    monkeypatch.setitem(seeds._KEYS, "dropout", 9)


@pytest.mark.numerics
@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 1.001e-3},
        {"clip": 0.1},
        {"compression": 0.301},
        {"decay_every": 0.2},
        {"complex_weight": 0.501},
        {"adversarial_weight": 1.001},
        {"adversarial_start": 0.7},
        {"discriminator_learning_rate": 1.001e-3},
        {"optimizer": "adamw", "weight_decay": 0.01},
        {"crop_seconds": 0.21},
        other_order,
        other_place,
        other_initialisation,
        other_loss,
        other_dropout,
        other_stream,
    ],
    ids=lambda change: change.__name__ if callable(change) else "-".join(change),
)
def test_a_change_of_any_part_shows_in_the_recorded_results(change, monkeypatch):
    if callable(change):
        change(monkeypatch)
        change = {}
    assert course_of_results("lstm", change) != pytest.approx(GOLDEN["lstm"], rel=1e-5)
