"""Functions that take a `LogitsFn` and give another, so that they compose with every sampler and estimator.

Classifier-free guidance sharpens towards the prompt: p(x|c)^(1+w) / p(x)^w, in logits u + (1 + w) (c - u). The
*unsupervised* form takes the unconditional u from the same network with the whole prompt masked, so it needs no paired
training (Nie et al., 2025, section 3.2). It costs a second network call per evaluation; on a schedule, only while the
weight is not 0. *Standard* guidance is the same computation with a network that was trained to do without its prompt
now and then. Beside guidance: token suppression and the repetition penalty.

Shapes: B rows, L positions, V vocabulary, S selected positions, P positions of the prompt mask, R rows of
another batch, G rows that are guided, U different rows of the unconditional pass, N tokens that a cache has not seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from unmask import logits_fn as logits_functions
from unmask.errors import UsageError, problems_error
from unmask.logits_fn import PADDING, Cache, LogitsFn, RowDependent, at_rows, network_calls

Weight = Callable[[Tensor], Tensor]
"""A guidance weight w (B,), float64 and not negative, from the share (B,) of a row's tokens that is revealed."""


@dataclass(frozen=True)
class Ramp:
    """A guidance weight that goes evenly from `start` to `end`, and ends once the share `until` is revealed."""

    start: float
    """w where nothing is revealed."""
    end: float | None = None
    """w where everything would be; None: as at the start."""
    until: float = 1.0
    """Share of revealed tokens from which on there is no guidance, and no second network call."""

    def __post_init__(self) -> None:
        problems: list[str] = []
        for name, weight in (("start", self.start), ("end", self.end)):
            if weight is not None and not 0 <= weight < math.inf:
                problems.append(f"{name} {weight} must be 0 (none) or more, and finite")
        if not 0 < self.until <= 1:
            problems.append(f"until {self.until} must be more than 0 and at most 1")
        if problems:
            raise problems_error("guidance schedule", problems)

    def __call__(self, revealed_B: Tensor) -> Tensor:
        """The weight w (B,)."""
        end = self.start if self.end is None else self.end
        weight_B = self.start + (end - self.start) * revealed_B
        return weight_B if self.until == 1 else weight_B.where(revealed_B < self.until, 0.0)


def classifier_free(logits_fn: LogitsFn, prompt_BL: Tensor, weight: float | Weight, mask_id: int) -> LogitsFn:
    """`logits_fn` guided towards the prompt with `weight` w: u + (1 + w) (c - u).

    `prompt_BL` is boolean, True where the prompt stands: one row for each row of the batch, or a single row for all
    of them. It may be narrower than the tokens; what is past it is not prompt. `weight` is a number, or a function of
    the share of revealed tokens such as a `Ramp`. A row without a prompt, or with w = 0, is as without guidance and
    costs one call; if that holds for all, the result is `logits_fn` itself. Raises `UsageError` on a weight below 0 or
    a `prompt_BL` that is not a boolean matrix.
    """
    if not callable(weight) and not 0 <= weight < math.inf:
        raise UsageError(f"guidance {weight}: must be 0 (none) or more, and finite")
    if prompt_BL.dtype != torch.bool or prompt_BL.ndim != 2:
        raise UsageError(
            f"prompt_BL is {prompt_BL.dtype} of shape {tuple(prompt_BL.shape)}: "
            "must be boolean (rows, positions), True where the prompt stands"
        )
    if weight == 0 or not prompt_BL.any():
        return logits_fn
    return ClassifierFree(logits_fn, prompt_BL, weight if callable(weight) else Ramp(weight), mask_id)


