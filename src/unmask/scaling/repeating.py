"""The value of repeated data: L = E + A / N'^alpha + B / D'^beta with effective parameters N' and tokens D'.

Muennighoff et al. (2023): of D tokens of which U are distinct, each further epoch is worth less,

    D' = U (1 + R_D (1 - exp(-x_D / R_D))),  x_D = D / U - 1,

and so are parameters beyond the N_opt(U) that are best for U fresh tokens: N' is the same of U_N = min(N, N_opt(U))
with x_N = N / U_N - 1 and R_N. However long the training, D' stays below U (1 + R_D).

Shapes: R resamples, P points, K = 7 parameters (a, b, e, alpha, beta of `huber`, and log R_D, log R_N).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

import numpy as np
from scipy import optimize

from unmask.scaling.huber import DELTA, LogHuber
from unmask.scaling.laws import Array, Indices
from unmask.scaling.newton import Minimised, minimise
from unmask.scaling.points import Point

Space = Literal["log", "loss"]
STEP = 1e-5
"""For the differences of gradients."""
SMALLEST_R, LARGEST_R = 0.1, 1e5
NO_DECAY = 1e9
"""An R at which nothing decays."""


class Repeating:
    """The points of one objective, and the Huber objective over them."""

    def __init__(
        self,
        points: Sequence[Point],
        delta: float = DELTA,
        *,
        base: Sequence[float] | None = None,
        excess_params: bool = True,
        space: Space = "log",
    ) -> None:
        """`base` fixes (E, A, alpha, B, beta). Without `excess_params` parameters never lose their value.

        The Huber loss is of log L, or with `space` "loss" of L itself, as Muennighoff et al. have it.
        """
        self.space = space
        self.problem = LogHuber(points, delta)
        self.log_params_P = np.log([point.params for point in points])
        unique_P = np.array([min(point.unique_tokens or point.tokens, point.tokens) for point in points])
        self.log_unique_P = np.log(unique_P)
        self.repeats_P = np.array([point.tokens for point in points]) / unique_P - 1
        ends = np.log([SMALLEST_R, LARGEST_R])
        self.lower_K = np.concatenate([self.problem.lower_K, [ends[0], ends[0]]])
        self.upper_K = np.concatenate([self.problem.upper_K, [ends[1], ends[1]]])
        if base is not None:
            self.lower_K[:5] = self.upper_K[:5] = self.problem.centred(*base)
        if not excess_params:
            self.lower_K[6] = self.upper_K[6] = np.log(NO_DECAY)

    def residuals(self, theta_RK: Array) -> Array:
        """Log of the law less log of the loss, (R, P)."""
        return self._law(theta_RK)[0]

    def _errors(self, theta_RK: Array) -> tuple[Array, Array]:
        """What the Huber loss is of (R, P), and its derivatives (R, K, P)."""
        residual, jacobian_RKP = self._law(theta_RK)
        if self.space == "log":
            return residual, jacobian_RKP
        law = np.exp(residual + self.problem.y_P)
        return law - np.exp(self.problem.y_P), jacobian_RKP * law[:, None]

    def value(self, theta_RK: Array) -> Array:
        """The objective, (R,)."""
        return _huber(self._errors(theta_RK)[0], self.problem.delta).sum(axis=1)

    def gradient(self, theta_RK: Array, weights_RP: Array) -> tuple[Array, Array]:
        """The objective (R,) and its gradient (R, K)."""
        residual, jacobian_RKP = self._errors(theta_RK)
        delta = self.problem.delta
        slope = weights_RP * np.clip(residual, -delta, delta)
        value = (weights_RP * _huber(residual, delta)).sum(axis=1)
        return value, np.matmul(jacobian_RKP, slope[:, :, None])[:, :, 0]

    def fit(self, start: Array) -> tuple[Array, float]:
        """The best parameters (K,) and their objective, from `start` (5,) and a grid of both R."""
        grid = [np.log([r_d, r_n]) for r_d in (3, 15, 60, 300) for r_n in (1, 5, 40)]
        starts = np.clip(np.array([[*start, *pair] for pair in grid]), self.lower_K, self.upper_K)
        starts = starts[np.argsort(self.value(starts))[:6]]
        ones_P = np.ones(len(self.repeats_P))
        ends = [self._search(each, ones_P) for each in starts]
        found = self.refine(np.stack(ends), np.ones((len(ends), len(self.repeats_P))), tolerance=1e-10)
        winner = int(np.argmin(found.objective_R))
        return found.theta_RK[winner], float(found.objective_R[winner])

    def resample(self, best_K: Array, weights_RP: Array) -> Array:
        """The best parameters (R, K) of each weighting, from those of the full fit.

        Newton's method settles most rows. Where the kinks of the Huber loss hold it up, L-BFGS goes on from there.
        """
        found = self.refine(np.repeat(best_K[None], len(weights_RP), axis=0), weights_RP)
        theta_RK = found.theta_RK
        for row in np.flatnonzero(~found.converged_R):
            theta_RK[row] = self._search(theta_RK[row], weights_RP[row])
        return theta_RK

    def _search(self, start_K: Array, weights_P: Array) -> Array:
        """L-BFGS from one start."""
        scale = 1 / self.problem.delta**2

        def scaled(theta_K: Array) -> tuple[float, Array]:
            value, gradient = self.gradient(theta_K[None], weights_P[None])
            return float(value[0]) * scale, gradient[0] * scale

        bounds = list(zip(self.lower_K, self.upper_K, strict=True))
        options = {"maxiter": 2000, "maxfun": 4000, "ftol": 1e-11, "gtol": 1e-7}
        found = cast(Any, optimize.minimize)(
            scaled, start_K, jac=True, method="L-BFGS-B", bounds=bounds, options=options
        )
        return found.x

    def refine(self, theta_RK: Array, weights_RP: Array, tolerance: float = 1e-6) -> Minimised:
        """Newton from `theta_RK`, each row with its own weights."""
        free = np.flatnonzero(self.lower_K < self.upper_K)

        def evaluate(theta: Array, rows: Indices) -> tuple[Array, Array, Array]:
            weights = weights_RP[rows]
            value, gradient = self.gradient(theta, weights)
            hessian = np.zeros((len(theta), len(self.lower_K), len(self.lower_K)))
            for k in free:
                shift = np.zeros(len(self.lower_K))
                shift[k] = STEP
                hessian[:, :, k] = (self.gradient(theta + shift, weights)[1] - gradient) / STEP
            return value, gradient, (hessian + hessian.transpose(0, 2, 1)) / 2

        return minimise(theta_RK, evaluate, self.lower_K, self.upper_K, tolerance=tolerance, iterations=60)

    def natural(self, theta_RK: Array) -> Array:
        """(E, log A, alpha, log B, beta, log R_D, log R_N) of each row."""
        return np.concatenate([self.problem.natural(theta_RK[:, :5]), theta_RK[:, 5:]], axis=1)

    def _law(self, theta_RK: Array) -> tuple[Array, Array]:
        """Residuals (R, P) and their derivatives (R, K, P)."""
        problem = self.problem
        a, b, e, alpha, beta, log_r_d, log_r_n = (theta_RK[:, k : k + 1] for k in range(7))
        log_a, log_b = a + alpha * problem.params_center, b + beta * problem.tokens_center
        log_tokens, by_r_d = decayed(self.log_unique_P, self.repeats_P, log_r_d)

        # N_opt(U): where C is such that U is the best D
        balance = np.log(alpha / beta) + log_a - log_b
        log_best = (balance + beta * self.log_unique_P) / alpha
        below = log_best < self.log_params_P
        log_base = np.where(below, log_best, self.log_params_P)
        excess = np.expm1(np.minimum(self.log_params_P - log_base, 300.0))
        log_params, by_r_n = decayed(log_base, excess, log_r_n)
        # how N' follows N_opt(U), where that is what limits it
        worth = np.exp(log_params - log_base)
        by_best = np.where(below, 1 - (excess + 1) * np.exp(-excess / np.exp(log_r_n)) / worth, 0.0)

        terms = np.stack([log_a - alpha * log_params, log_b - beta * log_tokens, np.broadcast_to(e, log_params.shape)])
        top = terms.max(axis=0)
        shares = np.exp(terms - top)
        total = shares.sum(axis=0)
        residual = top + np.log(total) - problem.y_P
        first, second, third = shares / total
        pull = -alpha * first * by_best
        in_alpha = (1 / alpha + problem.params_center - log_best) / alpha
        in_beta = (self.log_unique_P - 1 / beta - problem.tokens_center) / alpha
        jacobian = np.stack(
            [
                first + pull / alpha,
                second - pull / alpha,
                third,
                first * (problem.params_center - log_params) + pull * in_alpha,
                second * (problem.tokens_center - log_tokens) + pull * in_beta,
                -beta * second * by_r_d,
                -alpha * first * by_r_n,
            ],
            axis=1,
        )
        return residual, jacobian


def decayed(log_base: Array, repeats: Array, log_r: Array) -> tuple[Array, Array]:
    """log(base (1 + r (1 - exp(-repeats / r)))) and its derivative in log r."""
    r = np.exp(log_r)
    ratio = repeats / r
    gained = -np.expm1(-ratio)
    worth = 1 + r * gained
    return log_base + np.log(worth), r * (gained - ratio * np.exp(-ratio)) / worth


def _huber(residual: Array, delta: float) -> Array:
    size = np.abs(residual)
    return np.where(size <= delta, 0.5 * residual**2, delta * (size - 0.5 * delta))
