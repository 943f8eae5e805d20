"""The bound, the chain rule and an ARM's likelihood of sequences of one length, over a `LogitsFn`.

Shapes: B sequences of one length, L positions, R rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from unmask.errors import UsageError
from unmask.likelihood.plans import Estimate, Plan, causal_plan, chain_plan, plan
from unmask.likelihood.rows import BatchSize, Reading, Sequences, row_losses
from unmask.logits_fn import LogitsFn, RowDependent, at_rows


def bound(
    logits_fn: LogitsFn,
    tokens_L: Tensor,
    scored_L: Tensor,
    *,
    mask_id: int,
    estimator: str = "auto",
    num_samples: int = 128,
    generator: torch.Generator | None = None,
    batch_size: int = 64,
    eps: float = 0.0,
) -> Estimate:
    """The bound on the likelihood of the tokens where `scored_L` (boolean) is true, given the others.

    `estimator`: "exact" sums over all 2^K - 1 sets of the K scored tokens; "stratified" spreads `num_samples` draws
    over the numbers of masked tokens, draws sets of one number without replacement and takes a baseline off
    (`likelihood.plans`); "mc" is the paper's: t low-discrepancy, each token masked with probability t, weight 1/t;
    "auto" is exact where that takes no more than `num_samples` calls, else stratified. The sampling ones need a
    `generator`. `batch_size` rows are evaluated at a time, fewer where memory runs out. `eps` above 0 takes t from
    [eps, 1], as training does; "mc" with `eps` 0 has no finite variance, and so a standard error that jumps about.

    Raises `UsageError` on an unknown estimator, no scored token, a scored mask token, or more tokens than exact takes.
    """
    generators = None if generator is None else [generator]
    return bounds(
        logits_fn,
        tokens_L[None],
        scored_L[None],
        mask_id=mask_id,
        estimator=estimator,
        num_samples=num_samples,
        generators=generators,
        batch_size=batch_size,
        eps=eps,
    )[0]


def bounds(
    logits_fn: LogitsFn,
    tokens_BL: Tensor,
    scored_BL: Tensor,
    *,
    mask_id: int,
    estimator: str = "auto",
    num_samples: int = 128,
    generators: Sequence[torch.Generator] | None = None,
    batch_size: int = 64,
    eps: float = 0.0,
) -> list[Estimate]:
    """`bound` of several sequences of one length, evaluated together; one generator for each."""
    check(tokens_BL, scored_BL, mask_id, batch_size)
    if not 0 <= eps < 1:
        raise UsageError(f"eps {eps}: must be at least 0 and less than 1")
    scored_counts = _ints(scored_BL.sum(dim=1))
    plans: list[Plan] = []
    for row, scored in enumerate(scored_counts):
        generator = None if generators is None else generators[row]
        plans.append(plan(scored, estimator=estimator, num_samples=num_samples, generator=generator, eps=eps))
    return _estimates(logits_fn, tokens_BL, scored_BL, plans, mask_id, batch_size)


def chain_rule(
    logits_fn: LogitsFn, tokens_L: Tensor, scored_L: Tensor, *, mask_id: int, batch_size: int = 64
) -> Estimate:
    """The log-likelihood of the scored tokens revealed from left to right, exact for that order: one call for each.

    Every token not scored is visible, those to the right too; so are the scored ones before the one predicted.
    """
    return chain_rules(logits_fn, tokens_L[None], scored_L[None], mask_id=mask_id, batch_size=batch_size)[0]


def chain_rules(
    logits_fn: LogitsFn, tokens_BL: Tensor, scored_BL: Tensor, *, mask_id: int, batch_size: int = 64
) -> list[Estimate]:
    """`chain_rule` of several sequences of one length, evaluated together."""
    check(tokens_BL, scored_BL, mask_id, batch_size)
    plans = [chain_plan(scored) for scored in _ints(scored_BL.sum(dim=1))]
    return _estimates(logits_fn, tokens_BL, scored_BL, plans, mask_id, batch_size, "first")


def causal(logits_fn: LogitsFn, tokens_BL: Tensor, scored_BL: Tensor, *, batch_size: int = 64) -> list[Estimate]:
    """The exact log-likelihoods under an ARM, whose row i sees only the tokens before i: one call for each sequence."""
    check(tokens_BL, scored_BL, None, batch_size)
    plans = [causal_plan(scored) for scored in _ints(scored_BL.sum(dim=1))]
    return _estimates(logits_fn, tokens_BL, scored_BL, plans, -1, batch_size, "causal")


def check(tokens_BL: Tensor, scored_BL: Tensor, mask_id: int | None, batch_size: int | None) -> None:
    """Raise `UsageError` on sequences that can't be scored, or a batch size below 1."""
    if batch_size is not None and batch_size < 1:
        raise UsageError(f"batch_size {batch_size}: must be at least 1")
    if scored_BL.dtype != torch.bool or scored_BL.shape != tokens_BL.shape:
        raise UsageError(
            f"scored is {scored_BL.dtype} of shape {tuple(scored_BL.shape)}: must be boolean, as the tokens"
        )
    if not scored_BL.any(dim=1).all():
        raise UsageError("nothing to score: at least one token must be scored")
    if mask_id is not None and (tokens_BL[scored_BL] == mask_id).any():
        raise UsageError(f"a scored token is the mask token {mask_id}: only given text can be scored")


def _estimates(
    logits_fn: LogitsFn,
    tokens_BL: Tensor,
    scored_BL: Tensor,
    plans: Sequence[Plan],
    mask_id: int,
    batch_size: int,
    reading: Reading = "masked",
) -> list[Estimate]:
    # rows of two sequences may be told apart by the function itself
    kinds = list(range(len(plans))) if isinstance(logits_fn, RowDependent) else [0] * len(plans)
    sequences = Sequences(tokens_BL, scored_BL, [plan.masks_RK for plan in plans], kinds, reading)
    found = row_losses(lambda rows_R: at_rows(logits_fn, rows_R), sequences, mask_id, BatchSize(batch_size))
    return [plan.estimate(*losses_and_calls) for plan, losses_and_calls in zip(plans, found, strict=True)]


def _ints(values: Tensor) -> list[int]:
    return cast("list[int]", values.tolist())
