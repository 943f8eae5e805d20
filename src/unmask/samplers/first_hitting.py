"""The first-hitting sampler: the reverse process in continuous time, exactly (Zheng et al., 2025, arXiv 2409.02908).

With n positions masked, the next one is hit at a time that is the largest of n uniform numbers times the last one, and
it is any of the n with equal probability. The network has no time input, so the times can be left out, and what
remains is the limit of ancestral sampling in infinitely many steps: one position after the other in a uniformly random
order, with one network call each.

Shapes: B rows, L positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unmask.logits_fn import LogitsFn
from unmask.samplers import noise
from unmask.samplers.ancestral import reveal_in_turn
from unmask.samplers.canvas import Canvas, OnStep, Sampled


@torch.no_grad()
def first_hitting(
    logits_fn: LogitsFn,
    tokens_BL: Tensor,
    *,
    mask_id: int,
    steps: int | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    min_p: float = 0.0,
    generator: torch.Generator | Sequence[torch.Generator],
    on_step: OnStep | None = None,
) -> Sampled:
    """Fill the masks one at a time in a random order; see `Sampler` for the arguments.

    With fewer `steps` than masks, as many consecutive positions of the order are revealed together as are needed: the
    times of that many hits instead of a grid, so that no step is empty. That is exact only where those positions do
    not depend on one another.
    """
    draw = noise.Draw(temperature, top_k, top_p, min_p)
    canvas = Canvas(logits_fn, tokens_BL, mask_id=mask_id, steps=steps, draw=draw, on_step=on_step)
    generators = noise.row_generators(generator, len(tokens_BL))
    order_noise_BL = noise.uniform(generators, canvas.masked_BL)
    hit_BL = order_noise_BL.masked_fill(~canvas.masked_BL, 2).argsort(dim=1, stable=True).argsort(dim=1)
    return reveal_in_turn(canvas, _shared_steps(hit_BL, canvas.masked_BL.sum(dim=1, keepdim=True), steps), generators)


def _shared_steps(hit_BL: Tensor, masks_B1: Tensor, steps: int | None) -> Tensor:
    """The step of each hit number: one each, or spread evenly over `steps`."""
    if steps is None:
        return hit_BL
    steps_B1 = masks_B1.clamp(max=steps)
    return (((hit_BL + 1) * steps_B1 - 1) // masks_B1.clamp(min=1)).clamp(min=0)
