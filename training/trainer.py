"""One training step after another: forward, losses, optimisers, and the state that makes it go on exactly."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grads_with_norm_, get_total_norm
from torch.optim.swa_utils import AveragedModel

from ablate.models.interface import Interface
from ablate.models.spectral import istft, stft

from . import seeds
from .causes import DivergedError
from .config import Recipe
from .data.batches import Batches, Waves
from .discriminator import Discriminator, discriminator_loss
from .losses import WeightedLoss, adversarial_distance, compressed_magnitude

Tensors = tuple[Tensor, ...] | list[Tensor]
Scorer = Callable[[list[tuple[Waves, Waves]]], Callable[[], list[float | None]]]
"""Starts PESQ-WB of (reference, judged) waves `(sample,)`; calling what it returns waits for the values,
None where PESQ failed."""


@dataclass(frozen=True)
class Step:
    """What one training step did. The norm of the gradient is that before clipping."""

    loss: float
    grad_norm: float
    learning_rate: float
    discriminator_loss: float | None
    dropped_clips: int


def learning_rate_factor(recipe: Recipe, step: int, steps: int) -> float:
    """What the learning rate is multiplied by at a step counted from 0, of so many.

    Lengths are parts of the training, so that a shortened training has the same curve.
    """
    warm = (step + 1) / (recipe.warmup * steps) if recipe.warmup else 1.0
    return min(1.0, warm) * recipe.scheduled(step / steps)


class Trainer:
    """A network under a recipe, step by step.

    What a step does is a function of the weights, the optimisers' state, the seed and the step's
    number: random numbers are drawn from streams addressed by step, nothing is carried along.

    Args:
        model: a network with an `Interface`, on `device`.
        recipe: with `steps` resolved.
        batches: of the training.
        seed: of the training.
        device: of the network.
        scorer: measures PESQ for the discriminator, beside the step; needed where the recipe has one.
        accumulation: micro-batches a step is cut into; None for the recipe's.

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
                f"recipe {recipe.name!r} has {recipe.epochs} epochs but no steps; the corpus tells them"
            )
        self.model = model
        self.interface = Interface.of(model)
        self.recipe = recipe
        self.batches = batches
        self.seed = seed
        self.device = device
        self.scorer = scorer
        self.steps = recipe.steps
        self.micro_batches = min(accumulation or recipe.accumulation, recipe.batch_size)
        self.step = 0
        self.loss = WeightedLoss.of(recipe)
        self.optimizer = _optimizer(
            recipe, parameter_groups(model, recipe.weight_decay), recipe.learning_rate
        )
        self.average = averaged(model, recipe.ema * recipe.steps) if recipe.ema else None
        self.discriminator: Discriminator | None = None
        if recipe.adversarial_weight:
            if scorer is None:
                raise ValueError("a recipe with a discriminator needs a scorer of PESQ")
            torch.manual_seed(seeds.torch_seed(seed, "discriminator"))
            self.discriminator = Discriminator().to(device)
            self.discriminator_optimizer = _optimizer(
                recipe, self.discriminator.parameters(), recipe.discriminator_learning_rate
            )

    @property
    def network(self) -> nn.Module:
        """What the training gives so far: the averaged weights where the recipe averages them."""
        return self.model if self.average is None else self.average.module

    def train_step(self) -> Step:
        """Take the next step.

        Raises:
            DivergedError: the loss, a gradient or a weight is not finite. Where it is the loss or a
                gradient the weights are those before the step.
        """
        step, recipe = self.step, self.recipe
        waves = self.batches.batch(step)
        clean, noisy = (torch.from_numpy(wave).to(self.device) for wave in waves)
        factor = learning_rate_factor(recipe, step, self.steps)
        _set_learning_rate(self.optimizer, recipe.learning_rate * factor)
        seeds.set_global(self.seed, "dropout", step)

        adversarial = self.discriminator is not None and step >= recipe.adversarial_start * self.steps
        judging = self.discriminator is not None and step >= recipe.discriminator_start * self.steps
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        loss, estimate = self._generator_backward(clean, noisy, adversarial=adversarial, keep=judging)
        if not math.isfinite(loss):
            raise self._diverged(step, loss, waves, f"the loss is {loss}")
        measured = self._start_scoring(clean, noisy, estimate) if judging else None
        total = get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])
        norm = total.item()
        if not math.isfinite(norm):
            raise self._diverged(step, loss, waves, f"the norm of the gradient is {norm}")
        clip_grads_with_norm_(self.model.parameters(), recipe.clip, total)
        self.optimizer.step()
        if not torch.isfinite(get_total_norm(list(self.model.parameters()))):
            raise self._diverged(step, loss, waves, "a weight is no longer finite")
        if self.average is not None:
            self.average.update_parameters(self.model)

        judged_loss, dropped = None, 0
        if measured is not None:
            _set_learning_rate(self.discriminator_optimizer, recipe.discriminator_learning_rate * factor)
            judged_loss, dropped = self._discriminator_step(clean, noisy, estimate, measured)
            if not math.isfinite(judged_loss):
                raise self._diverged(step, loss, waves, f"the discriminator's loss is {judged_loss}")
        self.step = step + 1
        return Step(loss, norm, recipe.learning_rate * factor, judged_loss, dropped)

    def _generator_backward(
        self, clean: Tensor, noisy: Tensor, *, adversarial: bool, keep: bool
    ) -> tuple[float, Tensor]:
        """Gradients of the network's loss; the loss and, if kept, the estimates `(batch, 257, frame)`."""
        count = len(clean)
        exponent, judge, mask = self.recipe.compression, self.discriminator, None
        if adversarial and judge is not None:
            judge.eval().requires_grad_(False)
            mask = judge.dropout_mask(count)
        total, estimates = 0.0, []
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
            if mask is not None and judge is not None:
                magnitudes = (compressed_magnitude(x, exponent) for x in (target, estimate))
                judged = judge(*magnitudes, mask=mask[part])
                loss = loss + self.recipe.adversarial_weight * adversarial_distance(judged)
            loss = loss * (len(part) / count)
            loss.backward()
            total += loss.item()
            if keep:
                estimates.append(estimate.detach())
        if judge is not None:
            judge.train().requires_grad_(True)
        return total, torch.cat(estimates) if keep else clean.new_empty(0)

    def _own_loss(self, outputs: Any, clean: Tensor, noisy: Tensor) -> Tensor:
        return self.interface.loss_of(outputs, self.interface.analyse(clean), noisy)

    def _start_scoring(
        self, clean: Tensor, noisy: Tensor, estimate: Tensor
    ) -> Callable[[], list[float | None]]:
        assert self.scorer is not None
        wave = istft(estimate, clean.shape[-1])
        references, noises, estimates = (np.asarray(x.cpu(), np.float32) for x in (clean, noisy, wave))
        pairs = list(zip(references, estimates, strict=True)) + list(zip(estimates, noises, strict=True))
        return self.scorer(pairs)

    def _discriminator_step(
        self, clean: Tensor, noisy: Tensor, estimate: Tensor, measured: Callable[[], list[float | None]]
    ) -> tuple[float, int]:
        assert self.discriminator is not None
        exponent, judge = self.recipe.compression, self.discriminator
        reference, noise = (compressed_magnitude(stft(x), exponent) for x in (clean, noisy))
        enhanced = compressed_magnitude(estimate, exponent)
        self.discriminator_optimizer.zero_grad(set_to_none=True)
        judgements = judge(reference, reference), judge(reference, enhanced), judge(enhanced, noise)
        values = measured()
        count = len(clean)
        loss, dropped = discriminator_loss(
            judgements[0], [(judgements[1], values[:count]), (judgements[2], values[count:])]
        )
        loss.backward()
        clip_grad_norm_(judge.parameters(), self.recipe.clip)
        self.discriminator_optimizer.step()
        return loss.item(), dropped

    def _diverged(self, step: int, loss: float, waves: tuple[Waves, Waves], what: str) -> DivergedError:
        norms = {
            name: parameter.grad.norm().item()
            for name, parameter in self.model.named_parameters()
            if parameter.grad is not None
        }
        evidence = {
            "step": step + 1,
            "loss": loss,
            "gradient_norms": norms,
            "items": [(self.batches.pairs[index].name, place) for index, place in self.batches.items(step)],
            "clean": waves[0],
            "noisy": waves[1],
        }
        return DivergedError(f"diverged at step {step + 1} of {self.steps}: {what}", evidence)

    def state(self) -> dict[str, Any]:
        """All that the next step depends on, in types a checkpoint may hold."""
        state: dict[str, Any] = {
            "step": self.step,
            "weights": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        if self.average is not None:
            state["unaveraged"] = self.model.state_dict()
        if self.discriminator is not None:
            state["discriminator"] = self.discriminator.state_dict()
            state["discriminator_optimizer"] = self.discriminator_optimizer.state_dict()
        return state

    def restore(self, state: dict[str, Any]) -> None:
        """Undo `state`."""
        self.step = state["step"]
        self.network.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.n_averaged.fill_(self.step)
            self.model.load_state_dict(state["unaveraged"])
        if self.discriminator is not None:
            self.discriminator.load_state_dict(state["discriminator"])
            self.discriminator_optimizer.load_state_dict(state["discriminator_optimizer"])


def averaged(model: nn.Module, horizon: float) -> AveragedModel:
    """An exponential average of a network's weights, updated after each step.

    The newest weights enter by 1 / `horizon`; before so many steps it is the plain mean of all so far, so
    that the initialisation is never part of it. Buffers are those of the network.

    Args:
        model: whose parameters are averaged.
        horizon: in steps; below one it is the network itself.
    """

    @torch.no_grad()
    def average(averages: Tensors, weights: Tensors, count: Tensor | int) -> None:
        torch._foreach_lerp_(averages, weights, 1 / max(1.0, min(int(count) + 1, horizon)))

    return AveragedModel(model, multi_avg_fn=average)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The parameters of a network for an optimiser, those that weight decay is for apart.

    It is for matrices and kernels: parameters of two axes or more with `weight` in their name. Biases, the
    scales of norms, and what a module declares by `_no_weight_decay` or by another name (`A_log` and `D` of a
    state space) are left alone. Without weight decay there is one group.
    """
    named = list(model.named_parameters())
    if not weight_decay:
        return [{"params": [parameter for _, parameter in named], "weight_decay": 0.0}]
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in named:
        groups[_is_decayed(name.rpartition(".")[2], parameter)].append(parameter)
    return [
        {"params": groups[True], "weight_decay": weight_decay},
        {"params": groups[False], "weight_decay": 0.0},
    ]


def _is_decayed(name: str, parameter: nn.Parameter) -> bool:
    matrix = parameter.dim() >= 2 and "weight" in name and "norm" not in name
    return matrix and not getattr(parameter, "_no_weight_decay", False)


def _optimizer(recipe: Recipe, parameters: Any, learning_rate: float) -> torch.optim.Optimizer:
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimizer]
    return kind(parameters, lr=learning_rate, weight_decay=0.0)


def _set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = value
