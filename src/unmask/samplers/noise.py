"""Sampling noise: one uniform number per drawn token, turned into a token by the inverse of the distribution function.

The number has 53 bits and the sum runs in float64, so the share of a token is right to V rounding errors of 1e-16.
Noise that is added to the logits in float32 instead (Gumbel) cannot exceed 16.6 and so lowers the effective temperature
(Zheng et al., 2024, arXiv 2409.02908). The numbers come from a generator for each row, so a row's noise does not depend
on its batch.

Shapes: V vocabulary, S positions to draw, C of them at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unmask import seeding
from unmask.errors import UsageError

CHUNK = 2**24
"""Probabilities held in float64 at a time."""


def row_generators(generator: torch.Generator | Sequence[torch.Generator], rows: int) -> list[torch.Generator]:
    """One generator for each row: those given, or children of the one given that depend on the row's index alone.

    Deriving children advances the one given, so that its next use differs. Raises `UsageError` on a wrong number.
    """
    if isinstance(generator, torch.Generator):
        seed = int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device))
        return [seeding.generator(seed, "row", row) for row in range(rows)]
    if len(generator) != rows:
        raise UsageError(f"{len(generator)} generators for {rows} rows: give one, or one for each row")
    return list(generator)


def uniform(generators: Sequence[torch.Generator], length: int, device: torch.device) -> Tensor:
    """Numbers in [0, 1), float64 (rows, length), each row from its own generator."""
    rows = [torch.rand(length, dtype=torch.float64, generator=g, device=g.device).to(device) for g in generators]
    return torch.stack(rows) if rows else torch.empty(0, length, dtype=torch.float64, device=device)


def draw(
    logits_SV: Tensor, uniform_S: Tensor, *, temperature: float, top_k: int | None = None, top_p: float = 1.0
) -> Tensor:
    """Draw a token (S,) from each row of `logits_SV`, by the numbers `uniform_S`; the likeliest at temperature 0.

    `top_k` keeps the k likeliest tokens, then `top_p` the fewest of the likeliest that together reach that probability.
    """
    if temperature == 0:
        return logits_SV.argmax(dim=1)
    size = max(1, CHUNK // logits_SV.shape[1])
    tokens: list[Tensor] = []
    for start in range(0, len(logits_SV), size):
        logits_CV, uniform_C = logits_SV[start : start + size], uniform_S[start : start + size]
        scaled_CV = (logits_CV.double() - logits_CV.amax(dim=1, keepdim=True)) / temperature
        probs_CV = _keep_likeliest(scaled_CV.softmax(dim=1), top_k, top_p)
        cdf_CV = probs_CV.cumsum(dim=1)
        cdf_CV = cdf_CV / cdf_CV[:, -1:]  # ends in exactly 1, so a token of probability 0 is never reached
        tokens.append(torch.searchsorted(cdf_CV, uniform_C[:, None], right=True)[:, 0])
    return torch.cat(tokens)


def probability(logits_SV: Tensor, tokens_S: Tensor) -> Tensor:
    """Probability (S,) of each token under its row of `logits_SV`, at temperature 1."""
    chosen_S = logits_SV.gather(1, tokens_S[:, None])[:, 0]
    return (chosen_S - logits_SV.logsumexp(dim=1)).exp()


def _keep_likeliest(probs_SV: Tensor, top_k: int | None, top_p: float) -> Tensor:
    if top_k is None and top_p >= 1:
        return probs_SV
    sorted_SV, order_SV = probs_SV.sort(dim=1, descending=True, stable=True)
    if top_k is not None:
        sorted_SV[:, top_k:] = 0
    if top_p < 1:
        before_SV = sorted_SV.cumsum(dim=1) - sorted_SV
        sorted_SV = sorted_SV.masked_fill(before_SV >= top_p * sorted_SV.sum(dim=1, keepdim=True), 0)
    return torch.zeros_like(probs_SV).scatter(1, order_SV, sorted_SV)
