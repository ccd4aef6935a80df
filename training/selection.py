"""Validation during the training, and the selected weights."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from .data.corpus import Pair
from .evaluate import enhance_utterances
from .metrics import MetricPool, Scored
from .metrics.registry import VALIDATED

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Pending:
    """A validation with enhanced utterances whose scores, by name, are being measured."""

    line: dict[str, Any]
    scores: dict[str, Future[Scored]]
    weights: dict[str, Tensor]


@dataclass(kw_only=True)
class Selection:
    """Validates a network during training and keeps the weights of the highest mean PESQ-WB, or the last.

    The network enhances at once; its scores are measured while training continues. Every mean is over the
    same utterances: one whose clean recording cannot be a reference is always left out, one whose enhanced
    speech cannot be measured (silent, not finite) counts as the floor.

    Attributes:
        interval: steps between two validations.
        steps: of the training; the last one is validated too.
        choice: the weights kept as `best`.
        lines: of finished validations.
    """

    pairs: Sequence[Pair] = field(kw_only=False)
    pool: MetricPool = field(kw_only=False)
    device: torch.device
    interval: int
    steps: int
    choice: Literal["best", "last"] = "best"
    lines: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] | None = None
    _pending: deque[_Pending] = field(default_factory=deque)

    def is_due(self, step: int) -> bool:
        """Whether the weights after this step must be validated and are not yet."""
        known = {line["step"] for line in (*self.lines, *(pending.line for pending in self._pending))}
        return step > 0 and step not in known and (step % self.interval == 0 or step == self.steps)

    def start(self, model: nn.Module, step: int, means: Mapping[str, float]) -> None:
        """Enhance the validation utterances with the network after a step.

        `means` are those of the training since the last validation, for the same line.
        """
        self._enhance(model, {"step": step, "time": time.time(), **means})

    def _enhance(self, model: nn.Module, line: dict[str, Any]) -> None:
        scores: dict[str, Future[Scored]] = {}
        noisy = [pair.noisy for pair in self.pairs]
        for index, enhanced in enhance_utterances(model, noisy, device=self.device):
            pair = self.pairs[index]
            rate = pair.sample_rate
            scores[pair.name] = self.pool.submit(pair.clean, enhanced, VALIDATED, sample_rate=rate)
        in_order = {pair.name: scores[pair.name] for pair in self.pairs}
        self._pending.append(_Pending(line, in_order, _copy(model)))

    def measured(self) -> bool:
        """Whether `finish` would return a validation without waiting."""
        return bool(self._pending) and all(f.done() for f in self._pending[0].scores.values())

    def finish(self) -> dict[str, Any] | None:
        """Wait for the scores of the oldest open validation and select; returns its line, None if none is
        open.

        Raises:
            MetricProcessError: the processes that measured an utterance died.
        """
        if not self._pending:
            return None
        pending = self._pending.popleft()
        line = pending.line | mean_scores({name: f.result() for name, f in pending.scores.items()})
        value = line["val/pesq_wb"]
        better = value is not None and (self.best is None or value > self.best["val_pesq_wb"])
        if self.choice == "last" or better:
            scores = {"val_pesq_wb": value, "val_stoi": line["val/stoi"]}
            self.best = {"step": line["step"], **scores, "weights": pending.weights}
        self.lines.append(line)
        return line

    def state(self) -> dict[str, Any]:
        """Its part of a checkpoint."""
        under_way = [{"line": pending.line, "weights": pending.weights} for pending in self._pending]
        return {"history": self.lines, "best": self.best, "validations": under_way}

    def restore(self, state: Mapping[str, Any], model: nn.Module) -> None:
        """Undo `state`; `model` repeats open validations, and keeps its weights."""
        self.lines, self.best = state["history"], state["best"]
        before = _copy(model)
        for pending in state.get("validations", ()):
            model.load_state_dict(pending["weights"])
            self._enhance(model, pending["line"])
        model.load_state_dict(before)


def _copy(model: nn.Module) -> dict[str, Tensor]:
    """A network's weights on the CPU."""
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


def mean_scores(scores: Mapping[str, Scored]) -> dict[str, Any]:
    """`val/pesq_wb` and `val/stoi`, means over the utterances, None if none can be measured; `val/broken`,
    how many count as a floor. Failures are logged."""
    for name, scored in scores.items():
        if reason := scored.reasons():
            logger.warning("validation of %s: %s", name, reason)
    with_floors = [scored.with_floors() for scored in scores.values()]
    line: dict[str, Any] = {}
    for metric in VALIDATED:
        values = [measured[metric] for measured in with_floors if np.isfinite(measured[metric])]
        line[f"val/{metric}"] = float(np.mean(values)) if values else None
    return line | {"val/broken": sum(bool(scored.broken) for scored in scores.values())}
