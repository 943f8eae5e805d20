"""The autoregressive sampler: masked positions from left to right, one network call each.

Over any `LogitsFn`: for an ARM this is its ordinary generation, for an MDM generation in that order. A causal network
offers `incremental` beside its `LogitsFn`, and each call then computes only what its cache does not hold.

Shapes: B rows, L positions, V vocabulary, R rows that have masks left, N tokens that a cache has not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from unmask.errors import UsageError
from unmask.logits_fn import LogitsFn
from unmask.samplers import noise
from unmask.samplers.canvas import Canvas, OnStep, Sampled

Extend = Callable[[Tensor], Tensor]
"""Takes the next N tokens (B, N) of each row, N from 0, and gives the logits (B, V) of the token after them."""


@runtime_checkable
class Incremental(Protocol):
    """A `LogitsFn` of a causal network with a cache of keys and values."""

    def incremental(self, rows: int, length: int) -> Extend:
        """Start an empty cache for `rows` rows of at most `length` tokens."""
        ...


@torch.no_grad()
def autoregressive(
    logits_fn: LogitsFn,
    tokens_BL: Tensor,
    *,
    mask_id: int,
    steps: int | None = None,
    temperature: float = 1.0,
    generator: torch.Generator | Sequence[torch.Generator],
    on_step: OnStep | None = None,
    top_k: int | None = None,
    top_p: float = 1.0,
    stop_id: int | None = None,
) -> Sampled:
    """Fill the masks from left to right; see `Sampler` for the arguments.

    Takes one step for each mask whatever `steps` says. `top_k` keeps the k likeliest tokens, then `top_p` the fewest of
    the likeliest that reach that probability. Once a row draws `stop_id`, its other masks get it too and cost nothing.
    Raises `UsageError` on a `top_k` below 1 or a `top_p` outside (0, 1].
    """
    if top_k is not None and top_k < 1:
        raise UsageError(f"top_k {top_k}: must be at least 1")
    if not 0 < top_p <= 1:
        raise UsageError(f"top_p {top_p}: must be more than 0 and at most 1")
    canvas = Canvas(logits_fn, tokens_BL, mask_id=mask_id, steps=steps, temperature=temperature, on_step=on_step)
    noise_BL = noise.uniform(noise.row_generators(generator, len(tokens_BL)), tokens_BL.shape[1], tokens_BL.device)
    drawn_B = torch.zeros_like(canvas.network_calls_B)

    def fill(rows_R: Tensor, select_RL: Tensor, logits_RV: Tensor) -> None:
        """Draw the one selected token of each row, and end the rows that draw the stop token."""
        uniform_R = noise_BL[rows_R][select_RL]
        tokens_R = noise.draw(logits_RV, uniform_R, temperature=temperature, top_k=top_k, top_p=top_p)
        canvas.reveal(rows_R, select_RL, tokens_R, noise.probability(logits_RV, tokens_R), drawn_B[rows_R, None])
        if stop_id is not None and (tokens_R == stop_id).any():
            ended_R = rows_R[tokens_R == stop_id]
            rest_RL = canvas.masked_BL[ended_R]
            stops_S = torch.full((int(rest_RL.sum()),), stop_id, device=tokens_BL.device)
            canvas.reveal(ended_R, rest_RL, stops_S, torch.ones_like(stops_S), drawn_B[ended_R, None])
        drawn_B[rows_R] += 1
        canvas.step_done()

    if isinstance(logits_fn, Incremental):
        _fill_cached(canvas, logits_fn, fill)
    else:
        while len(rows_R := canvas.masked_BL.any(dim=1).nonzero()[:, 0]):
            masked_RL = canvas.masked_BL[rows_R]
            select_RL = masked_RL & (masked_RL.cumsum(dim=1) == 1)
            fill(rows_R, select_RL, canvas.logits(rows_R, select_RL))
    return canvas.sampled()


def _fill_cached(canvas: Canvas, network: Incremental, fill: Callable[[Tensor, Tensor, Tensor], None]) -> None:
    """All rows move together, a column at a time; a row takes a drawn token or the one that it was given."""
    rows, length = canvas.tokens_BL.shape
    extend = network.incremental(rows, length)
    seen = 0
    for column in range(length):
        rows_R = canvas.masked_BL[:, column].nonzero()[:, 0]
        if not len(rows_R):
            continue
        logits_BV = extend(canvas.tokens_BL[:, seen:column])
        seen = column
        canvas.network_calls_B[rows_R] += 1
        select_RL = torch.zeros(len(rows_R), length, dtype=torch.bool, device=rows_R.device)
        select_RL[:, column] = True
        fill(rows_R, select_RL, canvas.allowed(logits_BV[rows_R]))
