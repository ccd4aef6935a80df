"""How weights follow gradients: rates, groups, optimisers that a device can hold back, and the average."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from .config import Recipe

FUSED = ("cuda",)
"""Devices whose optimisers are one kernel, which looks itself whether the step is to be taken; not for
complex parameters, which it does not take."""


def learning_rate_factor(recipe: Recipe, step: int, steps: int) -> float:
    """What the learning rate is multiplied by at a step counted from 0, of so many.

    Lengths are parts of the training, so that a shortened training has the same curve.
    """
    warm = (step + 1) / (recipe.warmup * steps) if recipe.warmup else 1.0
    return min(1.0, warm) * recipe.scheduled(step / steps)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The parameters of a network for an optimiser, those that weight decay is for apart.

    It is for matrices and kernels: parameters of two axes or more with `weight` in their name. Biases, the
    scales of norms, and what a module declares by `_no_weight_decay` or by another name (`A_log` and `D` of a
    state space) are left alone. Without weight decay there is one group.
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
    """The optimiser of a recipe, which takes no step from what is not finite, without asking the device.

    `parameters` are as `torch.optim` takes them, all on `device`; `learning_rate` is that at a factor of 1.
    """

    def __init__(self, recipe: Recipe, parameters: Any, learning_rate: float, device: torch.device) -> None:
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimizer]
        groups = list(parameters)
        lists = (group["params"] if isinstance(group, dict) else [group] for group in groups)
        self.fused = device.type in FUSED and not any(map(torch.is_complex, chain(*lists)))
        self.learning_rate = learning_rate
        self.torch = kind(groups, lr=learning_rate, weight_decay=0.0, fused=self.fused or None)

    def step(self, factor: float, finite: Tensor) -> None:
        """Move the weights by their gradients, the learning rate times `factor`; weights and state stay where
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
        """What a checkpoint holds."""
        return self.torch.state_dict()

    def restore(self, state: dict[str, Any]) -> None:
        """Undo `state`, which may be that of another device."""
        groups = [group | {"fused": self.fused or None} for group in state["param_groups"]]
        self.torch.load_state_dict({**state, "param_groups": groups})


def averaged(model: nn.Module) -> nn.Module:
    """A copy of a network for `follow`, the weights of each recurrence in one piece as cuDNN wants them."""
    average = deepcopy(model)
    for module in average.modules():
        if isinstance(module, nn.RNNBase):
            module.flatten_parameters()
    return average


def update_ema(average: nn.Module, model: nn.Module, step: int, horizon: float) -> None:
    """Move an exponential average of a network's weights by a step.

    The newest weights enter by 1 / `horizon`; before so many steps it is the plain mean of all so far, so
    that the initialisation is never part of it. Buffers are those of the network. `step` counts from 0; below
    a horizon of one step the average is the network itself.
    """
    share = 1 / max(1.0, min(step + 1, horizon))
    with torch.no_grad():
        torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), share)
        for ours, theirs in zip(average.buffers(), model.buffers(), strict=True):
            ours.copy_(theirs)


def gradient_norms(parameters: Mapping[str, nn.Parameter]) -> tuple[list[str], Tensor]:
    """Names of the parameters that have a gradient, and the norm of each gradient, `(parameter,)`."""
    gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
    return list(gradients), torch.stack(torch._foreach_norm(list(gradients.values())))
