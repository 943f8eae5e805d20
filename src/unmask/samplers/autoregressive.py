"""The autoregressive sampler: masked positions from left to right, one network call each.

Over any `LogitsFn`: for an ARM this is its ordinary generation, for an MDM generation in that order. A causal network
offers `incremental` beside its `LogitsFn`, and each call then computes only what its cache does not hold.

Shapes: B rows, L positions, V vocabulary, R rows that have masks left, K rows that the cache still holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from unmask.logits_fn import Cache, LogitsFn, incremental, network_calls
from unmask.samplers import noise
from unmask.samplers.canvas import Canvas, OnStep, Sampled


@torch.no_grad()
def autoregressive(
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
    stop_id: int | None = None,
) -> Sampled:
    """Fill the masks from left to right; see `Sampler` for the arguments.

    Takes one step for each mask whatever `steps` says. Once a row draws `stop_id`, its other masks get it too and cost
    nothing: the row leaves the batch.
    """
    draw = noise.Draw(temperature, top_k, top_p, min_p)
    canvas = Canvas(logits_fn, tokens_BL, mask_id=mask_id, steps=steps, draw=draw, on_step=on_step)
    noise_BL = noise.uniform(noise.row_generators(generator, len(tokens_BL)), canvas.masked_BL)
    drawn_B = torch.zeros_like(canvas.network_calls_B)

    def fill(rows_R: Tensor, select_RL: Tensor, logits_RV: Tensor) -> None:
        """Draw the one selected token of each row, and end the rows that draw the stop token."""
        drawn = canvas.draw(logits_RV, noise_BL[rows_R][select_RL])
        canvas.reveal(rows_R, select_RL, drawn, drawn_B[rows_R, None])
        if stop_id is not None and (drawn.tokens_S == stop_id).any():
            canvas.stop(rows_R[drawn.tokens_S == stop_id], stop_id, drawn_B[:, None])
        drawn_B[rows_R] += 1
        canvas.step_done()

    # a row without masks is not part of it, and what is behind a row's last mask does not matter to it
    rows_K = canvas.masked_BL.any(dim=1).nonzero()[:, 0]
    cache = incremental(logits_fn, len(rows_K), tokens_BL.shape[1]) if len(rows_K) else None
    if cache is not None:
        calls_K = network_calls(logits_fn, tokens_BL)[rows_K]
        _fill_cached(canvas, cache, rows_K, calls_K, fill)
    while len(rows_R := canvas.masked_BL.any(dim=1).nonzero()[:, 0]):
        masked_RL = canvas.masked_BL[rows_R]
        select_RL = masked_RL & (masked_RL.cumsum(dim=1) == 1)
        fill(rows_R, select_RL, canvas.logits(rows_R, select_RL))
    return canvas.sampled()


def _fill_cached(
    canvas: Canvas, cache: Cache, rows_K: Tensor, calls_K: Tensor, fill: Callable[[Tensor, Tensor, Tensor], None]
) -> None:
    """All rows move together, a column at a time; a row takes a drawn token or the one that it was given."""
    length = canvas.tokens_BL.shape[1]
    seen = 0
    for column in range(length):
        left_K = canvas.masked_BL[rows_K].any(dim=1)
        if not left_K.all():  # the rows that are full leave the batch
            cache.keep(left_K.nonzero()[:, 0])
            rows_K, calls_K = rows_K[left_K], calls_K[left_K]
        if not len(rows_K):
            return
        due_K = canvas.masked_BL[rows_K, column]
        if not due_K.any():
            continue
        logits_KV = cache(canvas.tokens_BL[rows_K, seen:column])
        seen = column
        rows_R = rows_K[due_K]
        canvas.network_calls_B[rows_R] += calls_K[due_K]
        select_RL = torch.zeros(len(rows_R), length, dtype=torch.bool, device=rows_R.device)
        select_RL[:, column] = True
        fill(rows_R, select_RL, canvas.allowed(logits_KV[due_K]))
