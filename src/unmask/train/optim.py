"""AdamW and the learning rate, with the paper's settings (Nie et al., 2025, appendix)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from unmask.config import RunConfig
from unmask.parametrization import STANDARD, Parametrization

EPS = 1e-8
RATE_SCALE = "rate_scale"
"""Key of a group's factor of the learning rate; without it 1."""


def build_optimizer(model: nn.Module, run: RunConfig, parametrization: Parametrization = STANDARD) -> torch.optim.AdamW:
    """Fused AdamW over what is trained; weight decay on matrices (embedding and head too), none on norms and biases.

    One group for all parameters to which the `parametrization` gives the same factors.
    """
    groups: dict[tuple[float, float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        scale = parametrization.scale(name)
        decay = run.weight_decay * scale.weight_decay if parameter.ndim >= 2 else 0.0
        group: dict[str, Any] = {
            "params": [],
            "weight_decay": decay,
            "eps": EPS * scale.eps,
            RATE_SCALE: scale.learning_rate,
        }
        if scale.learning_rate == 1:
            del group[RATE_SCALE]
        groups.setdefault((decay, scale.eps, scale.learning_rate), group)["params"].append(parameter)
    return torch.optim.AdamW(list(groups.values()), lr=run.learning_rate, betas=(run.beta1, run.beta2), fused=True)


def learning_rate(run: RunConfig, step: int, steps: int) -> float:
    """The rate of `step` (from 0) of `steps`: linear warm-up, then a cosine to `final_learning_rate` of the peak."""
    warmup = run.warmup(steps)
    if step < warmup:
        return run.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return run.learning_rate * (run.final_learning_rate + (1 - run.final_learning_rate) * cosine)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate of every group, times the group's own factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get(RATE_SCALE, 1.0)


def gradient_norm(model: nn.Module, clip: float) -> float:
    """The norm of the whole gradient, over all processes; the gradient is scaled to at most `clip` (0: left alone)."""
    norm: Tensor = nn.utils.clip_grad_norm_(model.parameters(), clip if clip > 0 else math.inf)
    full = getattr(norm, "full_tensor", None)  # a DTensor under FSDP
    return float((full() if full is not None else norm).item())
