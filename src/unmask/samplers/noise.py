"""Sampling noise: one uniform number per drawn token, turned into a token by the inverse of the distribution function.

The number has 53 bits. The weights are the float32 softmax, whose relative error of 1e-7 is below that of float32
logits; they are summed in two levels, blocks of 128 and tokens of one block, both in float64, so that a token has the
share of its weight however small. Noise that is added to the logits in float32 instead (Gumbel) cannot exceed 16.6 and
so lowers the effective temperature (Zheng et al., 2024, arXiv 2409.02908). The numbers come from a generator for each
row, so a row's noise does not depend on its batch.

Shapes: R rows, L positions, V vocabulary, S positions to draw, C of them at a time, N blocks of W tokens (the last
filled up).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from unmask import seeding
from unmask.errors import UnmaskError, UsageError, problems_error
from unmask.samplers import truncation

CPU_CHUNK = 2**18
"""Logits looked at together on a CPU: a megabyte, which stays in its cache from one pass to the next."""
CHUNK = 2**26
"""The same on a GPU, where it bounds the memory."""
BLOCK = 128
"""Tokens of one block of the two-level sum."""


class Drawn(NamedTuple):
    """Tokens, and how probable the network holds them."""

    tokens_S: Tensor
    probability_S: Tensor
    """Under the network's distribution as it is, at temperature 1 and with no token left out; float32."""


