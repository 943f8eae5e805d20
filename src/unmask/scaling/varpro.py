"""Variable projection for L = E + A / N^alpha + B / D^beta: given the exponents, the rest is a linear fit.

Golub and Pereyra (1973): E, A and B (none negative) are solved for exactly at each (alpha, beta), so that only two
parameters are searched. The error is L_law / L - 1 under the same Huber loss as `huber`, so both look for nearly the
same law by different ways: where they disagree, the data do not fix it. No parabola takes part, and so none of the
bias that a parabola has away from its lowest point.

Shapes: R resamples, P points, S = 3 coefficients (A, B, E, of centred log N and log D), K = 2 exponents.
"""

from __future__ import annotations

from itertools import combinations
from typing import cast

import numpy as np

from unmask.scaling.huber import LARGEST_EXPONENT, SMALLEST_EXPONENT, LogHuber
from unmask.scaling.laws import Array, Indices
from unmask.scaling.newton import Minimised, minimise

INNER_ITERATIONS = 60
INNER_TOLERANCE = 1e-9
STEP = 1e-4
"""Of the exponents, for the differences of gradients."""
SUBSETS = [subset for count in (2, 1) for subset in combinations(range(3), count)]


class VariableProjection:
    """The projected objective over the points of a `LogHuber`."""

    def __init__(self, problem: LogHuber) -> None:
        self.problem = problem
        self.inverse_P = np.exp(-problem.y_P)
        self.lower_K = np.full(2, SMALLEST_EXPONENT)
        self.upper_K = np.full(2, LARGEST_EXPONENT)

    def fit(self) -> tuple[Array, float]:
        """The best parameters in the form of `LogHuber` (a, b, e, alpha, beta), and their objective here."""
        grid = np.array([(alpha, beta) for alpha in (0.1, 0.2, 0.4, 0.8, 1.6) for beta in (0.1, 0.2, 0.4, 0.8, 1.6)])
        ones = np.ones((len(grid), len(self.inverse_P)))
        value_R, _, _ = self._project(grid, ones)
        starts = grid[np.argsort(value_R)[:4]]
        found = self.refine(starts, ones[:4])
        winner = int(np.argmin(found.objective_R))
        return self.theta(found.theta_RK[winner : winner + 1], ones[:1])[0], float(found.objective_R[winner])

    def refine(self, exponents_RK: Array, weights_RP: Array) -> Minimised:
        """Newton over the exponents, each row with its own weights."""

        def evaluate(exponents: Array, rows: Indices) -> tuple[Array, Array, Array]:
            return self._evaluate(exponents, weights_RP[rows])

        return minimise(
            exponents_RK,
            evaluate,
            self.lower_K,
            self.upper_K,
            tolerance=1e-7,
        )

    def theta(self, exponents_RK: Array, weights_RP: Array) -> Array:
        """The parameters (a, b, e, alpha, beta) at the best coefficients for these exponents."""
        _, _, coefficients_RS = self._project(exponents_RK, weights_RP)
        with np.errstate(divide="ignore"):
            logs = np.maximum(np.log(coefficients_RS), self.problem.lower_K[:3])
        return np.concatenate([logs, exponents_RK], axis=1)

    def _evaluate(self, exponents_RK: Array, weights_RP: Array) -> tuple[Array, Array, Array]:
        value, gradient, _ = self._project(exponents_RK, weights_RP)
        columns: list[Array] = []
        for k in range(2):
            shift = np.zeros(2)
            shift[k] = STEP
            _, above, _ = self._project(exponents_RK + shift, weights_RP)
            _, below, _ = self._project(exponents_RK - shift, weights_RP)
            columns.append((above - below) / (2 * STEP))
        hessian = np.stack(columns, axis=1)
        return value, gradient, (hessian + hessian.transpose(0, 2, 1)) / 2

    def _project(self, exponents_RK: Array, weights_RP: Array) -> tuple[Array, Array, Array]:
        """The objective at the best coefficients, its gradient in the exponents, and the coefficients (R, S).

        The coefficients come from least squares that are weighed again until the weights are those of the Huber loss.
        At the best coefficients the gradient is that at fixed coefficients.
        """
        problem = self.problem
        alpha, beta = exponents_RK[:, :1], exponents_RK[:, 1:]
        basis_RSP = np.stack(
            [
                np.exp(-alpha * problem.n_P) * self.inverse_P,
                np.exp(-beta * problem.d_P) * self.inverse_P,
                np.broadcast_to(self.inverse_P, (len(alpha), len(self.inverse_P))),
            ],
            axis=1,
        )
        coefficients = _least_squares(basis_RSP, weights_RP)
        active = np.arange(len(alpha))
        for _ in range(INNER_ITERATIONS):
            basis = basis_RSP[active]
            error = _error(basis, coefficients[active])
            robust = weights_RP[active] / np.maximum(np.abs(error) / problem.delta, 1)
            renewed = _least_squares(basis, robust)
            moved = np.abs(_error(basis, renewed) - error).max(axis=1)
            coefficients[active] = renewed
            active = active[moved > INNER_TOLERANCE]
            if not len(active):
                break
        error = _error(basis_RSP, coefficients)
        size = np.abs(error)
        huber = np.where(size <= problem.delta, 0.5 * error**2, problem.delta * (size - 0.5 * problem.delta))
        slope = weights_RP * np.clip(error, -problem.delta, problem.delta)
        gradient = np.stack(
            [
                -coefficients[:, 0] * np.einsum("rp,rp,p->r", slope, basis_RSP[:, 0], problem.n_P),
                -coefficients[:, 1] * np.einsum("rp,rp,p->r", slope, basis_RSP[:, 1], problem.d_P),
            ],
            axis=1,
        )
        return (weights_RP * huber).sum(axis=1), gradient, coefficients


