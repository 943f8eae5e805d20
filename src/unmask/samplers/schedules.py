"""Schedules: how many tokens each step reveals, as functions of the number of masks and of steps."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch


def even(masks: int, steps: int) -> list[int]:
    """Tokens to reveal in each step: `masks` spread evenly, at least one in each, over `steps` steps or fewer."""
    steps = min(steps, masks)
    return [masks * (step + 1) // steps - masks * step // steps for step in range(steps)]


def released(masks: int, steps: int, eps: float = 1e-5) -> list[int]:
    """Tokens to reveal in each step, by the released code: int(masks left * (1 - s / t)), and all the rest in the last.

    t is on a linear float32 grid from 1 to eps. The rounding leaves some steps empty.
    """
    times = torch.linspace(1, eps, steps + 1)
    counts: list[int] = []
    for t, s in itertools.pairwise(times[:-1]):
        counts.append(int((masks - sum(counts)) * (1 - s / t)))
    return [*counts, masks - sum(counts)]


SCHEDULES: dict[str, Callable[[int, int], list[int]]] = {"even": even, "released": released}
"""The schedules by name."""