@dataclass(frozen=True)
class Draw:
    """How a token is drawn from logits: temperature, then top-k, top-p and min-p, in the usual order."""

    temperature: float = 1.0
    """0 takes the likeliest token."""
    top_k: int | None = None
    """Keep the k likeliest tokens."""
    top_p: float = 1.0
    """Then keep the fewest of the likeliest tokens that together reach this share of what is left."""
    min_p: float = 0.0
    """Then keep the tokens with at least this share of the likeliest one's probability."""

    def __post_init__(self) -> None:
        problems: list[str] = []
        if not 0 <= self.temperature < math.inf:
            problems.append(f"temperature {self.temperature} must be 0 (the likeliest token) or more, and finite")
        if self.top_k is not None and self.top_k < 1:
            problems.append(f"top_k {self.top_k} must be at least 1")
        if not 0 < self.top_p <= 1:
            problems.append(f"top_p {self.top_p} must be more than 0 and at most 1")
        if not 0 <= self.min_p <= 1:
            problems.append(f"min_p {self.min_p} must be from 0 to 1")
        if problems:
            raise problems_error("sampling", problems)

    def __call__(self, logits_SV: Tensor, uniform_S: Tensor) -> Drawn:
        """Draw a token from each row of `logits_SV` (float32) by the numbers `uniform_S` (float64, in [0, 1)).

        Raises `UnmaskError` on a row without any finite logit, or with nan.
        """
        parts = [
            self._draw(logits_CV, uniform_S[rows]) for rows, logits_CV in chunks(logits_SV)
        ]  # fmt: skip
        if not parts:
            return Drawn(torch.empty_like(uniform_S, dtype=torch.int64), torch.empty_like(uniform_S).float())
        return Drawn(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def _draw(self, logits_CV: Tensor, uniform_C: Tensor) -> Drawn:
        if self.temperature == 0:
            tokens_C = likeliest(logits_CV)
            return Drawn(tokens_C, probability(logits_CV, tokens_C))
        weights_CV = self._weights(logits_CV)
        if self._changes_weights:
            weights_CV = truncation.keep_likeliest(weights_CV, self.top_k, self.top_p, self.min_p)
        tokens_C = pick(weights_CV, uniform_C)
        if self.temperature == 1 and not self._changes_weights:
            return Drawn(tokens_C, weights_CV.gather(1, tokens_C[:, None])[:, 0])
        return Drawn(tokens_C, probability(logits_CV, tokens_C))

    def _weights(self, logits_CV: Tensor) -> Tensor:
        if self.temperature == 1:
            weights_CV = logits_CV.softmax(dim=1)
        else:
            top_C1 = blocks(logits_CV, -math.inf).amax(dim=(1, 2))[:, None]
            # below 1e-30 float32 has no number for it, and only the likeliest token has any weight left
            weights_CV = ((logits_CV - top_C1) / max(self.temperature, 1e-30)).softmax(dim=1)
        if weights_CV[:, 0].isnan().any():
            raise no_finite_logits()
        return weights_CV

    @property
    def _changes_weights(self) -> bool:
        return self.top_k is not None or self.top_p < 1 or self.min_p > 0


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


def uniform(generators: Sequence[torch.Generator], where_RL: Tensor) -> Tensor:
    """Numbers in [0, 1), float64 (R, L), where `where_RL` is true, and 0 elsewhere; each row from its own generator.

    A row's numbers depend on how many it needs and not on L, so it may be padded to the length of others.
    """
    counts = cast("list[int]", where_RL.sum(dim=1).tolist())
    rows = [
        torch.rand(count, dtype=torch.float64, generator=generator, device=generator.device).to(where_RL.device)
        for generator, count in zip(generators, counts, strict=True)
    ]
    noise_RL = torch.zeros(where_RL.shape, dtype=torch.float64, device=where_RL.device)
    if rows:
        noise_RL[where_RL] = torch.cat(rows)
    return noise_RL


def chunks(logits_SV: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Rows of `logits_SV` that are worth looking at together, and which they are."""
    limit = CPU_CHUNK if logits_SV.device.type == "cpu" else CHUNK
    size = max(1, limit // logits_SV.shape[1])
    for start in range(0, len(logits_SV), size):
        rows = slice(start, start + size)
        yield rows, logits_SV[rows]


def blocks(x_CV: Tensor, fill: float) -> Tensor:
    """`x_CV` cut into blocks (C, N, W), the last one filled up with `fill`; a view where nothing is missing."""
    width = min(BLOCK, x_CV.shape[1])
    missing = -x_CV.shape[1] % width
    padded_CV = F.pad(x_CV, (0, missing), value=fill) if missing else x_CV
    return padded_CV.reshape(len(x_CV), -1, width)


def likeliest(logits_CV: Tensor) -> Tensor:
    """The first of the likeliest tokens (C,) of each row. Raises `UnmaskError` on a row without a finite logit."""
    blocks_CNW = blocks(logits_CV, -math.inf)
    tops_CN = blocks_CNW.amax(dim=2)  # argmax over the vocabulary at once takes ten times as long
    block_C1 = tops_CN.argmax(dim=1, keepdim=True)
    if not tops_CN.gather(1, block_C1).isfinite().all():
        raise no_finite_logits()
    return block_C1[:, 0] * blocks_CNW.shape[2] + _block(blocks_CNW, block_C1).argmax(dim=1)


def pick(weights_CV: Tensor, uniform_C: Tensor) -> Tensor:
    """The token (C,) at `uniform_C` of the distribution function of `weights_CV`; never one of weight 0."""
    blocks_CNW = blocks(weights_CV, 0.0)
    cdf_CN = blocks_CNW.sum(dim=2, dtype=torch.float64).cumsum(dim=1)
    cdf_CN = cdf_CN / cdf_CN[:, -1:]  # ends in exactly 1
    uniform_C1 = uniform_C[:, None]
    block_C1 = torch.searchsorted(cdf_CN, uniform_C1, right=True)
    after_C1 = cdf_CN.gather(1, block_C1)
    before_C1 = cdf_CN.gather(1, (block_C1 - 1).clamp(min=0)).masked_fill(block_C1 == 0, 0)
    within_C1 = ((uniform_C1 - before_C1) / (after_C1 - before_C1)).clamp(max=1 - 2**-53)
    cdf_CW = _block(blocks_CNW, block_C1).cumsum(dim=1, dtype=torch.float64)
    cdf_CW = cdf_CW / cdf_CW[:, -1:]
    return (block_C1 * blocks_CNW.shape[2] + torch.searchsorted(cdf_CW, within_C1, right=True))[:, 0]


def probability(logits_SV: Tensor, tokens_S: Tensor) -> Tensor:
    """Probability (S,) of each token under its row of `logits_SV`, at temperature 1."""
    return logits_SV.softmax(dim=1).gather(1, tokens_S[:, None])[:, 0]  # one pass where logsumexp takes three


def no_finite_logits() -> UnmaskError:
    """The error for logits from which nothing can be drawn."""
    return UnmaskError("the network gives no finite logits: its weights are damaged or every token is suppressed")


def _block(blocks_CNW: Tensor, block_C1: Tensor) -> Tensor:
    """The block (C, W) of each row that `block_C1` names."""
    return blocks_CNW[torch.arange(len(blocks_CNW), device=blocks_CNW.device), block_C1[:, 0]]
