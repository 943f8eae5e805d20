"""Fits of the data-constrained law: what repeating a limited amount of data is worth.

The form is that of `repeating` (Muennighoff et al., 2023). Two questions are answered at once: the law for fresh data
(E, A, alpha, B, beta) and how fast repeats lose their value (R_D, in epochs: D' stays below U (1 + R_D)) and excess
parameters theirs (R_N). The form cannot express a loss that rises while training goes on over the same data, so runs
that have gone past their best are left out, and counted, unless they are asked for.

Shapes: R resamples, P points.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from unmask.errors import UsageError
from unmask.scaling import points as points_module
from unmask.scaling.bootstrap import in_chunks, resample_weights
from unmask.scaling.huber import DELTA, LogHuber
from unmask.scaling.laws import Array, Interval, percentile_interval
from unmask.scaling.parametric import FEWEST_POINTS, check_enough
from unmask.scaling.points import ONE_EPOCH, Point, epochs
from unmask.scaling.repeating import LARGEST_R, NO_DECAY, SMALLEST_R, Repeating, Space, decayed

NAMES: tuple[str, ...] = ("E", "A", "alpha", "B", "beta", "R_D", "R_N")


@dataclass(frozen=True)
class RepeatedLaw:
    """The data-constrained law of one objective."""

    objective: str
    E: float
    A: float
    alpha: float
    B: float
    beta: float
    R_D: float
    """Epochs after which repeats have lost most of their value; D' < U (1 + R_D)."""
    R_N: float
    """The same of parameters beyond the best number for the distinct tokens; inf where they keep their value."""
    ci95: dict[str, Interval | None]
    value: float
    """The minimised objective: the sum of the Huber losses."""
    points: int
    left_out: int
    """Runs left out because their loss had risen while they repeated their data."""
    epochs_range: Interval
    residuals: tuple[float, ...] = field(default=(), repr=False)
    """Log of the law less log of the loss, for each point that was fitted."""
    notes: tuple[str, ...] = ()
    draws_R7: Array = field(default_factory=lambda: np.empty((0, 7)), repr=False, compare=False)
    """(E, log A, alpha, log B, beta, log R_D, log R_N) of each resample."""

    @property
    def theta_7(self) -> Array:
        """The law in the form of a row of `draws_R7`."""
        r_n = NO_DECAY if math.isinf(self.R_N) else self.R_N
        logs = (math.log(self.A), math.log(self.B), math.log(self.R_D), math.log(r_n))
        return np.array([self.E, logs[0], self.alpha, logs[1], self.beta, logs[2], logs[3]])

    def predict(self, params: npt.ArrayLike, tokens: npt.ArrayLike, unique_tokens: npt.ArrayLike) -> Array:
        """The loss at N `params` and D `tokens` of which `unique_tokens` are distinct."""
        return repeated_loss(
            self.theta_7[None],
            *(np.asarray(each, dtype=np.float64) for each in np.broadcast_arrays(params, tokens, unique_tokens)),
        )[0]

    def to_dict(self) -> dict[str, Any]:
        """A dict for JSON."""
        values = {name: getattr(self, name) for name in NAMES}
        return {
            **{
                name: {"value": value if math.isfinite(value) else None, "ci95": self.ci95[name]}
                for name, value in values.items()
            },
            "objective": self.value,
            "points": self.points,
            "left_out": self.left_out,
            "epochs_range": self.epochs_range,
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class RepeatedFit:
    """The data-constrained laws of all objectives."""

    objectives: dict[str, RepeatedLaw]
    points: int
    convention: str
    resamples: int
    seed: int
    space: Space
    delta: float = DELTA
    unfit: dict[str, str] = field(default_factory=dict[str, str])
    """Why an objective has no law, by its name."""

    def to_dict(self) -> dict[str, Any]:
        """A dict for JSON."""
        return {
            "format": "unmask-fits-1",
            "method": "repeated",
            "points": self.points,
            "flop_convention": self.convention,
            "bootstrap": self.resamples,
            "seed": self.seed,
            "delta": self.delta,
            "space": self.space,
            "objectives": {name: law.to_dict() for name, law in self.objectives.items()},
            **({"unfit": self.unfit} if self.unfit else {}),
        }


def fit_repeated_data(
    points: Sequence[Point],
    *,
    bootstrap: int = 1000,
    seed: int = 0,
    base: Sequence[float] | None = None,
    excess_params: bool = True,
    rising: Literal["drop", "keep"] = "drop",
    space: Space = "log",
    delta: float = DELTA,
    workers: int | None = None,
    source: str = "points",
) -> RepeatedFit:
    """Fit the data-constrained law to the points of each objective; `unique_tokens` says what they repeat.

    `base` fixes (E, A, alpha, B, beta) to a law for fresh data; by default they are fitted with the rest. Without
    `excess_params` parameters keep their value however little data there is (R_N infinite). `rising` says what
    becomes of runs whose loss is above that of a shorter run of the same size on the same data. `space` is what the
    Huber loss is of: the logarithm of the loss, or the loss. Raises `UsageError`, which names `source`, where no
    objective can be fitted.
    """
    points_module.check(points, source)
    if bootstrap < 0:
        raise UsageError(f"bootstrap {bootstrap} must not be negative")
    if base is not None and (len(base) != 5 or not all(math.isfinite(value) and value > 0 for value in base)):
        raise UsageError(f"base {list(base)} must be five positive numbers: E, A, alpha, B, beta")

    groups, unfit = points_module.fittable(
        points,
        without_risen if rising == "drop" else list,
        lambda objective, kept: check_repeating(objective, kept, base),
        source,
    )
    in_all = points_module.by_objective(points)
    laws: dict[str, RepeatedLaw] = {}
    for objective, kept in groups.items():
        rng = np.random.default_rng([seed, *objective.encode()])
        problem = Repeating(kept, delta, base=base, excess_params=excess_params, space=space)
        law = _fit_objective(objective, kept, problem, bootstrap, rng, base, workers)
        laws[objective] = replace(law, left_out=len(in_all[objective]) - len(kept))
    return RepeatedFit(
        objectives=laws,
        points=sum(law.points + law.left_out for law in laws.values()),
        convention=points_module.convention(points),
        resamples=bootstrap,
        seed=seed,
        space=space,
        delta=delta,
        unfit=unfit,
    )


def has_risen(point: Point, others: Iterable[Point]) -> bool:
    """Whether a shorter run of the same size on as many distinct tokens ended with a lower loss."""
    return point.unique_tokens is not None and any(
        other.params == point.params
        and other.unique_tokens == point.unique_tokens
        and other.tokens < point.tokens
        and other.loss < point.loss
        for other in others
    )


def without_risen(points: Sequence[Point]) -> list[Point]:
    """The points but those that have risen."""
    return [point for point in points if not has_risen(point, points)]


def repeated_loss(theta_R7: Array, params: Array, tokens: Array, unique_tokens: Array) -> Array:
    """The loss of each row (E, log A, alpha, log B, beta, log R_D, log R_N) at each point, (R, P).

    `params`, `tokens` and `unique_tokens` are (P,), or (R, P) for other values in each row.
    """
    floor, log_a, alpha, log_b, beta, log_r_d, log_r_n = (theta_R7[:, k : k + 1] for k in range(7))
    unique = np.minimum(unique_tokens, tokens)
    log_tokens, _ = decayed(np.log(unique), tokens / unique - 1, log_r_d)
    log_best = (np.log(alpha / beta) + log_a - log_b + beta * np.log(unique)) / alpha
    log_base = np.minimum(log_best, np.log(params))
    log_params, _ = decayed(log_base, np.expm1(np.minimum(np.log(params) - log_base, 300.0)), log_r_n)
    return floor + np.exp(log_a - alpha * log_params) + np.exp(log_b - beta * log_tokens)


def check_repeating(objective: str, points: Sequence[Point], base: Sequence[float] | None) -> None:
    """Raise `UsageError` unless `points` can fix the law, or with `base` how fast repeats lose their value."""
    repeating = [point for point in points if epochs(point) > ONE_EPOCH]
    if not repeating:
        raise UsageError(
            f"no run of {objective} repeats its data (unique_tokens below tokens): add runs that do, or use "
            "--method parametric"
        )
    if base is None:
        check_enough(objective, points)
        if len(points) < FEWEST_POINTS + 2:
            raise UsageError(
                f"{objective} has {len(points)} runs: seven parameters take at least {FEWEST_POINTS + 2}; "
                "add runs, or give the law for fresh data"
            )


def _start(points: Sequence[Point], base: Sequence[float] | None, problem: Repeating) -> Array:
    """Where the search begins: the given law, or that of the runs on fresh data, or that of all."""
    if base is not None:
        return problem.problem.centred(*base)
    fresh = [point for point in points if epochs(point) <= ONE_EPOCH]
    enough = (
        len(fresh) >= FEWEST_POINTS
        and min(len({point.params for point in fresh}), len({point.tokens for point in fresh})) >= 3
    )
    first = LogHuber(fresh if enough else points)
    floor, log_a, alpha, log_b, beta = (float(part) for part in first.natural(first.fit()[0][None])[0])
    return problem.problem.centred(floor, math.exp(log_a), alpha, math.exp(log_b), beta)


def _fit_objective(
    objective: str,
    points: Sequence[Point],
    problem: Repeating,
    bootstrap: int,
    rng: np.random.Generator,
    base: Sequence[float] | None,
    workers: int | None,
) -> RepeatedLaw:
    best_K, value = problem.fit(_start(points, base, problem))

    draws_R7 = np.empty((0, 7))
    if bootstrap:
        weights_RP = resample_weights(len(points), bootstrap, rng)
        parts = in_chunks(lambda chunk_RP: problem.resample(best_K, chunk_RP), weights_RP, workers)
        draws_R7 = problem.natural(np.concatenate(parts))
    natural_7 = problem.natural(best_K[None])[0]
    values = dict(zip(NAMES, _readable(natural_7[None])[0].tolist(), strict=True))
    free = problem.lower_K < problem.upper_K
    columns_R7 = _readable(draws_R7)
    ci95 = {name: percentile_interval(columns_R7[:, k]) if free[k] else None for k, name in enumerate(NAMES)}
    if not free[6]:
        values["R_N"] = math.inf
    counts = [epochs(point) for point in points]
    return RepeatedLaw(
        objective,
        **values,
        ci95=ci95,
        value=value,
        points=len(points),
        left_out=0,
        epochs_range=(min(counts), max(counts)),
        residuals=tuple(problem.residuals(best_K[None])[0].tolist()),
        notes=tuple(_notes(values, ci95, max(counts))),
        draws_R7=draws_R7,
    )


def _readable(natural_R7: Array) -> Array:
    """A, B, R_D and R_N instead of their logs."""
    found = natural_R7.copy()
    for k in (1, 3, 5, 6):
        found[:, k] = np.exp(found[:, k])
    return found


def _notes(values: dict[str, float], ci95: dict[str, Interval | None], most_epochs: float) -> Iterable[str]:
    for name, what in (("R_D", "repeated data"), ("R_N", "excess parameters")):
        interval = ci95[name]
        at_edge = values[name] >= LARGEST_R * 0.99 or values[name] <= SMALLEST_R * 1.01
        if math.isfinite(values[name]) and (at_edge or (interval and interval[1] > 30 * interval[0])):
            told = f", 95% {interval[0]:.3g} to {interval[1]:.3g}" if interval else ""
            yield f"The data do not fix the decay of {what}: {name} = {values[name]:.3g}{told}."
    if values["R_D"] > most_epochs:
        yield f"R_D lies beyond the {most_epochs:.3g} epochs that were run."
