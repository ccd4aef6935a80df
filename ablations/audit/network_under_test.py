"""The network under audit: built from a seed, fed speech-like batches, trained a few steps. Memoised."""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ablate.models import build_model, declarations
from ablate.models.config import ModelConfig
from ablate.models.errors import InputError, listed, told
from ablate.models.interface import Interface
from ablate.training.config import Recipe
from ablate.training.data.augment import Augment
from ablate.training.data.batches import Batches
from ablate.training.losses import WeightedLoss
from ablate.training.trainer import DivergedError, Trainer

from .init_trace import InitWrite, watch_init
from .operations import Watch, watched
from .probe_inputs import SEED, Tone, before_calls, isolated, speech_like, try_out
from .settled import build, settled

LARGE = 500_000
"""Networks with more parameters get shorter crops and smaller batches, so that the audit takes seconds."""
STEPS = 8
"""Number of optimizer steps that the audit takes."""
BATCH = 2
LONGEST = {False: 0.5, True: 0.2}
"""Whether the network is large -> seconds of the longest crop."""
REDRAWN = (SEED + 1, SEED + 2)
"""Seeds of other initial values; a fault in the code shows with these too."""
STEP_SIZE = 1e-3
"""Change of each weight in a step of `Subject.grown`."""
LONGER = 2.0
"""Seconds of the clips that confirm a suspicion."""
HEAVY = {"crop": 0.25e9, "clip": 1e9}
"""Maximum bytes that autograd may keep for a batch of crops, and for one clip of `LONGER` seconds. Above
that, the audit halves their length."""
PIECE = 0.2
"""Seconds of the clip that predicts the memory of longer ones."""
PROBE_PLACES = {"frame": (37, 41, 43, 47, 53, 59), "sample": (4801, 4813, 4817)}
"""Lengths of the perturbation probes. The first that does not divide any width is used, so that the time axis
can be recognised."""
NOTHING = nullcontext()


def _gradients(subject: Subject, clip: Tensor, model: nn.Module) -> dict[str, Tensor]:
    """Absolute gradients by parameter, of the recipe's loss with the clip at half amplitude as its target."""
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    with isolated(4):
        loss = subject.loss(model, clip, 0.5 * clip)
        grads = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return {n: g.abs() for n, g in zip(parameters, grads, strict=True) if g is not None}


@dataclass
class Trace:
    """The result of a few training steps.

    Attributes:
        alive: parameter path -> the largest gradient of each of its elements over all steps.
        problem: why the training failed, if it did.
        seconds: duration of each step.
    """

    alive: dict[str, Tensor | None] = field(default_factory=dict)
    problem: str | None = None
    seconds: list[float] = field(default_factory=list)


