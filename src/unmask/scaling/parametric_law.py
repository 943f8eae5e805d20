"""The parametric law L(N, D) = E + A / N^alpha + B / D^beta of an objective, and what follows from it.

With C = 6 N D, the best size is N* = G (C/6)^(beta / (alpha + beta)), with D* = (C/6)^(alpha / (alpha + beta)) / G
tokens, where G = (alpha A / (beta B))^(1 / (alpha + beta)), and the loss is E + K C^(-alpha beta / (alpha + beta))
(Hoffmann et al., 2022, approach 3). `parametric` fits it.

Shapes: R resamples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from unmask.scaling.comparison import ExponentTest
from unmask.scaling.huber import DELTA
from unmask.scaling.laws import Array, ComputeGap, Interval, PowerLaw, percentile_interval

Solver = Literal["huber", "varpro"]
NAMES = ("E", "A", "alpha", "B", "beta")


@dataclass(frozen=True)
class ParametricLaw:
    """The law of one objective."""

    objective: str
    E: float
    """Irreducible loss, nats per token."""
    A: float
    alpha: float
    B: float
    beta: float
    ci95: dict[str, Interval | None]
    """The 95% interval of each of the five, by name."""
    value: float
    """The minimised objective: the sum of the Huber losses."""
    points: int
    solver: Solver
    residuals: tuple[float, ...] = field(default=(), repr=False)
    """log of the law less log of the loss, for each point in order."""
    params_range: Interval = (math.nan, math.nan)
    tokens_range: Interval = (math.nan, math.nan)
    flops_range: Interval = (math.nan, math.nan)
    left_out_error: float | None = None
    """Mean of |law / loss - 1| over the runs of a budget when that budget is left out of the fit; None with too few."""
    cross_check: dict[str, float] = field(default_factory=dict[str, float])
    """The five parameters by the other solver."""
    notes: tuple[str, ...] = ()
    """What the reader should know about the strength of this fit, in sentences."""
    draws_R5: Array = field(default_factory=lambda: np.empty((0, 5)), repr=False, compare=False)
    """(E, log A, alpha, log B, beta) of each resample."""

    def predict(self, params: npt.ArrayLike, tokens: npt.ArrayLike) -> Array:
        """The loss at N `params` and D `tokens`."""
        n, d = np.asarray(params, dtype=np.float64), np.asarray(tokens, dtype=np.float64)
        return self.E + self.A * n**-self.alpha + self.B * d**-self.beta

    @property
    def residual_std(self) -> float:
        """Standard deviation of the residuals, relative to the loss."""
        return float(np.sqrt(np.square(self.residuals).sum() / max(len(self.residuals) - 5, 1)))

    @property
    def params_law(self) -> PowerLaw:
        """The best N at each budget."""
        return self._law("params")

    @property
    def tokens_law(self) -> PowerLaw:
        """The best D at each budget."""
        return self._law("tokens")

    @property
    def loss_law(self) -> PowerLaw:
        """The loss of the best size at each budget, with its irreducible term."""
        return self._law("loss")

    def _law(self, what: str) -> PowerLaw:
        centre = np.array([[self.E, math.log(self.A), self.alpha, math.log(self.B), self.beta]])
        ((log_coefficient, exponent),) = optimum_laws(centre)[what]
        draws_R2 = optimum_laws(self.draws_R5)[what]
        known = len(draws_R2) > 0
        return PowerLaw(
            coefficient=float(np.exp(log_coefficient)),
            exponent=float(exponent),
            exponent_ci95=percentile_interval(draws_R2[:, 1]),
            exponent_ci95_t=None,
            interval="bootstrap" if known else None,
            degrees_of_freedom=self.points - len(NAMES),
            irreducible=self.E if what == "loss" else 0.0,
            irreducible_ci95=self.ci95["E"] if what == "loss" else None,
            draws_R2=draws_R2,
            irreducible_draws_R=self.draws_R5[:, 0] if what == "loss" and known else np.empty(0),
        )

    def to_dict(self) -> dict[str, Any]:
        """A dict for JSON."""
        values = {"E": self.E, "A": self.A, "alpha": self.alpha, "B": self.B, "beta": self.beta}
        return {
            **{name: {"value": value, "ci95": self.ci95[name]} for name, value in values.items()},
            "objective": self.value,
            "solver": self.solver,
            "points": self.points,
            "params_range": self.params_range,
            "tokens_range": self.tokens_range,
            "params_law": self.params_law.to_dict(),
            "tokens_law": self.tokens_law.to_dict(),
            "loss_law": self.loss_law.to_dict(),
            "residual_std": self.residual_std,
            "left_out_error": self.left_out_error,
            "cross_check": self.cross_check,
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class ParametricFit:
    """The parametric laws of all objectives."""

    objectives: dict[str, ParametricLaw]
    gaps: tuple[ComputeGap, ...]
    """The compute gap of each further objective over the baseline: "arm" where it is there."""
    tests: tuple[ExponentTest, ...]
    points: int
    convention: str
    resamples: int
    seed: int
    delta: float = DELTA
    unfit: dict[str, str] = field(default_factory=dict[str, str])
    """Why an objective has no law, by its name."""

    @property
    def compute_gap(self) -> ComputeGap | None:
        """The first of `gaps`."""
        return self.gaps[0] if self.gaps else None

    def to_dict(self) -> dict[str, Any]:
        """A dict for JSON."""
        return {
            "format": "unmask-fits-1",
            "method": "parametric",
            "points": self.points,
            "flop_convention": self.convention,
            "bootstrap": self.resamples,
            "seed": self.seed,
            "delta": self.delta,
            "objectives": {name: law.to_dict() for name, law in self.objectives.items()},
            **({"unfit": self.unfit} if self.unfit else {}),
            "compute_gap": self.gaps[0].to_dict() if self.gaps else None,
            **({"compute_gaps": [gap.to_dict() for gap in self.gaps]} if len(self.gaps) > 1 else {}),
            "exponent_tests": [test.to_dict() for test in self.tests],
        }


def optimum_laws(draws_R5: Array) -> dict[str, Array]:
    """(log coefficient, exponent) of N*, D* and L* - E for each (E, log A, alpha, log B, beta)."""
    _, log_a, alpha, log_b, beta = draws_R5.T
    total = alpha + beta
    log_g = (np.log(alpha) + log_a - np.log(beta) - log_b) / total
    six = math.log(6)
    exponent = alpha * beta / total
    log_k = np.logaddexp(log_a - alpha * log_g, log_b + beta * log_g) + exponent * six
    return {
        "params": np.stack([log_g - beta / total * six, beta / total], axis=1),
        "tokens": np.stack([-log_g - alpha / total * six, alpha / total], axis=1),
        "loss": np.stack([log_k, -exponent], axis=1),
    }
