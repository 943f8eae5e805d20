"""Many small minimisations at once: damped Newton steps within a box, for bootstrap resamples and grids of starts.

Every row is a problem of its own. A step is taken along the eigenvectors of the row's Hessian with absolute curvatures
(saddles are left, not approached), damped as Levenberg and Marquardt do until the objective falls. Rows that have
converged leave the batch. A row's result does not depend on which rows share its batch.

Shapes: R rows, K parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from unmask.scaling.laws import Array, Booleans, Indices

Evaluate = Callable[[Array, Indices], tuple[Array, Array, Array]]
"""(theta_RK, numbers_R of the rows) -> objective (R,), gradient (R, K) and Hessian (R, K, K)."""

SMALLEST_DAMPING, LARGEST_DAMPING = 1e-10, 1e8
SMALLEST_STEP = 1e-7
"""Of the parameters, which are logarithms and exponents."""
NEGLIGIBLE = 1e-18
"""An objective that is as good as zero."""


@dataclass(frozen=True)
class Minimised:
    """Where the rows ended."""

    theta_RK: Array
    objective_R: Array
    converged_R: Booleans
    at_bound_RK: Booleans
    """Parameters that ended on a side of the box."""


def minimise(
    theta_RK: Array,
    evaluate: Evaluate,
    lower_K: Array,
    upper_K: Array,
    *,
    iterations: int = 200,
    tolerance: float = 1e-8,
) -> Minimised:
    """Minimise each row from its start.

    A row has converged when its next Newton step would lower the objective by less than `tolerance` of it, when no
    damped step lowers it any more, or when it is as good as zero.
    """
    theta_RK = np.clip(theta_RK, lower_K, upper_K)
    rows = len(theta_RK)
    objective_R = np.full(rows, np.inf)
    converged_R = np.zeros(rows, dtype=np.bool_)
    damping_R = np.full(rows, 1e-3)
    active = np.arange(rows)
    f, g, h = evaluate(theta_RK, active)
    objective_R[active] = f
    for _ in range(iterations):
        theta = theta_RK[active]
        # where the descent points out of the box, that parameter stays
        fixed = ((theta <= lower_K) & (g > 0)) | ((theta >= upper_K) & (g < 0))
        free_g = np.where(fixed, 0.0, g)
        free_h = np.where(fixed[:, :, None] | fixed[:, None, :], 0.0, h)
        curvature, vectors = np.linalg.eigh(free_h)
        curvature = np.abs(curvature)
        largest = np.maximum(curvature.max(axis=1, keepdims=True), 1e-300)
        along = np.einsum("rk,rkl->rl", free_g, vectors)
        decrement = (along**2 / np.maximum(curvature, 1e-12 * largest)).sum(axis=1)
        # in proportion to each curvature, so that a stiff direction does not hold up a soft one
        damped = curvature + damping_R[active, None] * (curvature + 1e-6 * largest)
        step = -np.einsum("rkl,rl->rk", vectors, along / damped)
        candidate = np.clip(theta + step, lower_K, upper_K)

        f2, g2, h2 = evaluate(candidate, active)
        better = f2 < f
        damping_R[active] = np.clip(
            np.where(better, damping_R[active] * 0.2, damping_R[active] * 8), SMALLEST_DAMPING, LARGEST_DAMPING
        )
        theta_RK[active[better]] = candidate[better]
        f, g, h = (
            np.where(better, f2, f),
            np.where(better[:, None], g2, g),
            np.where(better[:, None, None], h2, h),
        )
        objective_R[active] = f
        done = (decrement <= tolerance * np.abs(f)) | (f <= NEGLIGIBLE)
        done |= ~better & ((damping_R[active] >= LARGEST_DAMPING) | (np.abs(step).max(axis=1) <= SMALLEST_STEP))
        converged_R[active[done]] = True
        keep = ~done
        if not keep.any():
            break
        active, f, g, h = active[keep], f[keep], g[keep], h[keep]
    at_bound_RK = (theta_RK <= lower_K) | (theta_RK >= upper_K)
    return Minimised(theta_RK, objective_R, converged_R, at_bound_RK)