def _error(basis_RSP: Array, coefficients_RS: Array) -> Array:
    return np.matmul(coefficients_RS[:, None, :], basis_RSP)[:, 0] - 1


def _least_squares(basis_RSP: Array, weights_RP: Array) -> Array:
    """Coefficients (R, S), none negative, that bring the weighted sum of the basis nearest to 1."""
    weighted = basis_RSP * weights_RP[:, None, :]
    gram_RSS = np.matmul(weighted, basis_RSP.transpose(0, 2, 1))
    target_RS = weighted.sum(axis=2)
    # a ridge far below any curvature that matters, for exponents at which two terms are nearly one
    scale = np.trace(gram_RSS, axis1=1, axis2=2)[:, None, None]
    gram_RSS = gram_RSS + 1e-13 * scale * np.eye(3)
    coefficients = _solve(gram_RSS, target_RS)
    wrong = np.flatnonzero((coefficients < 0).any(axis=1))
    if len(wrong):
        coefficients[wrong] = _nonnegative(gram_RSS[wrong], target_RS[wrong])
    return coefficients


def _solve(matrix_RSS: Array, right_RS: Array) -> Array:
    return cast(Array, np.linalg.solve(matrix_RSS, right_RS[:, :, None]))[:, :, 0]


def _nonnegative(gram_RSS: Array, target_RS: Array) -> Array:
    """The best coefficients on a face: of all subsets of terms, the feasible one with the lowest error."""
    best = np.zeros_like(target_RS)
    lowest = np.full(len(target_RS), np.inf)
    for subset in SUBSETS:
        index = list(subset)
        trial = np.zeros_like(target_RS)
        inner = gram_RSS[:, index][:, :, index]
        trial[:, index] = _solve(inner, target_RS[:, index])
        error = np.einsum("rs,rst,rt->r", trial, gram_RSS, trial) - 2 * (trial * target_RS).sum(axis=1)
        better = (trial >= 0).all(axis=1) & (error < lowest)
        best[better], lowest[better] = trial[better], error[better]
    return best