@dataclass(frozen=True)
class ClassifierFree:
    """Unsupervised classifier-free guidance; made by `classifier_free`."""

    logits_fn: LogitsFn
    prompt_BP: Tensor
    weight: Weight
    mask_id: int

    def __call__(self, tokens_BL: Tensor, select_BL: Tensor | None = None, /) -> Tensor:
        """Guided logits; both passes in one batch, the unconditional one once for all rows that have it in common."""
        weight_B = self._weights(tokens_BL)
        guided_B = weight_B > 0
        rows_G = guided_B.nonzero()[:, 0]
        without_UL, of_G = self._unconditional(tokens_BL, rows_G)
        rows_B = torch.arange(len(tokens_BL), device=tokens_BL.device)
        pair_fn = at_rows(self.logits_fn, torch.cat([rows_B, rows_G[_first_of_each(of_G, len(without_UL))]]))
        both = torch.cat([tokens_BL, without_UL])
        if select_BL is None:
            logits = pair_fn(both).float()
            row_S = rows_B
            conditional, unconditional = logits[: len(rows_B)], logits[len(rows_B) :][of_G]
        else:
            select_GL = select_BL[rows_G]
            select_UL = torch.zeros(without_UL.shape, dtype=torch.int64, device=tokens_BL.device)
            select_UL = select_UL.index_add_(0, of_G, select_GL.long()) > 0
            place_UL = (select_UL.flatten().cumsum(dim=0) - 1).view(select_UL.shape)
            logits = pair_fn(both, torch.cat([select_BL, select_UL])).float()
            row_S = select_BL.nonzero()[:, 0]
            conditional, unconditional = logits[: len(row_S)], logits[len(row_S) :][place_UL[of_G][select_GL]]
        one_plus_w = (1 + weight_B[row_S].float()).view(-1, *[1] * (logits.ndim - 1))
        if guided_B.all():
            return unconditional + one_plus_w * (conditional - unconditional)
        guided_S = guided_B[row_S]
        guided = unconditional + one_plus_w[guided_S] * (conditional[guided_S] - unconditional)
        return conditional.index_put((guided_S,), guided)

    def network_calls(self, tokens_BL: Tensor, /) -> Tensor:
        """Calls (B,) of each row: those of the conditional pass, and of the unconditional one where there is one."""
        unprompted_BL = self._without_prompt(tokens_BL, self._prompt(tokens_BL))
        second_B = network_calls(self.logits_fn, unprompted_BL) * (self._weights(tokens_BL) > 0)
        return network_calls(self.logits_fn, tokens_BL) + second_B

    def at_rows(self, rows_R: Tensor, /) -> LogitsFn:
        """The same guidance for a batch made of these rows."""
        prompt_RP = self.prompt_BP
        if len(prompt_RP) > 1:
            prompt_RP = prompt_RP[rows_R.to(prompt_RP.device)]
        return ClassifierFree(at_rows(self.logits_fn, rows_R), prompt_RP, self.weight, self.mask_id)

    @property
    def block_length(self) -> int | None:
        """That of the network."""
        return logits_functions.block_length(self.logits_fn)

    def _prompt(self, tokens_BL: Tensor) -> Tensor:
        """The prompt as wide as the tokens (B, L)."""
        rows, length = tokens_BL.shape
        prompt_BP = self.prompt_BP[:, :length].to(tokens_BL.device).expand(rows, -1)
        prompt_BL = torch.nn.functional.pad(prompt_BP, (0, length - prompt_BP.shape[1]))
        return prompt_BL & (tokens_BL != PADDING)

    def _weights(self, tokens_BL: Tensor) -> Tensor:
        """The weight (B,) of each row; 0 where there is no prompt."""
        prompt_BL = self._prompt(tokens_BL)
        # masks that a growing canvas does not show yet are neither prompt nor revealed
        width = max(tokens_BL.shape[1], self.prompt_BP.shape[1])
        open_B = width - self.prompt_BP.to(tokens_BL.device).sum(dim=1)
        revealed_B = (~prompt_BL & (tokens_BL != self.mask_id) & (tokens_BL != PADDING)).sum(dim=1)
        weight_B = self.weight(revealed_B.double() / open_B.clamp(min=1))
        return weight_B.where(prompt_BL.any(dim=1), 0.0)

    def _unconditional(self, tokens_BL: Tensor, rows_G: Tensor) -> tuple[Tensor, Tensor]:
        """The rows (U, L) of the unconditional pass, each once, and which of them each guided row takes (G,)."""
        without_GL = self._without_prompt(tokens_BL, self._prompt(tokens_BL))[rows_G]
        if isinstance(self.logits_fn, RowDependent):  # rows that look alike may be treated differently
            return without_GL, torch.arange(len(rows_G), device=tokens_BL.device)
        return cast("tuple[Tensor, Tensor]", torch.unique(without_GL, dim=0, return_inverse=True))

    def _without_prompt(self, tokens_BL: Tensor, prompt_BL: Tensor) -> Tensor:
        return tokens_BL.masked_fill(prompt_BL, self.mask_id)


def _first_of_each(of_B: Tensor, unique: int) -> Tensor:
    """The first row (U,) that takes each of the `unique` rows."""
    rows_B = torch.arange(len(of_B), device=of_B.device)
    first_U = torch.full((unique,), len(of_B), device=of_B.device)
    return first_U.scatter_reduce_(0, of_B, rows_B, "amin")


def suppress(logits_fn: LogitsFn, token_ids: Iterable[int]) -> LogitsFn:
    """`logits_fn` under which the tokens `token_ids` have probability 0; itself if there are none."""
    ids = sorted(set(token_ids))
    return Suppressed(logits_fn, torch.tensor(ids)) if ids else logits_fn