class Subject:
    """One resolved configuration and its measurements; nothing is measured twice.

    Args:
        recipe: the audit shortens its crops and batches.

    `results` keeps results of the checks.
    """

    def __init__(self, config: ModelConfig, recipe: Recipe) -> None:
        self.config = config
        self.recipe = recipe
        self.results: dict[Any, Any] = {}

    @cached_property
    def large(self) -> bool:
        return self.parameters > LARGE

    @cached_property
    def crop_seconds(self) -> float:
        longest = min(self.recipe.crop_seconds, LONGEST[self.large])
        return self.shortened(longest, HEAVY["crop"] / self.batch_size, shortest=longest / 2)

    @cached_property
    def longer_seconds(self) -> float:
        """Length of the clips that confirm a suspicion."""
        return self.shortened(LONGER, HEAVY["clip"], shortest=self.crop_seconds)

    def shortened(self, seconds: float, most: float, shortest: float) -> float:
        """Halve `seconds`, not below `shortest`, until autograd keeps at most `most` bytes for one clip."""
        while seconds > shortest and self.kept_of(seconds) > most:
            seconds = max(seconds / 2, shortest)
        return seconds

    def kept_of(self, seconds: float) -> float:
        """Bytes that autograd keeps for one clip: linear and quadratic terms, fitted to short clips."""
        one, two = self._kept_of_two
        square = max(two - 2 * one, 0) / 2
        return (one - square) * seconds / PIECE + square * (seconds / PIECE) ** 2

    @cached_property
    def _kept_of_two(self) -> tuple[int, int]:
        try:
            return self.kept(1, PIECE), self.kept(1, 2 * PIECE)
        except Exception:  # a network that does not run keeps nothing; `try_out` says why
            return 0, 0

    def kept(self, batch: int, seconds: float) -> int:
        """Bytes that autograd keeps between the forward and backward pass of a batch."""
        waves = torch.from_numpy(self.speech(seconds, count=1)[0].noisy)[None].repeat(batch, 1)
        signal = self.interface.analyse(waves)
        sizes: dict[int, int] = {}
        alive: list[Tensor] = []

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in sizes:
                sizes[storage.data_ptr()] = storage.nbytes()
                alive.append(tensor)
            return tensor

        own = {p.untyped_storage().data_ptr() for p in self.spare.parameters()}
        autocast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.recipe.precision == "bf16")
        with isolated(0), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            self.loss(self.spare, signal, signal, autocast)
        return sum(size for pointer, size in sizes.items() if pointer not in own)

    @cached_property
    def batch_size(self) -> int:
        return 1 if self.large else min(BATCH, self.recipe.batch_size)

    @cached_property
    def _built(self) -> tuple[nn.Module, dict[str, list[InitWrite]]]:
        with isolated(SEED), watch_init() as writes:
            model = build_model(self.config)
        return model, writes(model)

    def try_out(self) -> None:
        """Run the network once, alone and in a batch of two.

        Raises:
            InputError: the network cannot be built, fails, or its output has another shape than its input.
        """
        try:
            interface = Interface.of(build(self.config))
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"the network cannot be built: {told(error)}") from error
        try_out(build(self.config), interface, self.probe)

    @cached_property
    def interface(self) -> Interface:
        """The network's inputs and outputs; `batch`, `probe` and `clips` are its signals."""
        return Interface.of(self.model)

    def loss(
        self, model: nn.Module, noisy: Tensor, clean: Tensor, within: AbstractContextManager[Any] = NOTHING
    ) -> Tensor:
        """The recipe's loss of a network's output for a noisy signal; `within` wraps the forward pass."""
        interface = Interface.of(model)
        with within:
            outputs = interface.outputs(model, noisy)
        estimate = interface.spectrum(interface.enhanced(outputs, noisy).to(noisy.dtype))
        own = partial(interface.loss_of, outputs, clean, noisy)
        return WeightedLoss.of(self.recipe)(estimate, interface.spectrum(clean), outputs, own)

    @property
    def model(self) -> nn.Module:
        """The network as initialised; probes do not change it."""
        return self._built[0]

    @property
    def init_writes(self) -> dict[str, list[InitWrite]]:
        """Parameter path -> the writes into it while the network was built."""
        return self._built[1]

    @cached_property
    def spare(self) -> nn.Module:
        """A second copy of the network, for forwards that keep a graph: a module may store its inputs."""
        return build(self.config)

    @cached_property
    def parameters(self) -> int:
        """Number of trained values, without constants that are stored as parameters."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)

    def speech(self, seconds: float, **more: int) -> list[Tone]:
        """Synthetic pairs at the network's sample rate."""
        return speech_like(seconds, **more, rate=self.interface.sample_rate)

    @cached_property
    def batch(self) -> Tensor:
        """Noisy signals `(batch, ..., time)`, usually complex spectrograms `(batch, 257, frame)`."""
        pairs = self.speech(self.crop_seconds)[: self.batch_size]
        return self.interface.analyse(torch.from_numpy(np.stack([p.noisy for p in pairs])))

    @cached_property
    def probe(self) -> Tensor:
        """Two noisy signals, as long as one of `PROBE_PLACES`."""
        widths = {size for p in self.model.parameters() for size in p.shape}
        widths |= {len(self.config.band_widths), *self.batch.shape[:-1]}
        known = PROBE_PLACES[self.interface.place]
        places = next((n for n in known if all(width % n for width in widths)), known[0])
        pairs = self.speech(places * self.interface.step / self.interface.sample_rate, count=2)
        return self.interface.analyse(torch.from_numpy(np.stack([p.noisy for p in pairs])))[..., :places]

    @cached_property
    def watch(self) -> Watch:
        """The operations of a forward at initialisation, on a copy; it can watch more forwards."""
        with isolated(0):
            return watched(build(self.config), self.interface, self.batch)

    @cached_property
    def clips(self) -> list[Tensor]:
        """Noisy signals of other voices, at most two seconds each; the training steps do not use them."""
        return [
            self.interface.analyse(torch.from_numpy(pair.noisy)[None])
            for pair in self.speech(self.longer_seconds, count=4, seed=SEED + 1)
        ]

    @cached_property
    def longer(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Absolute gradients at initialisation, on a quarter of a clip and on a whole clip."""
        first, second = self.clips[:2]
        quarter = -(-first.shape[-1] // 4)
        return _gradients(self, first[..., :quarter], self.spare), _gradients(self, second, self.spare)

    @cached_property
    def elsewhere(self) -> list[dict[str, Tensor]]:
        """Absolute gradients with other initial values, on longer clips."""
        return [_gradients(self, self.clips[1], build(self.config, seed)) for seed in REDRAWN]

    @cached_property
    def redrawn(self) -> list[Watch]:
        """The operations of forwards with other initial values."""
        with isolated(0):
            watches = [watched(build(self.config, seed), self.interface, self.batch) for seed in REDRAWN]
            for watch in watches:
                watch.see(self.interface, self.clips[0])
        return watches

    @cached_property
    def grown(self) -> Watch:
        """The operations of a forward after some steps against the sign of the gradient.

        The steps are equally long for every weight, so terms that a gradient can make large become large,
        whatever the recipe's learning rate and warm-up.
        """
        model = build(self.config)
        parameters = [p for p in model.parameters() if p.requires_grad]
        with isolated(4):
            for _ in range(STEPS):
                loss = self.loss(model, self.batch, 0.5 * self.batch)
                grads = torch.autograd.grad(loss, parameters, allow_unused=True)
                with torch.no_grad():
                    for parameter, grad in zip(parameters, grads, strict=True):
                        if grad is not None:
                            parameter.sub_(STEP_SIZE * grad.sign())
            return watched(model, self.interface, self.batch)

    @cached_property
    def called(self) -> frozenset[str]:
        """Paths of the modules that a forward calls."""
        found: set[str] = set()
        with before_calls(self.spare, lambda path, *_: found.add(path)), isolated(0), torch.no_grad():
            self.interface.outputs(self.spare, self.batch)
        return frozenset(found)

    @cached_property
    def after_forward(self) -> nn.Module:
        """The network after a forward with gradients, when weights computed in the forward are not leaves."""
        with isolated(0):
            self.interface.outputs(self.spare, self.batch)
        return self.spare

    @cached_property
    def settled(self) -> nn.Module:
        """The initial network in evaluation mode, with running statistics gathered; see `settled`."""
        return settled(self.config, self.probe)

    @cached_property
    def notes(self) -> dict[str, dict[str, Tensor]]:
        """The modules' notes in a forward at initialisation: path -> name -> value."""
        with isolated(0), torch.no_grad(), declarations.record(self.model) as recording:
            self.interface.outputs(self.model, self.batch)
        paths = {module: path for path, module in self.model.named_modules()}
        noted: dict[str, dict[str, Tensor]] = {}
        for module, name, value in recording.notes:
            noted.setdefault(paths[module], {})[name] = value
        return noted

    @cached_property
    def training(self) -> Trace:
        """A few steps with the recipe's learning rate, clipping and precision, without a discriminator."""
        recipe = self.recipe.model_copy(
            update={
                "adversarial_weight": 0.0,
                "batch_size": self.batch_size,
                "accumulation": 1,
                "steps": self.recipe.steps or 10_000,
                "crop_seconds": self.crop_seconds,
            }
        )
        crop = int(self.crop_seconds * self.interface.sample_rate)
        trace = Trace()
        with isolated(SEED):
            model = build(self.config)
            batches = Batches(
                self.speech(self.crop_seconds),
                batch_size=self.batch_size,
                crop=crop,
                seed=SEED,
                augment=Augment.of(recipe, self.interface.sample_rate),
            )
            trainer = Trainer(model, recipe, batches, seed=SEED, device=torch.device("cpu"))
            for _ in range(STEPS):
                start = time.perf_counter()
                try:
                    trainer.train_step()
                except (DivergedError, FloatingPointError) as error:
                    norms = error.evidence["gradient_norms"] if isinstance(error, DivergedError) else {}
                    bad = [
                        n
                        for n, p in model.named_parameters()
                        if not torch.isfinite(p).all() or not math.isfinite(norms.get(n, 0.0))
                    ]
                    where = f"; not finite: {listed(bad, 3)}" if bad else ""
                    trace.problem = f"step {trainer.step + 1}: {error}{where}"
                    break
                trace.seconds.append(time.perf_counter() - start)
                for name, parameter in model.named_parameters():
                    grad, seen = parameter.grad, trace.alive.get(name)
                    if grad is None:
                        trace.alive.setdefault(name, None)
                    else:
                        grad = grad.detach().abs()
                        trace.alive[name] = grad.clone() if seen is None else torch.maximum(seen, grad)
        return trace


_subjects: dict[str, Subject] = {}


def subject(config: ModelConfig, recipe: Recipe) -> Subject:
    """The subject of a configuration, shared by all cells that resolve to the same one."""
    training = recipe.model_dump_json(exclude={"name", "validate_every", "checkpoint_every", "keep_every"})
    key = config.model_dump_json() + training
    if key not in _subjects:
        if len(_subjects) >= 64:
            _subjects.pop(next(iter(_subjects)))
        _subjects[key] = Subject(config, recipe)
    return _subjects[key]
