"""The confidence sampler: reveal the masked positions of which the network is most certain first.

The paper's greedy sampler (Nie et al., 2025, section 2; MaskGIT, Chang et al., 2022). In each step a token is drawn at
every masked position, and those with the highest probability are kept. Unlike the released code, which pools the
confidences of a batch, each row is on its own.

Shapes: B rows, L positions, V vocabulary, R rows that are not full yet, S masked positions in them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor

from unmask.errors import unknown_name
from unmask.logits_fn import LogitsFn
from unmask.samplers import noise
from unmask.samplers.canvas import Canvas, OnStep, Sampled


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
"""How many tokens each step reveals, by name: functions of the number of masks and of steps."""


@torch.no_grad()
def confidence(
    logits_fn: LogitsFn,
    tokens_BL: Tensor,
    *,
    mask_id: int,
    steps: int | None = None,
    temperature: float = 0.0,
    generator: torch.Generator | Sequence[torch.Generator],
    on_step: OnStep | None = None,
    schedule: str = "even",
) -> Sampled:
    """Fill the masks, the most certain first; see `Sampler` for the arguments.

    `schedule` is a name in `SCHEDULES`; a step that it leaves empty costs no network call. Raises `UsageError` on an
    unknown one.
    """
    if schedule not in SCHEDULES:
        raise unknown_name("schedule", schedule, SCHEDULES)
    canvas = Canvas(logits_fn, tokens_BL, mask_id=mask_id, steps=steps, temperature=temperature, on_step=on_step)
    generators = noise.row_generators(generator, len(tokens_BL))
    length, device = tokens_BL.shape[1], tokens_BL.device
    masks_B = cast("list[int]", canvas.masked_BL.sum(dim=1).tolist())
    plans = [_busy_steps(SCHEDULES[schedule], masks, steps) for masks in masks_B]

    for turn in range(max(map(len, plans), default=0)):
        rows = [row for row, plan in enumerate(plans) if turn < len(plan)]
        rows_R = torch.tensor(rows, device=device)
        step_R1, count_R1 = torch.tensor([plans[row][turn] for row in rows], device=device).T[..., None]
        masked_RL = canvas.masked_BL[rows_R]
        logits_SV = canvas.logits(rows_R, masked_RL)
        noise_RL = noise.uniform([generators[row] for row in rows], length, device)
        drawn_S = noise.draw(logits_SV, noise_RL[masked_RL], temperature=temperature)
        certain_S = noise.probability(logits_SV, drawn_S)

        certain_RL = torch.full(masked_RL.shape, -math.inf, device=device).masked_scatter(masked_RL, certain_S)
        rank_RL = certain_RL.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        reveal_RL = rank_RL < count_R1
        kept_S = reveal_RL[masked_RL]
        canvas.reveal(rows_R, reveal_RL, drawn_S[kept_S], certain_S[kept_S], step_R1)
        canvas.step_done()
    return canvas.sampled()


def _busy_steps(schedule: Callable[[int, int], list[int]], masks: int, steps: int | None) -> list[tuple[int, int]]:
    """(step, tokens to reveal) for the steps that reveal something."""
    if masks == 0:
        return []
    return [(step, count) for step, count in enumerate(schedule(masks, steps or masks)) if count]