@dataclass(frozen=True)
class Suppressed:
    """Token suppression; made by `suppress`."""

    logits_fn: LogitsFn
    token_ids: Tensor

    def __call__(self, tokens_BL: Tensor, select_BL: Tensor | None = None, /) -> Tensor:
        """Logits with minus infinity for the suppressed tokens."""
        return self._without(self.logits_fn(tokens_BL, select_BL))

    def network_calls(self, tokens_BL: Tensor, /) -> Tensor:
        """As many as without suppression."""
        return network_calls(self.logits_fn, tokens_BL)

    def at_rows(self, rows_R: Tensor, /) -> LogitsFn:
        """The same suppression for a batch made of these rows."""
        return Suppressed(at_rows(self.logits_fn, rows_R), self.token_ids)

    def incremental(self, rows: int, length: int, /) -> Cache | None:
        """The network's cache, if it has one, with the same suppression."""
        cache = logits_functions.incremental(self.logits_fn, rows, length)
        return None if cache is None else _ChangedCache(cache, lambda logits_BV, seen_BN: self._without(logits_BV))

    @property
    def block_length(self) -> int | None:
        """That of the network."""
        return logits_functions.block_length(self.logits_fn)

    def _without(self, logits: Tensor) -> Tensor:
        return logits.index_fill(-1, self.token_ids.to(logits.device), -math.inf)


def repetition_penalty(logits_fn: LogitsFn, penalty: float, mask_id: int) -> LogitsFn:
    """`logits_fn` that holds tokens for less likely which the row has already, given or revealed, wherever they stand.

    Their logits are divided by `penalty` where positive and multiplied where negative (CTRL; Keskar et al., 2019).
    1 is none, and gives `logits_fn` itself. Raises `UsageError` on a penalty that is not positive and finite.
    """
    if not 0 < penalty < math.inf:
        raise UsageError(f"repetition_penalty {penalty}: must be more than 0 (1 is none), and finite")
    return logits_fn if penalty == 1 else RepetitionPenalty(logits_fn, penalty, mask_id)


@dataclass(frozen=True)
class RepetitionPenalty:
    """Penalty for tokens that a row has already; made by `repetition_penalty`."""

    logits_fn: LogitsFn
    penalty: float
    mask_id: int

    def __call__(self, tokens_BL: Tensor, select_BL: Tensor | None = None, /) -> Tensor:
        """Logits with the penalty."""
        logits = self.logits_fn(tokens_BL, select_BL)
        if select_BL is not None:
            return self._penalised(logits, tokens_BL[select_BL.nonzero()[:, 0]])
        rows, length = tokens_BL.shape
        seen = tokens_BL[:, None].expand(-1, length, -1).reshape(rows * length, length)
        return self._penalised(logits.flatten(0, 1), seen).view(rows, length, -1)

    def network_calls(self, tokens_BL: Tensor, /) -> Tensor:
        """As many as without the penalty."""
        return network_calls(self.logits_fn, tokens_BL)

    def at_rows(self, rows_R: Tensor, /) -> LogitsFn:
        """The same penalty for a batch made of these rows."""
        return RepetitionPenalty(at_rows(self.logits_fn, rows_R), self.penalty, self.mask_id)

    def incremental(self, rows: int, length: int, /) -> Cache | None:
        """The network's cache, if it has one, with the penalty for the tokens that it has been given."""
        cache = logits_functions.incremental(self.logits_fn, rows, length)
        return None if cache is None else _ChangedCache(cache, self._penalised)

    @property
    def block_length(self) -> int | None:
        """That of the network."""
        return logits_functions.block_length(self.logits_fn)

    def _penalised(self, logits_SV: Tensor, seen_SL: Tensor) -> Tensor:
        """`logits_SV` with the penalty for the tokens in the same row of `seen_SL`, masks and padding aside."""
        visible_SL = (seen_SL != self.mask_id) & (seen_SL >= 0) & (seen_SL < logits_SV.shape[1])
        if not visible_SL.any():
            return logits_SV
        first_S1 = seen_SL.gather(1, visible_SL.int().argmax(dim=1, keepdim=True))  # any visible token, twice is once
        token_SL = torch.where(visible_SL, seen_SL, first_S1)
        token_SL = token_SL.where(visible_SL.any(dim=1, keepdim=True), 0)
        found_SL = logits_SV.gather(1, token_SL)
        changed_SL = torch.where(found_SL > 0, found_SL / self.penalty, found_SL * self.penalty)
        changed_SL = changed_SL.where(visible_SL.any(dim=1, keepdim=True), found_SL)
        return logits_SV.scatter(1, token_SL, changed_SL)


class _ChangedCache:
    """A cache whose logits are changed by a function of them and of all tokens so far."""

    def __init__(self, cache: Cache, change: Callable[[Tensor, Tensor], Tensor]) -> None:
        self._cache = cache
        self._change = change
        self._seen_BN: Tensor | None = None

    def __call__(self, tokens_BN: Tensor, /) -> Tensor:
        self._seen_BN = tokens_BN if self._seen_BN is None else torch.cat([self._seen_BN, tokens_BN], dim=1)
        return self._change(self._cache(tokens_BN), self._seen_BN)

    def keep(self, rows_R: Tensor, /) -> None:
        self._cache.keep(rows_R)
        if self._seen_BN is not None:
            self._seen_BN = self._seen_BN[rows_R]
