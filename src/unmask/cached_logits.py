"""Networks without a growing cache as `LogitsFn`s that compute only what has changed.

In a block-causal network a block sees itself and those before it: what it computed for a block stays right while
neither that block nor one before it changes. `BlockCausalLogits` computes from the first block that has changed to the
last that is asked for, and is exact.

In a bidirectional network every position sees every other, so that one revealed token changes all. `ApproximateLogits`
computes some positions alone and takes the keys and values of the others as they were, which change slowly (Fast-dLLM,
Wu et al., 2025, arXiv 2505.22618; dKV-Cache, Ma et al., 2025, arXiv 2505.15781):

- `prefix`: everything from the first position that is asked for;
- `block`: the positions that are asked for, and those that have changed since, once.

Everything is computed anew after a number of changed tokens, which are what puts the others out of date. Each time, the
cached logits are compared with the new, exact ones: the drift, the Kullback-Leibler divergence from the one to the
other. With a limit to it, each row's interval adapts.

Shapes: B rows of a call, L positions, S selected positions, V vocabulary, C rows that the cache has, in which a row of
the batch has one place for each time that it occurs in a call (under guidance with and without its prompt).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from unmask.errors import UsageError, unknown_name
from unmask.kv_cache import PositionCache
from unmask.logits_fn import PADDING
from unmask.model import Transformer

STRATEGIES = ("prefix", "block")
NEVER = -9
"""Stands for the token of a position of which nothing is known."""
LONGEST_INTERVAL = 64


@dataclass(frozen=True)
class CacheReport:
    """What a cache saved, and what it cost."""

    computed_share: float
    """Positions that were computed, of those that would have been without a cache."""
    refreshes: int
    """Times that a row was computed whole, the first aside."""
    exact: bool
    """Whether the logits are those without a cache; else they are an approximation."""
    drift: float | None
    """Mean divergence in nats, per position, of cached from exact distributions; None where none was measured."""
    largest_drift: float | None
    """The same, of the row and time where it was largest."""


class _Rows:
    """What is known of the rows of a batch: keys, values, and the tokens that they were computed from."""

    def __init__(self, model: Transformer, rows: int, length: int) -> None:
        self.model = model
        self.device = next(model.parameters()).device
        self.batch_rows, self.length = rows, length
        self.cache = PositionCache(model.config, rows, length, device=self.device)
        self.tokens_CL = torch.full((rows, length), NEVER, device=self.device)
        self.computed, self.uncached = 0, 0

    def places(self, rows_B: Tensor) -> Tensor:
        """The place (B,) in the cache of each row of a call, which makes room for those that occur again."""
        again_B = (rows_B[:, None] == rows_B).tril(-1).sum(dim=1)
        place_B = rows_B + again_B * self.batch_rows
        needed = int(place_B.max()) + 1 if len(place_B) else 0
        if needed > self.cache.rows:
            missing = -(-needed // self.batch_rows) * self.batch_rows - self.cache.rows
            self.cache.grow(missing)
            self.grown(missing)
        return place_B

    def grown(self, rows: int) -> None:
        """Make room for `rows` more rows."""
        self.tokens_CL = torch.cat([self.tokens_CL, torch.full_like(self.tokens_CL[:1], NEVER).expand(rows, -1)])

    def recompute(self, tokens_BL: Tensor, compute_BL: Tensor, select_BL: Tensor, place_B: Tensor) -> Tensor:
        """Logits (S, V) of the selected positions; notes what was computed."""
        there_BL = tokens_BL != PADDING
        present_BL = None if there_BL.all() else there_BL
        logits_SV = self.model.recompute(
            tokens_BL, compute_BL, select_BL, self.cache.at_rows(place_B), present_BL=present_BL
        )
        row_N, position_N = compute_BL.nonzero(as_tuple=True)
        self.tokens_CL[place_B[row_N], position_N] = tokens_BL[row_N, position_N]
        self.computed += len(row_N)
        return logits_SV

    @property
    def computed_share(self) -> float:
        """Positions that were computed, of those that would have been without a cache."""
        return self.computed / self.uncached if self.uncached else math.nan


class _Cached:
    """A `LogitsFn` over `_Rows`, for all rows of their batch or for some."""

    def __init__(self, known: _Rows, rows_R: Tensor | None = None) -> None:
        self.known = known
        self.rows_R = rows_R

    def _rows(self, tokens_BL: Tensor) -> Tensor:
        known = self.known
        if tokens_BL.shape[1] > known.length:
            raise UsageError(f"{tokens_BL.shape[1]} positions: the cache was made for {known.length}")
        if self.rows_R is not None:
            return self.rows_R.to(known.device)
        return torch.arange(len(tokens_BL), device=known.device)


class BlockCausalLogits(_Cached):
    """A block-causal network as a `LogitsFn`, exact, computing what has changed. Made for one batch."""

    @classmethod
    def of(cls, model: Transformer, rows: int, length: int) -> BlockCausalLogits:
        """For a batch of `rows` rows of `length` positions; `model` must be block-causal."""
        assert model.config.block_length
        return cls(_Rows(model, rows, length))

    @property
    def block_length(self) -> int:
        """Length of the network's blocks."""
        return self.known.model.config.block_length

    def at_rows(self, rows_R: Tensor, /) -> BlockCausalLogits:
        """The same for a batch made of these rows, which shares what is known."""
        return BlockCausalLogits(self.known, rows_R if self.rows_R is None else self.rows_R[rows_R])

    @torch.no_grad()
    def __call__(self, tokens_BL: Tensor, select_BL: Tensor | None = None, /) -> Tensor:
        """Logits (B, L, V), or (S, V) of the selected positions."""
        rows, length = tokens_BL.shape
        if select_BL is None:
            return self(tokens_BL, torch.ones_like(tokens_BL, dtype=torch.bool)).view(rows, length, -1)
        known, block = self.known, self.block_length
        place_B = known.places(self._rows(tokens_BL))
        position_L = torch.arange(length, device=known.device)
        changed_BL = known.tokens_CL[place_B, :length] != tokens_BL
        from_B1 = torch.where(changed_BL, position_L, length).amin(dim=1, keepdim=True) // block * block
        upto_B1 = torch.where(select_BL, position_L // block * block + block, 0).amax(dim=1, keepdim=True)
        stale_BL = position_L >= from_B1
        compute_BL = (stale_BL & (position_L < upto_B1) & (tokens_BL != PADDING)) | select_BL
        known.uncached += rows * length
        logits_SV = known.recompute(tokens_BL, compute_BL, select_BL, place_B)
        row_N, position_N = (stale_BL & ~compute_BL).nonzero(as_tuple=True)
        known.tokens_CL[place_B[row_N], position_N] = NEVER
        known.tokens_CL[place_B, length:] = NEVER  # computed from blocks that may have changed
        return logits_SV

    def report(self) -> CacheReport:
        """What the cache saved; it does not drift."""
        return CacheReport(self.known.computed_share, 0, exact=True, drift=0.0, largest_drift=0.0)


class _Drifting(_Rows):
    """Rows whose keys and values may be out of date, and by how much."""

    def __init__(self, model: Transformer, rows: int, length: int, refresh: int) -> None:
        super().__init__(model, rows, length)
        self.refresh = refresh
        self.interval_C = torch.full((rows,), refresh, device=self.device)
        self.changes_C = torch.zeros(rows, dtype=torch.int64, device=self.device)
        """Tokens that have changed since all was computed."""
        self.refreshes = 0
        self.drifts: list[Tensor] = []

    def grown(self, rows: int) -> None:
        super().grown(rows)
        self.interval_C = torch.cat([self.interval_C, torch.full_like(self.interval_C[:1], self.refresh).expand(rows)])
        self.changes_C = torch.cat([self.changes_C, torch.zeros_like(self.changes_C[:1]).expand(rows)])


class ApproximateLogits(_Cached):
    """A bidirectional network as a `LogitsFn` that takes keys and values as they were. Made for one batch.

    It is an approximation: `report()` says how far it went from the exact logits.
    """

    known: _Drifting

    def __init__(
        self, known: _Drifting, strategy: str, drift_limit: float | None, rows_R: Tensor | None = None
    ) -> None:
        super().__init__(known, rows_R)
        self.strategy = strategy
        self.drift_limit = drift_limit

    @classmethod
    def of(
        cls,
        model: Transformer,
        rows: int,
        length: int,
        *,
        strategy: str = "block",
        refresh: int = 16,
        drift_limit: float | None = None,
    ) -> ApproximateLogits:
        """For a batch of `rows` rows of `length` positions.

        `strategy` is one of `STRATEGIES`. `refresh` is the number of changed tokens after which a row is computed
        whole; 1 is exact. With a `drift_limit` in nats per position a row's number is halved where it was exceeded, and
        doubled where it was not half reached. Raises `UsageError` on an unknown strategy or a number out of range.
        """
        if strategy not in STRATEGIES:
            raise unknown_name("cache", strategy, STRATEGIES)
        if refresh < 1:
            raise UsageError(f"refresh {refresh}: must be at least 1 (after each change, which is exact)")
        if drift_limit is not None and not 0 < drift_limit < math.inf:
            raise UsageError(f"drift_limit {drift_limit}: must be a positive number of nats")
        return cls(_Drifting(model, rows, length, refresh), strategy, drift_limit)

    def at_rows(self, rows_R: Tensor, /) -> ApproximateLogits:
        """The same for a batch made of these rows, which shares what is known."""
        rows_R = rows_R if self.rows_R is None else self.rows_R[rows_R]
        return ApproximateLogits(self.known, self.strategy, self.drift_limit, rows_R)

    @torch.no_grad()
    def __call__(self, tokens_BL: Tensor, select_BL: Tensor | None = None, /) -> Tensor:
        """Logits (B, L, V), exact, or (S, V) of the selected positions, approximate."""
        rows, length = tokens_BL.shape
        if select_BL is None:
            return self(tokens_BL, torch.ones_like(tokens_BL, dtype=torch.bool)).view(rows, length, -1)
        known = self.known
        place_B = known.places(self._rows(tokens_BL))
        there_BL = tokens_BL != PADDING
        seen_BL = known.tokens_CL[place_B, :length]
        new_B = ((seen_BL == NEVER) & there_BL).any(dim=1)
        changed_BL = (seen_BL != tokens_BL) & there_BL
        changes_B = known.changes_C[place_B] + changed_BL.sum(dim=1)
        whole_B = new_B | (changes_B >= known.interval_C[place_B])

        partial_BL = select_BL | changed_BL
        if self.strategy == "prefix":
            partial_BL |= (select_BL.cumsum(dim=1) > 0) & there_BL
        measured_B = whole_B & ~new_B
        before_SV = self._measured(tokens_BL, partial_BL, select_BL, place_B, measured_B)
        compute_BL = torch.where(whole_B[:, None], there_BL, partial_BL)
        known.uncached += rows * length
        logits_SV = known.recompute(tokens_BL, compute_BL, select_BL, place_B)
        if before_SV is not None:
            self._note_drift(logits_SV, before_SV, select_BL, place_B, measured_B)
        known.refreshes += int(measured_B.sum())
        known.changes_C[place_B] = changes_B.masked_fill(whole_B, 0)
        return logits_SV

    def report(self) -> CacheReport:
        """What the cache saved, and how far it drifted."""
        known = self.known
        drift_M = torch.cat(known.drifts) if known.drifts else None
        return CacheReport(
            known.computed_share,
            known.refreshes,
            exact=known.refresh == 1 and self.drift_limit is None,
            drift=None if drift_M is None else drift_M.mean().item(),
            largest_drift=None if drift_M is None else drift_M.max().item(),
        )

    def _measured(
        self, tokens_BL: Tensor, partial_BL: Tensor, select_BL: Tensor, place_B: Tensor, measured_B: Tensor
    ) -> Tensor | None:
        """The cached logits of the rows that are about to be computed whole."""
        if not measured_B.any():
            return None
        parts = (tokens_BL[measured_B], partial_BL[measured_B], select_BL[measured_B], place_B[measured_B])
        return self.known.recompute(*parts)

    def _note_drift(
        self, exact_SV: Tensor, cached_MV: Tensor, select_BL: Tensor, place_B: Tensor, measured_B: Tensor
    ) -> None:
        """Compare, and let the rows' intervals follow."""
        row_S = select_BL.nonzero()[:, 0]
        row_M = row_S[measured_B[row_S]]
        exact_MV = exact_SV[measured_B[row_S]].float().log_softmax(dim=1)
        divergence_M = (exact_MV.exp() * (exact_MV - cached_MV.float().log_softmax(dim=1))).sum(dim=1)
        total_B = torch.zeros(len(select_BL), device=row_S.device).index_add_(0, row_M, divergence_M)
        drift_B = total_B / select_BL.sum(dim=1).clamp(min=1)
        self.known.drifts.append(drift_B[measured_B].cpu())
        if self.drift_limit is not None:
            interval_B = self.known.interval_C[place_B]
            halved_B, doubled_B = (interval_B // 2).clamp(min=1), (interval_B * 2).clamp(max=LONGEST_INTERVAL)
            interval_B = torch.where(measured_B & (drift_B > self.drift_limit), halved_B, interval_B)
            interval_B = torch.where(measured_B & (drift_B < self.drift_limit / 2), doubled_B, interval_B)
            self.known.interval_C[place_B] = interval_B
