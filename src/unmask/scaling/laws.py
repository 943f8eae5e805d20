"""Power laws y = irreducible + coefficient * C^exponent, their intervals, and the compute gap between two of them.

Nie et al. (2025) fit a straight line in log-log without an irreducible term; so does `fit_power_law`. Two kinds of
95% interval stand side by side, for they answer different questions: the t interval of the regression asks how far the
points scatter about the line (and knows little with few budgets), the bootstrap asks what the noise of the single runs
does to the line (and does not know whether the line is the right law).

Shapes: K budgets, R resamples, Q queried values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import special

Array = npt.NDArray[np.float64]
Booleans = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.intp]
Interval = tuple[float, float]

ENOUGH = 0.95
"""An interval is given only if at least this share of the resamples has a value."""


@dataclass(frozen=True)
class PowerLaw:
    """y = irreducible + coefficient * C^exponent."""

    coefficient: float
    exponent: float
    exponent_ci95: Interval | None
    """By the bootstrap where the noise of the runs is known, else by t; None where neither is possible."""
    exponent_ci95_t: Interval | None
    """By the t distribution on the regression; None with two budgets."""
    interval: Literal["bootstrap", "t"] | None
    """What `exponent_ci95` and `draws_R2` come from."""
    degrees_of_freedom: int
    """Budgets less two."""
    irreducible: float = 0.0
    irreducible_ci95: Interval | None = None
    draws_R2: Array = field(default_factory=lambda: np.empty((0, 2)), repr=False, compare=False)
    """(log coefficient, exponent) of each resample."""
    irreducible_draws_R: Array = field(default_factory=lambda: np.empty(0), repr=False, compare=False)
    """The irreducible term of each resample; empty where all have `irreducible`."""

    def predict(self, flops: npt.ArrayLike) -> Array:
        """The law at each of `flops`."""
        return self.irreducible + self.coefficient * np.asarray(flops, dtype=np.float64) ** self.exponent

    def band(self, flops: npt.ArrayLike) -> tuple[Array, Array] | None:
        """The 95% band of the law at each of `flops`, or None without an interval."""
        if self.interval is None:
            return None
        log_flops_Q = np.log(np.asarray(flops, dtype=np.float64))
        low, high = np.percentile(self.predict_draws(log_flops_Q), [2.5, 97.5], axis=0)
        return low, high

    def predict_draws(self, log_flops_Q: Array) -> Array:
        """The (R, Q) values of each resample at each log C."""
        return self._floor() + np.exp(self.draws_R2[:, :1] + self.draws_R2[:, 1:] * log_flops_Q)

    def inverse(self, value: npt.ArrayLike) -> Array:
        """The FLOPs at which the law takes each `value`; nan below the irreducible term."""
        above = np.asarray(value, dtype=np.float64) - self.irreducible
        with np.errstate(invalid="ignore"):
            return np.exp((np.log(above) - math.log(self.coefficient)) / self.exponent)

    def inverse_draws(self, values_Q: Array) -> Array:
        """The (R, Q) FLOPs at which each resample takes each value; nan where it never falls to it."""
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            slope_R1 = np.where(self.draws_R2[:, 1:] < 0, self.draws_R2[:, 1:], np.nan)
            return np.exp((np.log(values_Q - self._floor()) - self.draws_R2[:, :1]) / slope_R1)

    def _floor(self) -> Array | float:
        """The irreducible term as (R, 1), or the one of all resamples."""
        return self.irreducible_draws_R[:, None] if len(self.irreducible_draws_R) else self.irreducible

    def to_dict(self) -> dict[str, Any]:
        """A dict for JSON."""
        return {
            "coefficient": self.coefficient,
            "exponent": self.exponent,
            "exponent_ci95": self.exponent_ci95,
            "exponent_ci95_t": self.exponent_ci95_t,
            "interval": self.interval,
            "degrees_of_freedom": self.degrees_of_freedom,
            "irreducible": self.irreducible,
            **({"irreducible_ci95": self.irreducible_ci95} if self.irreducible_ci95 else {}),
        }


@dataclass(frozen=True)
class ComputeGap:
    """How many times the compute of `baseline` the objective `objective` needs for the same loss."""

    objective: str
    baseline: str
    losses: tuple[float, ...]
    """Nats per token."""
    gaps: tuple[float, ...]
    gaps_ci95: tuple[Interval | None, ...]
    observed: Interval | None
    """Losses that the minima of both reach, so that neither law is extrapolated; None if there are none."""
    exponent_difference: float
    """Loss exponent of `objective` less that of `baseline`."""
    exponent_difference_ci95: Interval | None
    params_ratio: tuple[float, ...]
    """Optimal parameters of `objective` over those of `baseline`, at each budget of both."""

    @property
    def shown_loss(self) -> float:
        """The loss at which to quote the gap: the middle of what both reached, or else of what either did."""
        low, high = self.observed or (min(self.losses), max(self.losses))
        return math.sqrt(low * high)

    def to_dict(self) -> dict[str, Any]:
        """A dict for JSON."""
        rows = zip(self.losses, self.gaps, self.gaps_ci95, strict=True)
        return {
            "objective": self.objective,
            "baseline": self.baseline,
            "curve": [{"loss": loss, "gap": gap, "gap_ci95": ci95} for loss, gap, ci95 in rows],
            "observed": self.observed,
            "exponent_difference": self.exponent_difference,
            "exponent_difference_ci95": self.exponent_difference_ci95,
            "params_ratio": self.params_ratio,
        }


def fit_power_law(flops_K: Array, values_K: Array, draws_RK: Array | None, rng: np.random.Generator) -> PowerLaw:
    """Least squares of log value on log C, over at least two budgets.

    `draws_RK` are bootstrap values at the budgets (nan where a resample has none). Without them the resamples are
    drawn from the t distribution of the regression, if it has a degree of freedom.
    """
    design_K2 = np.stack([np.ones_like(flops_K), np.log(flops_K)], axis=1)
    # the line is solved about the mean of log C, where intercept and slope are uncorrelated
    center = float(design_K2[:, 1].mean())
    x_K = design_K2[:, 1] - center
    spread = float(np.sqrt(x_K @ x_K))

    def line(log_values: Array) -> tuple[Array, Array]:
        return log_values.mean(axis=-1), log_values @ x_K / spread**2

    mean, slope = (float(part) for part in line(np.log(values_K)))
    freedom = len(flops_K) - 2
    t_interval: Interval | None = None
    scatter = 0.0
    if freedom > 0:
        residual_K = np.log(values_K) - mean - slope * x_K
        scatter = math.sqrt(float(residual_K @ residual_K) / freedom)
        reach = float(special.stdtrit(freedom, 0.975)) * scatter / spread
        t_interval = (slope - reach, slope + reach)

    interval: Literal["bootstrap", "t"] | None = None
    means_R, slopes_R = np.empty(0), np.empty(0)
    if draws_RK is not None:
        with np.errstate(invalid="ignore", divide="ignore"):
            log_draws_RK = np.log(draws_RK)
        valid_R = np.isfinite(log_draws_RK.sum(axis=1))
        if valid_R.size and valid_R.mean() >= ENOUGH:
            interval = "bootstrap"
            means_R, slopes_R = line(log_draws_RK[valid_R])
    elif freedom > 0:
        interval = "t"
        resamples = 4000
        scale_R = scatter * np.sqrt(freedom / rng.chisquare(freedom, resamples))
        means_R = mean + scale_R * rng.standard_normal(resamples) / math.sqrt(len(flops_K))
        slopes_R = slope + scale_R * rng.standard_normal(resamples) / spread

    return PowerLaw(
        coefficient=math.exp(mean - slope * center),
        exponent=slope,
        exponent_ci95=t_interval if interval == "t" else percentile_interval(slopes_R),
        exponent_ci95_t=t_interval,
        interval=interval,
        degrees_of_freedom=freedom,
        draws_R2=np.stack([means_R - slopes_R * center, slopes_R], axis=1),
    )


def compute_gap(
    objective: str,
    baseline: str,
    law: PowerLaw,
    baseline_law: PowerLaw,
    losses: Sequence[float],
    *,
    observed: Interval | None,
    params_ratio: Sequence[float] = (),
) -> ComputeGap | None:
    """The compute gap of two loss laws at each of `losses`; None unless both fall with compute."""
    if law.exponent >= 0 or baseline_law.exponent >= 0:
        return None
    losses_Q = np.asarray(losses, dtype=np.float64)
    gaps_Q = law.inverse(losses_Q) / baseline_law.inverse(losses_Q)
    # the resamples of two objectives are independent: pair them in order
    resamples = min(len(law.draws_R2), len(baseline_law.draws_R2))
    with np.errstate(invalid="ignore", over="ignore"):
        log_gaps_RQ = np.log(law.inverse_draws(losses_Q)[:resamples])
        log_gaps_RQ -= np.log(baseline_law.inverse_draws(losses_Q)[:resamples])
        intervals = [percentile_interval(np.exp(log_gaps_RQ[:, query])) for query in range(len(losses_Q))]
    difference_R = law.draws_R2[:resamples, 1] - baseline_law.draws_R2[:resamples, 1]
    return ComputeGap(
        objective=objective,
        baseline=baseline,
        losses=tuple(losses_Q.tolist()),
        gaps=tuple(gaps_Q.tolist()),
        gaps_ci95=tuple(intervals),
        observed=observed,
        exponent_difference=law.exponent - baseline_law.exponent,
        exponent_difference_ci95=percentile_interval(difference_R),
        params_ratio=tuple(params_ratio),
    )


def percentile_interval(draws_R: Array) -> Interval | None:
    """The central 95% of the resamples, or None if too few of them have a finite value."""
    finite_R = np.isfinite(draws_R)
    if not len(draws_R) or finite_R.mean() < ENOUGH:
        return None
    low, high = np.percentile(draws_R[finite_R], [2.5, 97.5])
    return float(low), float(high)
