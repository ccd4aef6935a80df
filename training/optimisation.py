"""Updates of the weights: learning rates, groups, optimisers that a device can hold back, and the average."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from .config import Recipe

FUSED = ("cuda",)
"""Devices with one-kernel optimisers, which decide themselves whether to take the step; they do not support
complex parameters."""


def learning_rate_factor(recipe: Recipe, step: int, steps: int) -> float:
    """The factor of the learning rate at a step, counted from 0, of `steps`.

    Lengths are fractions of the training, so a shorter training has the same curve.
    """
    warm = (step + 1) / (recipe.warmup * steps) if recipe.warmup else 1.0
    return min(1.0, warm) * recipe.scheduled(step / steps)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The parameters of a network for an optimiser, with and without weight decay.

    It applies to matrices and kernels: parameters of at least two axes with `weight` in their name. Biases,
    scales of norms, and parameters that a module marks by `_no_weight_decay` or by another name (`A_log` and
    `D` of a state space) have none. Without weight decay there is one group.
    """
    named = list(model.named_parameters())
    if not weight_decay:
        return [{"params": [parameter for _, parameter in named], "weight_decay": 0.0}]
    groups: list[dict[str, Any]] = [{"params": [], "weight_decay": rate} for rate in (weight_decay, 0.0)]
    for path, parameter in named:
        name = path.rpartition(".")[2]
        matrix = parameter.dim() >= 2 and "weight" in name and "norm" not in name
        decayed = matrix and not getattr(parameter, "_no_weight_decay", False)
        groups[not decayed]["params"].append(parameter)
    return groups


class Optimiser:
    """The optimiser of a recipe, which skips steps that are not finite without asking the device.

    `parameters` are as for `torch.optim`, all on `device`; `learning_rate` is that at a factor of 1.
    """

    def __init__(self, recipe: Recipe, parameters: Any, learning_rate: float, device: torch.device) -> None:
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimizer]
        groups = list(parameters)
        lists = (group["params"] if isinstance(group, dict) else [group] for group in groups)
        self.fused = device.type in FUSED and not any(map(torch.is_complex, chain(*lists)))
        self.learning_rate = learning_rate
        self.torch = kind(groups, lr=learning_rate, weight_decay=0.0, fused=self.fused or None)

    def step(self, factor: float, finite: Tensor) -> None:
        """Update the weights by their gradients, with the learning rate times `factor`; nothing changes if
        `finite`, a truth value on the device, is false."""
        for group in self.torch.param_groups:
            group["lr"] = self.learning_rate * factor
        if self.fused:
            self.torch.found_inf = (~finite).float()
            self.torch.step()
        elif finite:
            self.torch.step()

    def zero_grad(self) -> None:
        self.torch.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Any]:
        """Its part of a checkpoint."""
        return self.torch.state_dict()

    def restore(self, state: dict[str, Any]) -> None:
        """Undo `state`, which may be that of another device."""
        groups = [group | {"fused": self.fused or None} for group in state["param_groups"]]
        self.torch.load_state_dict({**state, "param_groups": groups})


def averaged(model: nn.Module) -> nn.Module:
    """A copy of a network for `update_ema`, with each recurrence's weights in one piece, as cuDNN
    requires."""
    average = deepcopy(model)
    for module in average.modules():
        if isinstance(module, nn.RNNBase):
            module.flatten_parameters()
    return average


def update_ema(average: nn.Module, model: nn.Module, step: int, horizon: float) -> None:
    """Update an exponential average of a network's weights by one step.

    The newest weights enter with 1 / `horizon`; before that many steps the average is the plain mean of all
    so far, so it never includes the initialisation. Buffers are copied from the network. `step` counts from
    0; below a horizon of one step the average is the network itself.
    """
    share = 1 / max(1.0, min(step + 1, horizon))
    with torch.no_grad():
        torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), share)
        for ours, theirs in zip(average.buffers(), model.buffers(), strict=True):
            ours.copy_(theirs)


def gradient_norms(parameters: Mapping[str, nn.Parameter]) -> tuple[list[str], Tensor]:
    """Names of the parameters with a gradient, and the norm of each gradient, `(parameter,)`."""
    gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
    return list(gradients), torch.stack(torch._foreach_norm(list(gradients.values())))
