"""Truncated distributions: top-k, top-p (nucleus; Holtzman et al., 2020) and min-p (Nguyen et al., 2025).

The number of tokens to keep is found among the largest weights of each row, without a sort of the vocabulary. Of tokens
with equal weights the first ones are kept, so a row's result does not depend on its batch or on a device's order.

Shapes: C rows, V vocabulary, K largest weights looked at, R rows that a look has not settled.
"""

from __future__ import annotations

import torch
from torch import Tensor

FIRST_LOOK = 256
"""Largest weights that are looked at first to find how many reach top-p; eight times as many at each further look."""


def keep_likeliest(weights_CV: Tensor, top_k: int | None, top_p: float, min_p: float) -> Tensor:
    """`weights_CV` with 0 for the tokens that are left out; not normalised.

    `top_k` keeps the k likeliest, then `top_p` the fewest of the likeliest that reach that share of what is left, then
    `min_p` those of at least that share of the likeliest one's weight.
    """
    vocabulary = weights_CV.shape[1]
    if (top_k is not None and top_k < vocabulary) or top_p < 1:
        count_C, smallest_C = _kept(weights_CV, min(top_k or vocabulary, vocabulary), top_p)
        weights_CV = _keep(weights_CV, count_C, smallest_C)
    if min_p > 0:
        weights_CV = weights_CV.masked_fill(weights_CV < min_p * weights_CV.amax(dim=1, keepdim=True), 0)
    return weights_CV


def _kept(weights_CV: Tensor, top_k: int, top_p: float) -> tuple[Tensor, Tensor]:
    """How many of its likeliest tokens each row keeps (C,), and the smallest weight among them (C,)."""
    rows, vocabulary = weights_CV.shape
    count_C = torch.full((rows,), top_k, device=weights_CV.device)
    smallest_C = torch.zeros(rows, dtype=weights_CV.dtype, device=weights_CV.device)
    total_C = None if top_k < vocabulary else weights_CV.sum(dim=1, dtype=torch.float64)
    open_R = torch.arange(rows, device=weights_CV.device)
    look = top_k if top_k < vocabulary else min(FIRST_LOOK, vocabulary)
    while True:
        sorted_RK = weights_CV[open_R].topk(look, dim=1).values
        cdf_RK = sorted_RK.cumsum(dim=1, dtype=torch.float64)
        total_R1 = cdf_RK[:, -1:] if total_C is None else total_C[open_R, None]
        before_RK = cdf_RK - sorted_RK
        reached_R = (before_RK < top_p * total_R1).sum(dim=1).clamp(min=1)  # a row of one token has rounding alone
        count_C[open_R] = reached_R
        smallest_C[open_R] = sorted_RK.gather(1, reached_R[:, None] - 1)[:, 0]
        if look >= top_k:
            return count_C, smallest_C
        open_R = open_R[reached_R == look]
        if not len(open_R):
            return count_C, smallest_C
        look = min(8 * look, top_k)


def _keep(weights_CV: Tensor, count_C: Tensor, smallest_C: Tensor) -> Tensor:
    """Keep what weighs more than `smallest_C`, and of what weighs just that the first ones, `count_C` in all."""
    kept_CV = weights_CV >= smallest_C[:, None]
    excess_C = kept_CV.sum(dim=1) > count_C
    if excess_C.any():
        tied_RV = weights_CV[excess_C] == smallest_C[excess_C, None]
        more_RV = kept_CV[excess_C] & ~tied_RV
        room_R1 = count_C[excess_C, None] - more_RV.sum(dim=1, keepdim=True)
        kept_CV[excess_C] = more_RV | (tied_RV & (tied_RV.cumsum(dim=1) <= room_R1))
    return weights_CV.masked_fill(~kept_CV, 0)
