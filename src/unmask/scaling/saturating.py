"""Power laws with an irreducible term, y = y0 + A C^p, by variable projection over the exponent.

Given p, y0 and A (neither negative) are a linear least squares of the relative error; the exponent is searched on a
grid and refined. All resamples are solved at once. With few budgets y0 and p trade off against each other: the fit says
so by the width of its intervals.

Shapes: K budgets, R resamples, G exponents.
"""

from __future__ import annotations

import math

import numpy as np

from unmask.scaling.laws import ENOUGH, Array, PowerLaw, percentile_interval

FEWEST_BUDGETS = 4
"""One more than there are parameters."""
SMALLEST, LARGEST, EXPONENTS = 0.005, 3.0, 60
"""The exponents that are tried, up to the sign."""
REFINEMENTS = 30
SINGULAR = 1e-12
"""A determinant that is all rounding, as a share of its terms."""


def fit_saturating_law(flops_K: Array, values_K: Array, draws_RK: Array | None, sign: int) -> PowerLaw | None:
    """The law through the values, with the `sign` of its exponent; None with fewer than four budgets.

    `draws_RK` are bootstrap values at the budgets (nan where a resample has none).
    """
    if len(flops_K) < FEWEST_BUDGETS:
        return None
    log_center = float(np.log(flops_K).mean())
    x_K = np.log(flops_K) - log_center
    ((floor, scale, exponent),) = _solve(x_K, values_K[None], sign)
    draws_R3 = np.empty((0, 3))
    if draws_RK is not None:
        valid_R = np.isfinite(draws_RK).all(axis=1) & (draws_RK > 0).all(axis=1)
        if valid_R.size and valid_R.mean() >= ENOUGH:
            draws_R3 = _solve(x_K, draws_RK[valid_R], sign)
    logs_R = np.log(np.maximum(draws_R3[:, 1], 1e-300)) - draws_R3[:, 2] * log_center
    return PowerLaw(
        coefficient=float(scale * np.exp(-exponent * log_center)),
        exponent=float(exponent),
        exponent_ci95=percentile_interval(draws_R3[:, 2]),
        exponent_ci95_t=None,
        interval="bootstrap" if len(draws_R3) else None,
        degrees_of_freedom=len(flops_K) - 3,
        irreducible=float(floor),
        irreducible_ci95=percentile_interval(draws_R3[:, 0]),
        draws_R2=np.stack([logs_R, draws_R3[:, 2]], axis=1),
        irreducible_draws_R=draws_R3[:, 0],
    )


def _solve(x_K: Array, values_RK: Array, sign: int) -> Array:
    """(y0, A at the middle of log C, p) of each row."""
    logs_G = np.linspace(math.log(SMALLEST), math.log(LARGEST), EXPONENTS)
    grid_RG = np.broadcast_to(sign * np.exp(logs_G), (len(values_RK), EXPONENTS))
    best_R = np.clip(_project(x_K, values_RK, grid_RG)[0].argmin(axis=1), 1, EXPONENTS - 2)
    low_R1, high_R1 = logs_G[best_R - 1][:, None], logs_G[best_R + 1][:, None]
    golden = (math.sqrt(5) - 1) / 2
    for _ in range(REFINEMENTS):
        width_R1 = golden * (high_R1 - low_R1)
        pair_R2 = np.concatenate([high_R1 - width_R1, low_R1 + width_R1], axis=1)
        error_R2, _, _ = _project(x_K, values_RK, sign * np.exp(pair_R2))
        left_R1 = error_R2[:, :1] < error_R2[:, 1:]
        low_R1 = np.where(left_R1, low_R1, pair_R2[:, :1])
        high_R1 = np.where(left_R1, pair_R2[:, 1:], high_R1)
    exponent_R1 = sign * np.exp((low_R1 + high_R1) / 2)
    _, floor_R1, scale_R1 = _project(x_K, values_RK, exponent_R1)
    return np.concatenate([floor_R1, scale_R1, exponent_R1], axis=1)


def _project(x_K: Array, values_RK: Array, exponent_RG: Array) -> tuple[Array, Array, Array]:
    """The least sum of squared relative errors at given exponents, and the y0 and A that have it, each (R, G)."""
    u_R1K = (1 / values_RK)[:, None, :]
    v_RGK: Array = np.exp(exponent_RG[:, :, None] * x_K) * u_R1K
    uu, su = (u_R1K**2).sum(axis=2), u_R1K.sum(axis=2)
    uv, vv, sv = (u_R1K * v_RGK).sum(axis=2), (v_RGK**2).sum(axis=2), v_RGK.sum(axis=2)
    determinant = uu * vv - uv * uv
    # a resample whose values are orders of magnitude apart hangs on one budget alone, so the two terms are the same
    # there: it gets no floor
    singular = determinant <= SINGULAR * uu * vv
    determinant = np.where(singular, 1.0, determinant)
    floor: Array = np.where(singular, -1.0, (vv * su - uv * sv) / determinant)
    scale: Array = np.where(singular, 0.0, (uu * sv - uv * su) / determinant)
    scale = np.where(floor < 0, sv / vv, scale)
    floor = np.where(scale < 0, su / uu, np.maximum(floor, 0))
    scale = np.maximum(scale, 0)
    error_RGK: Array = floor[:, :, None] * u_R1K + scale[:, :, None] * v_RGK - 1
    return (error_RGK**2).sum(axis=2), floor, scale
