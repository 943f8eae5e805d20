"""AdamW and the learning rate, with the paper's settings (Nie et al., 2025, appendix)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from unmask.config import RunConfig


def build_optimizer(model: nn.Module, run: RunConfig) -> torch.optim.AdamW:
    """Fused AdamW; weight decay on matrices (the embedding and head included), none on norms and biases."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": run.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=run.learning_rate, betas=(run.beta1, run.beta2), eps=1e-8, fused=True)


def learning_rate(run: RunConfig, step: int, steps: int) -> float:
    """The rate of `step` (from 0) of `steps`: linear warm-up, then a cosine to `final_learning_rate` of the peak."""
    warmup = run.warmup(steps)
    if step < warmup:
        return run.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return run.learning_rate * (run.final_learning_rate + (1 - run.final_learning_rate) * cosine)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def gradient_norm(model: nn.Module, clip: float) -> float:
    """The norm of the whole gradient, over all processes; the gradient is scaled to at most `clip` (0: left alone)."""
    norm: Tensor = nn.utils.clip_grad_norm_(model.parameters(), clip if clip > 0 else math.inf)
    full = getattr(norm, "full_tensor", None)  # a DTensor under FSDP
    return float((full() if full is not None else norm).item())
