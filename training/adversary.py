"""The metric discriminator in a training: its term in the network's loss, and its own learning."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from ablate.models.spectral import istft, stft

from . import seeds
from .config import Recipe
from .data.batches import Waves
from .device_loader import Feed
from .discriminator import Discriminator, discriminator_loss, target
from .graph import Graph, recorded
from .losses import adversarial_distance, compressed_magnitude
from .optimisation import Optimiser, learning_rate_factor
from .transfer import to_device, to_host

Measured = Callable[[], list[float | None]]
"""Waits for the PESQ-WB of pairs of waves; None where it failed."""
Scorer = Callable[[list[tuple[Waves, Waves]]], Measured]
"""Starts PESQ-WB of (reference, judged) waves `(sample,)` at 16 kHz."""
ROLES = 3
"""Judgements of a clip: clean against itself, the estimate against clean, noisy against the estimate."""


@dataclass(frozen=True)
class Lesson:
    """Input of the discriminator from one step.

    Attributes:
        step: counted from 0.
        clean, noisy: waves `(batch, sample)`.
        estimate: `(batch, 257, frame)`, complex.
        masks: of the dropout, `(role, batch, feature)`.
        measured: PESQ of clean against estimate, then of estimate against noisy.
    """

    step: int
    clean: Tensor
    noisy: Tensor
    estimate: Tensor
    masks: Tensor
    measured: Measured


class Adversary:
    """A discriminator that learns the PESQ of some clips of a batch, `recipe.discriminator_lag` steps
    late."""

    def __init__(
        self, recipe: Recipe, feed: Feed, *, seed: int, device: torch.device, scorer: Scorer
    ) -> None:
        assert recipe.steps is not None
        self.recipe = recipe
        self.feed = feed
        self.device = device
        self.scorer = scorer
        self.steps = recipe.steps
        self.clips = max(1, round(recipe.discriminator_fraction * recipe.batch_size))
        torch.manual_seed(seeds.torch_seed(seed, "discriminator"))
        self.judge = Discriminator().to(device)
        self.optimiser = Optimiser(
            recipe, self.judge.parameters(), recipe.discriminator_learning_rate, device
        )
        self.graph = Graph.of(recipe, self._graded, self.judge, device)
        self._lessons: deque[Lesson] = deque()
        self._waiting = ThreadPoolExecutor(1, "waves") if device.type == "cuda" else None

    def learns(self, step: int) -> bool:
        """Whether the discriminator learns from a step."""
        return step >= self.recipe.discriminator_start * self.steps

    def mask(self, step: int, count: int) -> Tensor | None:
        """The dropout for the `count` clips in a step's loss; None before the term enters the loss."""
        if step < self.recipe.adversarial_start * self.steps:
            return None
        return self.judge.dropout_mask(count)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Freeze the discriminator while it judges for the network's loss."""
        self.judge.eval().requires_grad_(False)
        try:
            yield
        finally:
            self.judge.train().requires_grad_(True)

    def term(self, estimate: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """The weighted term of spectrograms `(batch, 257, frame)`; `mask` is a part of one `dropout_mask`."""
        magnitudes = (compressed_magnitude(x, self.recipe.compression) for x in (target, estimate))
        return self.recipe.adversarial_weight * adversarial_distance(self.judge(*magnitudes, mask=mask))

    def watch(self, step: int, clean: Tensor, noisy: Tensor, estimate: Tensor) -> None:
        """Store a step's `Lesson`, and start measuring its PESQ."""
        clean, noisy, estimate = (x[: self.clips] for x in (clean, noisy, estimate))
        masks = torch.stack([self.judge.dropout_mask(len(clean)) for _ in range(ROLES)])
        waves = to_host(torch.stack([clean, noisy, istft(estimate, clean.shape[-1])]))

        def start() -> Measured:
            references, noises, estimates = np.asarray(waves(), np.float32)
            pairs = list(zip(references, estimates, strict=True)) + list(zip(estimates, noises, strict=True))
            return self.scorer(pairs)

        started = self._waiting.submit(start) if self._waiting else None
        measured = start() if started is None else lambda: started.result()()
        self._lessons.append(Lesson(step, clean, noisy, estimate, masks, measured))

    def learn(self, step: int, finite: Tensor) -> tuple[Tensor, Tensor, int]:
        """Learn the lessons that are `discriminator_lag` steps old; at the last step all remaining ones.

        Args:
            step: the current one, counted from 0.
            finite: a truth value on the device; if false, nothing is learned.

        Returns:
            Losses, then norms of the gradients, `(2 lesson,)`; whether everything so far is finite; how many
                clips were
            left out.
        """
        losses: list[Tensor] = []
        norms: list[Tensor] = []
        dropped = 0
        last = step + 1 == self.steps
        while self._lessons and (last or self._lessons[0].step <= step - self.recipe.discriminator_lag):
            lesson = self._lessons.popleft()
            loss, norm, failed = recorded(partial(self._grade, lesson))
            finite = finite & loss.isfinite() & norm.isfinite()
            self.optimiser.step(learning_rate_factor(self.recipe, lesson.step, self.steps), finite)
            losses.append(loss)
            norms.append(norm)
            dropped += failed
        numbers = torch.stack(losses + norms) if losses else finite.new_empty(0)
        return numbers, finite, dropped

    def _grade(self, lesson: Lesson) -> tuple[Tensor, Tensor, int]:
        """Gradients of the discriminator's loss; returns the loss, their norm, and how many clips were left
        out."""
        given = lesson.clean, lesson.noisy, lesson.estimate, lesson.masks
        if self.graph is not None and None not in (values := lesson.measured()):
            targets = torch.tensor([target(value) for value in values if value is not None])
            loss, norm = self.graph(*given, to_device(targets, self.device))
            return loss, norm, 0
        first, *others = self._judgements(*given)
        values, count = lesson.measured(), len(lesson.clean)
        pairs = zip(others, (values[:count], values[count:]), strict=True)
        loss, dropped = discriminator_loss(first, list(pairs))
        return *self._gradients(loss), dropped

    def _graded(
        self, clean: Tensor, noisy: Tensor, estimate: Tensor, masks: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`_grade` with all inputs as arguments, so that it can be recorded."""
        first, *others = self._judgements(clean, noisy, estimate, masks)
        loss, _ = discriminator_loss(first, list(zip(others, targets.chunk(2), strict=True)))
        return self._gradients(loss)

    def _judgements(self, clean: Tensor, noisy: Tensor, estimate: Tensor, masks: Tensor) -> list[Tensor]:
        exponent, judge = self.recipe.compression, self.judge
        reference, noise = (compressed_magnitude(stft(x), exponent) for x in (clean, noisy))
        enhanced = compressed_magnitude(estimate, exponent)
        pairs = (reference, reference), (reference, enhanced), (enhanced, noise)
        self.optimiser.zero_grad()
        if self.device.type == "cuda":
            return judge.judge_together(pairs, masks)
        return [judge(*pair, mask=mask) for pair, mask in zip(pairs, masks, strict=True)]

    def _gradients(self, loss: Tensor) -> tuple[Tensor, Tensor]:
        loss.backward()
        return loss.detach(), clip_grad_norm_(self.judge.parameters(), self.recipe.clip)

    def state(self) -> dict[str, Any]:
        """Its part of a checkpoint; waits for the PESQ of open lessons."""
        lessons = [
            {"step": x.step, "estimate": x.estimate.clone(), "masks": x.masks, "values": x.measured()}
            for x in self._lessons
        ]
        return {
            "discriminator": self.judge.state_dict(),
            "discriminator_optimizer": self.optimiser.state(),
            "lessons": lessons,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Undo `state`."""
        self.judge.load_state_dict(state["discriminator"])
        self.optimiser.restore(state["discriminator_optimizer"])
        self._lessons.clear()
        for kept in state.get("lessons", ()):
            clean, noisy = (x[: self.clips] for x in self.feed.batch(kept["step"]))
            estimate, masks = (kept[name].to(self.device) for name in ("estimate", "masks"))
            measured: Measured = partial(list, kept["values"])
            self._lessons.append(Lesson(kept["step"], clean, noisy, estimate, masks, measured))
