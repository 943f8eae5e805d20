"""The objective of Hoffmann et al. (2022), approach 3: a Huber loss on log L, for many weightings of the runs at once.

log L = logsumexp(log A - alpha log N, log B - beta log D, log E). The Huber losses are summed over the runs, not
averaged: an average is so small that L-BFGS stops before it has begun (Besiroglu et al., 2024). Log N and log D are
centred, which makes the coefficients nearly independent of the exponents.

Shapes: R resamples, P points, K = 5 parameters (a, b, e, alpha, beta): a and b are the logs of the two terms at the
mean of log N and log D, e is log E.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from scipy import optimize

from unmask.scaling.laws import Array
from unmask.scaling.newton import Minimised, minimise
from unmask.scaling.points import Point

DELTA = 1e-3
"""Where the Huber loss turns from a square into a line; of log L."""
SMALLEST_EXPONENT, LARGEST_EXPONENT = 1e-3, 5.0
STARTS_POLISHED = 8


class LogHuber:
    """The points of one objective, and the objective over them."""

    def __init__(self, points: Sequence[Point], delta: float = DELTA) -> None:
        log_params_P = np.log([point.params for point in points])
        log_tokens_P = np.log([point.tokens for point in points])
        self.delta = delta
        self.params_center = float(log_params_P.mean())
        self.tokens_center = float(log_tokens_P.mean())
        self.n_P = log_params_P - self.params_center
        self.d_P = log_tokens_P - self.tokens_center
        self.y_P = np.log([point.loss for point in points])
        low, high = float(self.y_P.min()), float(self.y_P.max())
        # no term can be far above the losses; one that is far below them is nothing
        self.lower_K = np.array([low - 20, low - 20, low - 10, SMALLEST_EXPONENT, SMALLEST_EXPONENT])
        self.upper_K = np.array([high + 5, high + 5, high, LARGEST_EXPONENT, LARGEST_EXPONENT])

    def residuals(self, theta_RK: Array) -> Array:
        """Log of the law less log of the loss, (R, P)."""
        first, second, third = self._terms(theta_RK)
        return np.logaddexp(np.logaddexp(first, second), third) - self.y_P

    def value(self, theta_RK: Array, weights_RP: Array | float = 1.0) -> Array:
        """The objective, (R,)."""
        return (weights_RP * self._huber(self.residuals(theta_RK))).sum(axis=1)

    def evaluate(self, theta_RK: Array, weights_RP: Array) -> tuple[Array, Array, Array]:
        """The objective, its gradient and its Hessian."""
        first, second, third = self._terms(theta_RK)
        top = np.maximum(np.maximum(first, second), third)
        first, second, third = np.exp(first - top), np.exp(second - top), np.exp(third - top)
        total = first + second + third
        residual = top + np.log(total) - self.y_P
        # the shares of the three terms are the derivatives of the log-sum-exp
        first, second, third = first / total, second / total, third / total
        slope = weights_RP * np.clip(residual, -self.delta, self.delta)
        bend = weights_RP * (np.abs(residual) <= self.delta) - slope
        columns = [first, second, third, -self.n_P * first, -self.d_P * second]
        jacobian_RKP = np.stack(columns, axis=1)
        gradient = np.matmul(jacobian_RKP, slope[:, :, None])[:, :, 0]
        hessian = np.matmul(jacobian_RKP * bend[:, None, :], jacobian_RKP.transpose(0, 2, 1))
        for term, row, exponent, x_P in ((first, 0, 3, self.n_P), (second, 1, 4, self.d_P)):
            pull = slope * term
            cross = -(pull @ x_P)
            hessian[:, row, row] += pull.sum(axis=1)
            hessian[:, row, exponent] += cross
            hessian[:, exponent, row] += cross
            hessian[:, exponent, exponent] += pull @ (x_P * x_P)
        hessian[:, 2, 2] += (slope * third).sum(axis=1)
        return (weights_RP * self._huber(residual)).sum(axis=1), gradient, hessian

    def starts(self) -> Array:
        """A grid of starts: what share of the loss is irreducible, how the rest is split, and both exponents."""
        mean = float(self.y_P.mean())
        return np.array(
            [
                [mean + np.log((1 - floor) * split), mean + np.log((1 - floor) * (1 - split)), mean + np.log(floor), *x]
                for floor in (0.02, 0.3, 0.6, 0.85)
                for split in (0.2, 0.5, 0.8)
                for x in ((alpha, beta) for alpha in (0.1, 0.3, 0.6, 1.2) for beta in (0.1, 0.3, 0.6, 1.2))
            ]
        )

    def fit(self) -> tuple[Array, float]:
        """The best parameters (K,) and their objective: L-BFGS from the best of the starts, then Newton to the end."""
        starts = self.starts()
        best = starts[np.argsort(self.value(starts))[:STARTS_POLISHED]]
        ones = np.ones((1, len(self.y_P)))
        scale = 1 / self.delta**2

        def scaled(theta_K: Array) -> tuple[float, Array]:
            value, gradient, _ = self.evaluate(theta_K[None], ones)
            return float(value[0]) * scale, gradient[0] * scale

        bounds = list(zip(self.lower_K, self.upper_K, strict=True))
        options = {"maxiter": 1000, "maxfun": 3000, "ftol": 1e-12, "gtol": 1e-8}
        ends = [
            cast(Any, optimize.minimize)(scaled, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x
            for start in best
        ]
        found = self.refine(np.stack(ends), np.ones((len(ends), len(self.y_P))), tolerance=1e-12)
        winner = int(np.argmin(found.objective_R))
        return found.theta_RK[winner], float(found.objective_R[winner])

    def refine(self, theta_RK: Array, weights_RP: Array, tolerance: float = 1e-8) -> Minimised:
        """Newton from `theta_RK`, each row with its own weights."""
        return minimise(
            theta_RK,
            lambda theta, rows: self.evaluate(theta, weights_RP[rows]),
            self.lower_K,
            self.upper_K,
            tolerance=tolerance,
        )

    def natural(self, theta_RK: Array) -> Array:
        """(E, log A, alpha, log B, beta) of each row."""
        a, b, e, alpha, beta = theta_RK.T
        return np.stack([np.exp(e), a + alpha * self.params_center, alpha, b + beta * self.tokens_center, beta], axis=1)

    def centred(self, E: float, A: float, alpha: float, B: float, beta: float) -> Array:
        """The parameters (K,) of a law."""
        return np.array(
            [np.log(A) - alpha * self.params_center, np.log(B) - beta * self.tokens_center, np.log(E), alpha, beta]
        )

    def _terms(self, theta_RK: Array) -> tuple[Array, Array, Array]:
        a, b, e, alpha, beta = (theta_RK[:, k : k + 1] for k in range(5))
        first = a - alpha * self.n_P
        return first, b - beta * self.d_P, np.broadcast_to(e, first.shape)

    def _huber(self, residual: Array) -> Array:
        size = np.abs(residual)
        return np.where(size <= self.delta, 0.5 * residual**2, self.delta * (size - 0.5 * self.delta))
