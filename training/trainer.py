"""Training steps: forward, losses, optimisers, and the state for an exact resume."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from ablate.models.interface import Interface
from ablate.models.spectral import stft

from . import seeds
from .adversary import Adversary, Scorer
from .config import Recipe
from .data.batches import Batches
from .determinism import refused, tolerate
from .device_loader import Feed
from .failures import DivergedError
from .graph import Graph, recorded
from .losses import WeightedLoss
from .optimisation import (
    Optimiser,
    averaged,
    gradient_norms,
    learning_rate_factor,
    parameter_groups,
    update_ema,
)
from .transfer import to_host


@dataclass(frozen=True)
class Step:
    """The result of one training step. `grad_norm` is before clipping.

    Attributes:
        number: counted from 1.
        discriminator_loss: mean over the discriminator's lessons in this step; None: it had none.
    """

    number: int
    loss: float
    grad_norm: float
    learning_rate: float
    discriminator_loss: float | None
    dropped_clips: int


@dataclass(frozen=True)
class _Started:
    """A step that may still run on the device.

    Attributes:
        step: counted from 0.
        parts: how many numbers there are of each kind.
        numbers: waits for them: losses of the micro-batches; norms of gradient and weights; norms of each
            parameter's gradient; losses and then norms of the discriminator's lessons.
        parameters: those with a gradient.
    """

    step: int
    parts: list[int]
    numbers: Callable[[], Tensor]
    parameters: list[str]
    dropped: int


class Trainer:
    """A network under a recipe, step by step.

    A step is a function of the weights, the optimisers' state, the seed and the step's number: random streams
    are addressed by step, and only the discriminator's open lessons are carried along.

    Args:
        model: a network with an `Interface`, on `device`.
        recipe: with `steps` resolved.
        scorer: measures PESQ for the discriminator, beside the step; required if the recipe has one.
        accumulation: micro-batches per step; None: the recipe's.

    Raises:
        ValueError: the steps are not resolved, or the discriminator lacks a scorer.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        batches: Batches,
        *,
        seed: int,
        device: torch.device,
        scorer: Scorer | None = None,
        accumulation: int | None = None,
    ) -> None:
        if recipe.steps is None:
            raise ValueError(
                f"recipe {recipe.name!r} has {recipe.epochs} epochs but no steps; a corpus decides them"
            )
        self.model = model
        self.interface = Interface.of(model)
        self.recipe = recipe
        self.batches = batches
        self.feed = Feed(batches, device)
        self.seed = seed
        self.device = device
        self.steps = recipe.steps
        self.micro_batches = min(accumulation or recipe.accumulation, recipe.batch_size)
        self.step = 0
        self.loss = WeightedLoss.of(recipe)
        self._parameters = dict(model.named_parameters())
        groups = parameter_groups(model, recipe.weight_decay)
        self.optimiser = Optimiser(recipe, groups, recipe.learning_rate, device)
        self.average = averaged(model) if recipe.ema else None
        self.adversary: Adversary | None = None
        if recipe.adversarial_weight:
            if scorer is None:
                raise ValueError("a recipe with a discriminator needs a PESQ scorer")
            self.adversary = Adversary(recipe, self.feed, seed=seed, device=device, scorer=scorer)
        self._started: _Started | None = None
        self._finite = torch.ones((), dtype=torch.bool, device=device)
        self.graph = Graph.of(recipe, self._backward, model, device)

    @property
    def network(self) -> nn.Module:
        """The trained network so far: with averaged weights if the recipe averages them."""
        return self.model if self.average is None else self.average

    def graphs(self) -> str | None:
        """Whether CUDA graphs replay the step, or why not; None if the recipe does not ask for them."""
        if not self.recipe.cuda_graph:
            return None
        graphs = [self.graph, self.adversary and self.adversary.graph]
        return "; ".join(graph.told() for graph in graphs if graph) or f"the device is {self.device}"

    def train_step(self) -> Step:
        """Take the next step and wait for it; as `start_step`."""
        self.start_step()
        step = self.finish_step()
        assert step is not None
        return step

    def start_step(self) -> Step | None:
        """Start the next step, and wait for the one before; returns its result, None if there is none.

        Raises:
            DivergedError: in the step before, the loss, a gradient or a weight was not finite. Nothing has
                changed since; if it was the loss or a gradient, the weights are those before that step.
        """
        before, self._started = self._started, self._start(self.step)
        self.step += 1
        return self._told(before) if before else None

    def finish_step(self) -> Step | None:
        """Wait for the running step and return its result, as `start_step`; None if there is none."""
        started, self._started = self._started, None
        return self._told(started) if started else None

    def _start(self, step: int) -> _Started:
        """Queue a whole step on the device. Values that are not finite, now or before, change nothing."""
        recipe, adversary = self.recipe, self.adversary
        clean, noisy = self.feed.batch(step)
        factor = learning_rate_factor(recipe, step, self.steps)
        learning = adversary is not None and adversary.learns(step)
        losses, estimate = recorded(partial(self._gradients, step, clean, noisy, keep=learning))
        if adversary is not None and learning:
            adversary.watch(step, clean, noisy, estimate)
        names, norms = gradient_norms(self._parameters)
        total = torch.linalg.vector_norm(norms)
        clip_grads_with_norm_(self._parameters.values(), recipe.clip, total)
        finite = self._finite & losses.isfinite().all() & total.isfinite()
        self.optimiser.step(factor, finite)
        weights = get_total_norm(self._parameters.values(), foreach=True)
        if self.average is not None:
            update_ema(self.average, self.model, step, recipe.ema * self.steps)
        self._finite, dropped, lessons = finite & weights.isfinite(), 0, losses.new_empty(0)
        if adversary is not None:
            lessons, self._finite, dropped = adversary.learn(step, self._finite)
        kinds = [losses, torch.stack([total, weights]), norms, lessons]
        numbers = torch.cat([kind.detach().double() for kind in kinds])
        return _Started(step, [len(kind) for kind in kinds], to_host(numbers), names, dropped)

    def _gradients(self, step: int, clean: Tensor, noisy: Tensor, *, keep: bool) -> tuple[Tensor, Tensor]:
        """Gradients of the network's loss: each micro-batch's share, and the estimates `(batch, 257, frame)`
        if kept."""
        seeds.set_global(self.seed, "dropout", step)
        mask = self.adversary.mask(step, len(clean)) if self.adversary else None
        losses, estimate = (self.graph or self._backward)(clean, noisy, mask, keep=keep)
        return losses, estimate

    def _backward(
        self, clean: Tensor, noisy: Tensor, mask: Tensor | None, *, keep: bool
    ) -> tuple[Tensor, Tensor]:
        """`_gradients` with all inputs as arguments, so that it can be recorded."""
        count, adversary = len(clean), self.adversary
        self.model.train()
        self.optimiser.zero_grad()
        losses, estimates = [], []
        with adversary.held() if adversary else nullcontext():
            for part in torch.arange(count, device=self.device).chunk(self.micro_batches):
                target, signal = stft(clean[part]), self.interface.analyse(noisy[part])
                with torch.autocast(
                    self.device.type, dtype=torch.bfloat16, enabled=self.recipe.precision == "bf16"
                ):
                    outputs = self.interface.outputs(self.model, signal)
                enhanced = self.interface.enhanced(outputs, signal).to(signal.dtype)
                estimate = self.interface.spectrum(enhanced, clean.shape[-1])
                own = partial(self._own_loss, outputs, clean[part], signal)
                loss = self.loss(estimate, target, outputs, own)
                if adversary is not None and mask is not None:
                    loss = loss + adversary.term(estimate, target, mask[part])
                loss = loss * (len(part) / count)
                loss.backward()
                losses.append(loss.detach())
                if keep:
                    estimates.append(estimate.detach())
        return torch.stack(losses), torch.cat(estimates) if keep else clean.new_empty(0)

    def _own_loss(self, outputs: Any, clean: Tensor, noisy: Tensor) -> Tensor:
        return self.interface.loss_of(outputs, self.interface.analyse(clean), noisy)

    def _told(self, started: _Started) -> Step:
        losses, (norm, weights), norms, lessons = (
            part.tolist() for part in started.numbers().split(started.parts)
        )
        judged, judged_norms = lessons[: len(lessons) // 2], lessons[len(lessons) // 2 :]
        loss = sum(losses)
        problems = [
            (loss, f"the loss is {loss}"),
            (norm, f"the norm of the gradient is {norm}"),
            (weights, "a weight is no longer finite"),
            *((value, f"the discriminator's loss is {value}") for value in judged),
            *((value, f"the norm of the discriminator's gradient is {value}") for value in judged_norms),
        ]
        for value, what in problems:
            if not math.isfinite(value):
                self._started, self.step = None, started.step
                gradients = dict(zip(started.parameters, norms, strict=True))
                raise self._diverged(started.step, loss, gradients, what)
        rate = self.recipe.learning_rate * learning_rate_factor(self.recipe, started.step, self.steps)
        mean = sum(judged) / len(judged) if judged else None
        return Step(started.step + 1, loss, norm, rate, mean, started.dropped)

    def _diverged(self, step: int, loss: float, norms: dict[str, float], what: str) -> DivergedError:
        clean, noisy = self.batches.batch(step)
        evidence = {
            "step": step + 1,
            "loss": loss,
            "gradient_norms": norms,
            "items": [(self.batches.pairs[index].name, place) for index, place in self.batches.items(step)],
            "clean": clean,
            "noisy": noisy,
        }
        return DivergedError(f"diverged at step {step + 1} of {self.steps}: {what}", evidence)

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on, in types for a checkpoint; no step may be running."""
        assert self._started is None
        state: dict[str, Any] = {
            "step": self.step,
            "weights": self.network.state_dict(),
            "optimizer": self.optimiser.state(),
            "not_deterministic": refused(),
        }
        if self.average is not None:
            state["unaveraged"] = self.model.state_dict()
        if self.adversary is not None:
            state |= self.adversary.state()
        return state

    def restore(self, state: dict[str, Any]) -> None:
        """Undo `state`."""
        self.step = state["step"]
        self.network.load_state_dict(state["weights"])
        self.optimiser.restore(state["optimizer"])
        tolerate(state.get("not_deterministic", ()))
        if self.average is not None:
            self.model.load_state_dict(state["unaveraged"])
        if self.adversary is not None:
            self.adversary.restore(state)
