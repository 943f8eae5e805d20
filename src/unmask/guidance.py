"""Guidance: functions that take a `LogitsFn` and give another, so that they compose with every sampler and estimator.

Classifier-free guidance sharpens towards the prompt: p(x|c)^(1+w) / p(x)^w, in logits u + (1 + w) (c - u). The
*unsupervised* form takes the unconditional u from the same network with the whole prompt masked, so it needs no paired
training (Nie et al., 2025, section 3.2). It costs a second network call per evaluation.

*Standard* guidance is the same computation with a network that was trained to do without its prompt now and then.

Shapes: B rows, L positions, V vocabulary, S selected positions, P positions of the prompt mask, R rows of
another batch, U different rows of the unconditional pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from unmask.errors import UsageError
from unmask.logits_fn import LogitsFn, RowDependent, at_rows, network_calls


def classifier_free(logits_fn: LogitsFn, prompt_BL: Tensor, weight: float, mask_id: int) -> LogitsFn:
    """`logits_fn` guided towards the prompt with `weight` w: u + (1 + w) (c - u).

    `prompt_BL` is boolean, True where the prompt stands: one row for each row of the batch, or a single row for all
    of them. It may be narrower than the tokens; what is past it is not prompt. With w = 0, or without any prompt, the
    result is `logits_fn` itself and costs nothing. Raises `UsageError` on a weight below 0 or a `prompt_BL` that is not
    a boolean matrix.
    """
    if not 0 <= weight < math.inf:
        raise UsageError(f"guidance {weight}: must be 0 (none) or more, and finite")
    if prompt_BL.dtype != torch.bool or prompt_BL.ndim != 2:
        raise UsageError(
            f"prompt_BL is {prompt_BL.dtype} of shape {tuple(prompt_BL.shape)}: "
            "must be boolean (rows, positions), True where the prompt stands"
        )
    if weight == 0 or not prompt_BL.any():
        return logits_fn
    return ClassifierFree(logits_fn, prompt_BL, weight, mask_id)


@dataclass(frozen=True)
class ClassifierFree:
    """Unsupervised classifier-free guidance; made by `classifier_free`."""

    logits_fn: LogitsFn
    prompt_BP: Tensor
    weight: float
    mask_id: int

    def __call__(self, tokens_BL: Tensor, select_BL: Tensor | None = None, /) -> Tensor:
        """Guided logits; both passes in one batch, the unconditional one once for all rows that have it in common."""
        without_UL, of_B = self._unconditional(tokens_BL)
        rows = torch.arange(len(tokens_BL), device=tokens_BL.device)
        pair_fn = at_rows(self.logits_fn, torch.cat([rows, _first_of_each(of_B, len(without_UL))]))
        both = torch.cat([tokens_BL, without_UL])
        if select_BL is None:
            logits_RLV = pair_fn(both).float()
            conditional, unconditional = logits_RLV[: len(rows)], logits_RLV[len(rows) :][of_B]
        else:
            select_UL = torch.zeros(without_UL.shape, dtype=torch.int64, device=tokens_BL.device)
            select_UL = select_UL.index_add_(0, of_B, select_BL.long()) > 0
            place_UL = (select_UL.flatten().cumsum(dim=0) - 1).view(select_UL.shape)
            logits_SV = pair_fn(both, torch.cat([select_BL, select_UL])).float()
            selected = len(logits_SV) - int(select_UL.sum())
            conditional, unconditional = logits_SV[:selected], logits_SV[selected:][place_UL[of_B][select_BL]]
        return unconditional + (1 + self.weight) * (conditional - unconditional)

    def network_calls(self, tokens_BL: Tensor, /) -> Tensor:
        """Calls (B,) of each row by itself: those of the conditional and of the unconditional pass."""
        return network_calls(self.logits_fn, tokens_BL) + network_calls(self.logits_fn, self._without_prompt(tokens_BL))

    def at_rows(self, rows_R: Tensor, /) -> LogitsFn:
        """The same guidance for a batch made of these rows."""
        prompt_RP = self.prompt_BP
        if len(prompt_RP) > 1:
            prompt_RP = prompt_RP[rows_R.to(prompt_RP.device)]
        return ClassifierFree(at_rows(self.logits_fn, rows_R), prompt_RP, self.weight, self.mask_id)

    def _unconditional(self, tokens_BL: Tensor) -> tuple[Tensor, Tensor]:
        """The rows (U, L) of the unconditional pass, each once, and which of them each row of the batch takes (B,)."""
        without_BL = self._without_prompt(tokens_BL)
        if isinstance(self.logits_fn, RowDependent):  # rows that look alike may be treated differently
            return without_BL, torch.arange(len(tokens_BL), device=tokens_BL.device)
        return cast("tuple[Tensor, Tensor]", torch.unique(without_BL, dim=0, return_inverse=True))

    def _without_prompt(self, tokens_BL: Tensor) -> Tensor:
        width = self.prompt_BP.shape[1]
        prompt_BP = self.prompt_BP.to(tokens_BL.device).expand(len(tokens_BL), width)
        return torch.cat([tokens_BL[:, :width].masked_fill(prompt_BP, self.mask_id), tokens_BL[:, width:]], dim=1)


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
        logits = self.logits_fn(tokens_BL, select_BL)
        return logits.index_fill(-1, self.token_ids.to(logits.device), -math.inf)

    def network_calls(self, tokens_BL: Tensor, /) -> Tensor:
        """As many as without suppression."""
        return network_calls(self.logits_fn, tokens_BL)

    def at_rows(self, rows_R: Tensor, /) -> LogitsFn:
        """The same suppression for a batch made of these rows."""
        return Suppressed(at_rows(self.logits_fn, rows_R), self.token_ids)
