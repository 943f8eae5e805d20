"""Samplers that reveal a scheduled number of tokens per step, those first of which the network is most certain.

`confidence` is the paper's greedy sampler (Nie et al., 2025, section 2; MaskGIT, Chang et al., 2022): the drawn token's
probability. `margin` judges a position by the lead of its likeliest token over the second instead (Kim et al., 2025,
arXiv 2502.06768), which tells a position with one good token from one with two.

Shapes: B rows, L positions, V vocabulary, S masked positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unmask.logits_fn import LogitsFn
from unmask.samplers import noise
from unmask.samplers.canvas import Canvas, OnStep, Sampled
from unmask.samplers.noise import Drawn
from unmask.samplers.ranked import Scheduled, fill_ranked


@torch.no_grad()
def confidence(
    logits_fn: LogitsFn,
    tokens_BL: Tensor,
    *,
    mask_id: int,
    steps: int | None = None,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    min_p: float = 0.0,
    generator: torch.Generator | Sequence[torch.Generator],
    on_step: OnStep | None = None,
    schedule: str = "even",
) -> Sampled:
    """Fill the masks, the most certain first; see `Sampler` for the arguments.

    `schedule` is a name in `SCHEDULES`; a step that it leaves empty costs no network call. Raises `UsageError` on an
    unknown one.
    """
    draw = noise.Draw(temperature, top_k, top_p, min_p)
    canvas = Canvas(logits_fn, tokens_BL, mask_id=mask_id, steps=steps, draw=draw, on_step=on_step)
    generators = noise.row_generators(generator, len(tokens_BL))
    rule = Scheduled(schedule, canvas.masked_BL.sum(dim=1), steps)
    return fill_ranked(canvas, generators, judge=drawn_probability, rule=rule)


@torch.no_grad()
def margin(
    logits_fn: LogitsFn,
    tokens_BL: Tensor,
    *,
    mask_id: int,
    steps: int | None = None,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    min_p: float = 0.0,
    generator: torch.Generator | Sequence[torch.Generator],
    on_step: OnStep | None = None,
    schedule: str = "even",
) -> Sampled:
    """Fill the masks, those with the clearest favourite first; arguments and errors as `confidence`."""
    draw = noise.Draw(temperature, top_k, top_p, min_p)
    canvas = Canvas(logits_fn, tokens_BL, mask_id=mask_id, steps=steps, draw=draw, on_step=on_step)
    generators = noise.row_generators(generator, len(tokens_BL))
    rule = Scheduled(schedule, canvas.masked_BL.sum(dim=1), steps)
    return fill_ranked(canvas, generators, judge=lead, rule=rule)


def drawn_probability(logits_SV: Tensor, drawn: Drawn) -> Tensor:
    """The probability of the drawn token."""
    return drawn.probability_S


def lead(logits_SV: Tensor, drawn: Drawn) -> Tensor:
    """By how much the likeliest token's probability exceeds the second's; 1 where there is one token alone."""
    parts: list[Tensor] = []
    for _, logits_CV in noise.chunks(logits_SV):
        if logits_CV.shape[1] == 1:
            parts.append(torch.ones_like(logits_CV[:, 0]))
            continue
        top_C2 = (logits_CV.topk(2, dim=1).values - logits_CV.logsumexp(dim=1, keepdim=True)).exp()
        parts.append(top_C2[:, 0] - top_C2[:, 1])
    return torch.cat(parts)
