"""What a law says of a budget: the best size, tokens and loss, with and without a limit on the data.

Without a limit the best size has a closed form. With U distinct tokens the loss of `repeating` is minimised over the
size at C = 6 N D, and the budget is sought beyond which one objective's loss falls below the other's: where data is
short and compute is not, what matters is what repeats are worth. Every answer is computed for all resamples as well.

Shapes: R rows of a law (see `law_rows`), Q budgets, S sizes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unmask import sizes
from unmask.errors import UsageError
from unmask.scaling.laws import Array, Interval, percentile_interval
from unmask.scaling.parametric_law import optimum_laws
from unmask.scaling.repeated import repeated_loss
from unmask.scaling.repeating import NO_DECAY

SIZES, ZOOMS = 33, 4
"""Sizes tried at a time, and how often the search closes in on the best."""
SPAN = 1e4
"""How far, as a factor, the best size under a data limit is sought from that without."""
BUDGETS, FARTHEST = 49, 1e8
"""Budgets at which two objectives are compared, up to so many times that at which the data is first used up."""
FEW_ROWS = 200
"""Resamples that are searched for a crossover."""


@dataclass(frozen=True)
class Optimum:
    """The best run of one objective at one budget."""

    objective: str
    flops: float
    params: float
    params_ci95: Interval | None
    tokens: float
    tokens_ci95: Interval | None
    loss: float
    loss_ci95: Interval | None
    epochs: float | None
    """Passes over the distinct tokens; None without a limit."""
    epochs_ci95: Interval | None
    nearest_size: str
    """The named size nearest to `params`, in the logarithm."""
    nearest_params: int

    def to_dict(self) -> dict[str, Any]:
        """A dict for JSON."""
        return dict(self.__dict__)


@dataclass(frozen=True)
class Crossover:
    """The budget beyond which `objective` beats `baseline` on a limited amount of data."""

    objective: str
    baseline: str
    unique_tokens: float
    flops: float | None
    """None if it does not within the budgets that were searched."""
    flops_ci95: Interval | None
    share: float
    """Of the resamples that have a crossover."""
    searched: Interval

    def to_dict(self) -> dict[str, Any]:
        """A dict for JSON."""
        return dict(self.__dict__)


def optimum(objective: str, rows_R7: Array, flops: float, unique_tokens: float | None = None) -> Optimum:
    """The best run at `flops`, on at most `unique_tokens` distinct tokens if they are given.

    Raises `UsageError` if the law does not say what repeats are worth and the best run would have to repeat.
    """
    if not (math.isfinite(flops) and flops > 0):
        raise UsageError(f"flops {flops} must be a positive number")
    params_R, tokens_R, loss_R = unlimited(rows_R7, flops)
    epochs_R = None
    if unique_tokens is not None:
        if not (math.isfinite(unique_tokens) and unique_tokens > 0):
            raise UsageError(f"unique_tokens {unique_tokens} must be a positive number")
        if (tokens_R > unique_tokens).any():
            if np.isnan(rows_R7[:, 5]).any():
                raise UsageError(
                    f"{objective}: this law does not say what repeated data is worth: fit --method repeated to runs "
                    "that repeat, or give a value"
                )
            params_R, tokens_R, loss_R = limited(rows_R7, np.array([flops]), unique_tokens)
        epochs_R = tokens_R / unique_tokens
    nearest = nearest_size(float(params_R[0]))
    return Optimum(
        objective,
        flops,
        float(params_R[0]),
        percentile_interval(params_R[1:]),
        float(tokens_R[0]),
        percentile_interval(tokens_R[1:]),
        float(loss_R[0]),
        percentile_interval(loss_R[1:]),
        None if epochs_R is None else float(epochs_R[0]),
        None if epochs_R is None else percentile_interval(epochs_R[1:]),
        nearest,
        sizes.lookup(nearest).params,
    )


def crossover(objective: str, baseline: str, rows_R7: Array, base_R7: Array, unique_tokens: float) -> Crossover:
    """The budget from which on the best `objective` on `unique_tokens` is better than the best `baseline`."""
    count = min(len(rows_R7), len(base_R7), FEW_ROWS)
    rows_R7, base_R7 = rows_R7[:count], base_R7[:count]
    # from where the baseline has used up its data once
    ((log_k, exponent), *_) = optimum_laws(base_R7[:, :5])["tokens"]
    first = math.exp((math.log(unique_tokens) - log_k) / exponent) / 100
    flops_Q = np.geomspace(first, first * 100 * FARTHEST, BUDGETS)
    ahead_RQ = limited_losses(base_R7, flops_Q, unique_tokens) - limited_losses(rows_R7, flops_Q, unique_tokens)
    crossed_R = np.array([_last_crossing(np.log(flops_Q), row) for row in ahead_RQ])
    found_R = np.isfinite(crossed_R)
    return Crossover(
        objective,
        baseline,
        unique_tokens,
        float(np.exp(crossed_R[0])) if found_R[0] else None,
        percentile_interval(np.exp(crossed_R[1:])),
        float(found_R.mean()),
        (float(flops_Q[0]), float(flops_Q[-1])),
    )


def unlimited(rows_R7: Array, flops: float) -> tuple[Array, Array, Array]:
    """N, D and L of the best run with as much fresh data as it wants, each (R,)."""
    laws = optimum_laws(rows_R7[:, :5])
    log_flops = math.log(flops)
    params_R, tokens_R, reducible_R = (
        np.exp(laws[what][:, 0] + laws[what][:, 1] * log_flops) for what in ("params", "tokens", "loss")
    )
    return params_R, tokens_R, rows_R7[:, 0] + reducible_R


def limited(rows_R7: Array, flops_R: Array, unique_tokens: float) -> tuple[Array, Array, Array]:
    """N, D and L of the best run on `unique_tokens` distinct tokens, each (R,); one budget, or one for each row."""
    log_flops_R = np.broadcast_to(np.log(flops_R), (len(rows_R7),))
    laws = optimum_laws(rows_R7[:, :5])["params"]
    center_R = laws[:, 0] + laws[:, 1] * log_flops_R
    reach = math.log(SPAN)
    offsets_S = np.linspace(-1, 1, SIZES)
    for _ in range(ZOOMS):
        log_params_RS = center_R[:, None] + reach * offsets_S
        loss_RS = _loss(rows_R7, log_params_RS, log_flops_R[:, None], unique_tokens)
        best_R = loss_RS.argmin(axis=1)
        center_R = log_params_RS[np.arange(len(rows_R7)), best_R]
        reach *= 4 / (SIZES - 1)
    loss_R = _loss(rows_R7, center_R[:, None], log_flops_R[:, None], unique_tokens)[:, 0]
    params_R = np.exp(center_R)
    return params_R, np.exp(log_flops_R) / (6 * params_R), loss_R


def limited_losses(rows_R7: Array, flops_Q: Array, unique_tokens: float) -> Array:
    """The loss of the best run at each budget, (R, Q)."""
    return np.stack([limited(rows_R7, np.array([flops]), unique_tokens)[2] for flops in flops_Q], axis=1)


def with_repeats(rows_R7: Array, r_d: float, r_n: float | None = None, *, replace: bool = False) -> Array:
    """The rows with what repeats and excess parameters are worth filled in where it is unknown, or everywhere.

    Without `r_n`, unknown excess parameters keep their value.
    """
    found = rows_R7.copy()
    for column, value in ((5, r_d), (6, r_n)):
        if replace and value is not None:
            found[:, column] = math.log(value)
        found[np.isnan(found[:, column]), column] = math.log(value or NO_DECAY)
    return found


def nearest_size(params: float) -> str:
    """The named size with the nearest number of non-embedding parameters, in the logarithm."""
    named = {**sizes.SMALL, **sizes.FAMILY}
    return min(named, key=lambda name: abs(math.log(named[name].params / params)))


def named_range() -> Interval:
    """Parameters of the smallest and the largest named size."""
    params = [size.params for size in (*sizes.SMALL.values(), *sizes.FAMILY.values())]
    return min(params), max(params)


def gap_at_budget(
    rows: Mapping[str, Array], objective: str, baseline: str, flops: float
) -> tuple[float, Interval | None]:
    """How many times the compute `objective` needs for the loss that `baseline` has at `flops`, data unlimited."""
    count = min(len(rows[objective]), len(rows[baseline]))
    mine, base = rows[objective][:count], rows[baseline][:count]
    target_R = unlimited(base, flops)[2]
    law_R2 = optimum_laws(mine[:, :5])["loss"]
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        needed_R = np.exp((np.log(target_R - mine[:, 0]) - law_R2[:, 0]) / law_R2[:, 1]) / flops
    return float(needed_R[0]), percentile_interval(needed_R[1:])


def _loss(rows_R7: Array, log_params_RS: Array, log_flops_R1: Array, unique_tokens: float) -> Array:
    tokens_RS = np.exp(log_flops_R1 - log_params_RS - math.log(6))
    return repeated_loss(rows_R7, np.exp(log_params_RS), tokens_RS, np.full_like(tokens_RS, unique_tokens))


def _last_crossing(log_flops_Q: Array, ahead_Q: Array) -> float:
    """Where the lead turns positive for good; -inf or nan are not crossings, so nan if it is never or always ahead."""
    behind: Sequence[int] = np.flatnonzero(ahead_Q <= 0).tolist()
    if not behind or behind[-1] == len(ahead_Q) - 1:
        return math.nan
    last = behind[-1]
    low, high = float(ahead_Q[last]), float(ahead_Q[last + 1])
    return float(log_flops_Q[last] + (log_flops_Q[last + 1] - log_flops_Q[last]) * (-low) / (high - low))
