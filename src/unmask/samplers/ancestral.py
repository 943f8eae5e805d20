"""The ancestral sampler: the reverse process itself (Nie et al., 2025, section 2).

From t to s < t a masked token stays masked with probability s / t and is otherwise drawn from the network's
distribution, on a linear grid of t from 1 to eps; the last step reveals what is left. The chance to be still masked at
t is the product of those ratios, t itself, so one uniform number fixes a position's step beforehand. Steps that reveal
nothing are then known, and cost nothing.

Shapes: B rows, L positions, R rows that reveal something.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unmask.logits_fn import LogitsFn
from unmask.samplers import noise
from unmask.samplers.canvas import Canvas, OnStep, Sampled


@torch.no_grad()
def ancestral(
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
    eps: float = 1e-5,
) -> Sampled:
    """Fill the masks in `steps` steps of the reverse process; see `Sampler` for the arguments.

    Rows do not wait for each other: each goes from one step in which it reveals something to its next.
    """
    draw = noise.Draw(temperature, top_k, top_p, min_p)
    canvas = Canvas(logits_fn, tokens_BL, mask_id=mask_id, steps=steps, draw=draw, on_step=on_step)
    generators = noise.row_generators(generator, len(tokens_BL))
    reveal_noise_BL = noise.uniform(generators, canvas.masked_BL)
    masks_B1 = canvas.masked_BL.sum(dim=1, keepdim=True)
    steps_B1 = masks_B1 if steps is None else torch.full_like(masks_B1, steps)
    return reveal_in_turn(canvas, reveal_steps(reveal_noise_BL, steps_B1, eps), generators)


def reveal_in_turn(canvas: Canvas, step_BL: Tensor, generators: Sequence[torch.Generator]) -> Sampled:
    """Reveal each masked position in the step that `step_BL` gives; one network call for each step of a row in use."""
    token_noise_BL = noise.uniform(generators, canvas.masked_BL)
    turn_BL = turns(step_BL, canvas.masked_BL)
    for turn in range(1, int(turn_BL.max()) + 1 if turn_BL.numel() else 1):
        rows_R = (turn_BL == turn).any(dim=1).nonzero()[:, 0]
        select_RL = turn_BL[rows_R] == turn
        drawn = canvas.draw(canvas.logits(rows_R, select_RL), token_noise_BL[rows_R][select_RL])
        canvas.reveal(rows_R, select_RL, drawn, step_BL[rows_R])
        canvas.step_done()
    return canvas.sampled()


def reveal_steps(uniform_BL: Tensor, steps_B1: Tensor, eps: float) -> Tensor:
    """The step (B, L) of each position: the k with t_(k+1) <= u < t_k; below eps the last.

    t_k = 1 - k (1 - eps) / steps.
    """
    step_BL = ((1 - uniform_BL) * steps_B1 / (1 - eps)).ceil().long() - 1
    return step_BL.minimum(steps_B1 - 1).clamp(min=0)


def turns(step_BL: Tensor, masked_BL: Tensor) -> Tensor:
    """Number the steps in which a row reveals something 1, 2, ... (B, L); 0 where nothing is masked."""
    sorted_BL, order_BL = step_BL.masked_fill(~masked_BL, -1).sort(dim=1)
    given_B1 = torch.full_like(sorted_BL[:, :1], -1)
    turn_BL = (sorted_BL.diff(dim=1, prepend=given_B1) > 0).cumsum(dim=1)
    return torch.zeros_like(step_BL).scatter(1, order_BL, turn_BL)
