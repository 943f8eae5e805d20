"""Every fitted law in one form: rows of (E, log A, alpha, log B, beta, log R_D, log R_N), the first the estimate, the
others its resamples. nan stands for an unknown R.

A law of best sizes and best losses, N* = k C^a and L* = E + K C^-c, as IsoFLOP fits give it, is that of exactly one
L(N, D) = E + A / N^alpha + B / D^beta with C = 6 N D: alpha = c / a, beta = c / (1 - a), and at the best size
alpha A / N^alpha = beta B / D^beta. What lies beside the best size is then implied by the law, not measured.

Shapes: R rows.
"""

from __future__ import annotations

import math

import numpy as np

from unmask.errors import UsageError
from unmask.scaling.isoflop import IsoflopFit, ObjectiveFit
from unmask.scaling.laws import Array, PowerLaw
from unmask.scaling.parametric_law import ParametricFit, ParametricLaw
from unmask.scaling.repeated import RepeatedFit

COLUMNS = ("E", "log A", "alpha", "log B", "beta", "log R_D", "log R_N")
MOST_ROWS = 500
"""Resamples that are kept."""
AnyFit = IsoflopFit | ParametricFit | RepeatedFit


def rows_of_laws(params_R2: Array, loss_R2: Array, floor_R: Array) -> Array:
    """Rows from (log k, a), (log K, -c) and E of each resample."""
    log_k, a = params_R2.T
    log_loss, c = loss_R2[:, 0], -loss_R2[:, 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        alpha, beta = c / a, c / (1 - a)
        log_a = log_loss + np.log(beta / (alpha + beta)) + alpha * log_k
        log_b = log_loss + np.log(alpha / (alpha + beta)) - beta * (log_k + math.log(6))
    unknown = np.full(len(alpha), np.nan)
    found = np.stack([floor_R, log_a, alpha, log_b, beta, unknown, unknown], axis=1)
    return found[np.isfinite(found[:, :5]).all(axis=1) & (found[:, 2] > 0) & (found[:, 4] > 0)]


def rows_of_fit(fit: AnyFit) -> dict[str, Array]:
    """The rows of each objective that has a law."""
    found: dict[str, Array] = {}
    for name, each in fit.objectives.items():
        if isinstance(each, ObjectiveFit):
            rows = _of_isoflop(each)
        elif isinstance(each, ParametricLaw):
            centre = np.array([[each.E, math.log(each.A), each.alpha, math.log(each.B), each.beta]])
            five = np.concatenate([centre, each.draws_R5[:MOST_ROWS]])
            rows = np.concatenate([five, np.full((len(five), 2), np.nan)], axis=1)
        else:
            rows = np.concatenate([each.theta_7[None], each.draws_R7[:MOST_ROWS]])
        if len(rows):
            found[name] = rows
    return found


def _of_isoflop(fit: ObjectiveFit) -> Array:
    params, loss = fit.params_law, fit.loss_law
    if params is None or loss is None or not 0 < params.exponent < 1 or loss.exponent >= 0:
        return np.empty((0, len(COLUMNS)))
    resamples = min(len(params.draws_R2), len(loss.draws_R2), MOST_ROWS)

    def both(law: PowerLaw) -> Array:
        return np.concatenate([[[math.log(law.coefficient), law.exponent]], law.draws_R2[:resamples]])

    return rows_of_laws(both(params), both(loss), np.zeros(resamples + 1))


def check_rows(rows: object, source: str) -> Array:
    """Rows read from a file. Raises `UsageError` if they are not of this form."""
    try:
        found = np.array([[math.nan if value is None else float(value) for value in row] for row in rows])  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        found = np.empty((0, 0))
    if found.ndim != 2 or found.shape[1:] != (len(COLUMNS),) or not len(found):
        raise UsageError(f"{source}: has no rows of a law: write it with this version of unmask scaling fit")
    return found
