"""IsoFLOP fits: the best size at each budget from a parabola, then power laws through the minima.

Nie et al. (2025), section 4, after Hoffmann et al. (2022), approach 2: at each budget C the loss is a parabola in
log N; its lowest point gives N*, D* and L*, and straight lines in log-log through those give N* ~ C^a, D* ~ C^b and
L* ~ C^c. Where a budget has a single point for every objective, the points are taken to be the minima themselves.

Intervals come from a bootstrap. If every size was run at least twice, the runs' deviations from the mean of their size
are resampled. Otherwise the noise of a run is estimated from the residuals of all parabolas of an objective, and
resamples are drawn from a normal distribution whose variance is itself drawn from what that estimate leaves open, so
that few residuals give wide intervals. All resamples are solved at once.

Shapes: K budgets, P points of a budget, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np

from unmask.errors import UsageError
from unmask.scaling import points as points_module
from unmask.scaling.comparison import ExponentTest, baseline_of, exponent_tests
from unmask.scaling.laws import (
    Array,
    ComputeGap,
    Interval,
    PowerLaw,
    compute_gap,
    fit_power_law,
    percentile_interval,
)
from unmask.scaling.points import Budget, Point
from unmask.scaling.saturating import fit_saturating_law

Flag = Literal["too few sizes", "no minimum", "outside"]
NoiseKind = Literal["repeats", "residuals"]
QUANTITIES = ("params", "tokens", "loss")
GAP_LOSSES = 25
"""Losses at which a compute gap is given, unless asked for others."""


@dataclass(frozen=True)
class Minimum:
    """The lowest point of the parabola loss = c0 + c1 u + c2 u^2, u = log N - `center`, at one budget."""

    flops: float
    params: float | None
    """Best N; None where there is no minimum."""
    params_ci95: Interval | None
    tokens: float | None
    """Training tokens D at the best N."""
    loss: float | None
    loss_ci95: Interval | None
    sizes: int
    """Distinct sizes at this budget."""
    params_range: Interval
    """Smallest and largest size."""
    flag: Flag | None = None
    """Why this minimum is left out of the laws, or None: "outside" the sizes that were run, a parabola that opens
    downward or is flat ("no minimum"), or "too few sizes" (under three)."""
    given: bool = False
    """The single point of its budget, taken as the minimum."""
    center: float = 0.0
    parabola: tuple[float, float, float] | None = None

    def curve(self, params: Array) -> Array:
        """The parabola at `params`."""
        assert self.parabola is not None
        c0, c1, c2 = self.parabola
        u = np.log(params) - self.center
        return c0 + c1 * u + c2 * u * u

    def to_dict(self) -> dict[str, Any]:
        """A dict for JSON."""
        return {
            "flops": self.flops,
            "params": self.params,
            "params_ci95": self.params_ci95,
            "tokens": self.tokens,
            "loss": self.loss,
            "loss_ci95": self.loss_ci95,
            "sizes": self.sizes,
            "params_range": self.params_range,
            "flag": self.flag,
        }


@dataclass(frozen=True)
class LeftOut:
    """What the laws through the other budgets say of one, relative to its minimum."""

    flops: float
    params_error: float
    """Predicted over found, less one."""
    loss_error: float
    loss_error_irreducible: float | None
    """The same by the law with an irreducible term; None with too few budgets."""

    def to_dict(self) -> dict[str, Any]:
        """A dict for JSON."""
        return {
            "flops": self.flops,
            "params_error": self.params_error,
            "loss_error": self.loss_error,
            "loss_error_irreducible": self.loss_error_irreducible,
        }


@dataclass(frozen=True)
class ObjectiveFit:
    """How one objective scales."""

    objective: str
    minima: tuple[Minimum, ...]
    """One for each budget, flagged ones included."""
    params_law: PowerLaw | None
    tokens_law: PowerLaw | None
    loss_law: PowerLaw | None
    """None with fewer than two usable minima."""
    noise: NoiseKind | None
    """What the resamples were drawn from; None where the runs tell nothing about their noise."""
    noise_std: float | None
    """Standard deviation of a single run's loss, in nats per token."""
    noise_degrees_of_freedom: int
    notes: tuple[str, ...]
    """What the reader should know about the strength of this fit, in sentences."""
    params_law_irreducible: PowerLaw | None = None
    tokens_law_irreducible: PowerLaw | None = None
    loss_law_irreducible: PowerLaw | None = None
    """The same laws with an irreducible term; None with fewer than four usable minima."""
    left_out: tuple[LeftOut, ...] = ()
    """Prediction errors with one budget at a time left out; empty with fewer than three usable minima."""

    @property
    def usable(self) -> list[Minimum]:
        """The minima that the laws go through."""
        return [minimum for minimum in self.minima if minimum.flag is None]

    def to_dict(self) -> dict[str, Any]:
        """A dict for JSON."""
        laws = {"params_law": self.params_law, "tokens_law": self.tokens_law, "loss_law": self.loss_law}
        return {
            "minima": [minimum.to_dict() for minimum in self.minima],
            **{name: law.to_dict() if law else None for name, law in laws.items()},
            "params_law_irreducible": self.params_law_irreducible.to_dict() if self.params_law_irreducible else None,
            "tokens_law_irreducible": self.tokens_law_irreducible.to_dict() if self.tokens_law_irreducible else None,
            "loss_law_irreducible": self.loss_law_irreducible.to_dict() if self.loss_law_irreducible else None,
            "left_out": [each.to_dict() for each in self.left_out],
            "noise": self.noise,
            "noise_std": self.noise_std,
            "noise_degrees_of_freedom": self.noise_degrees_of_freedom,
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class IsoflopFit:
    """The IsoFLOP fits of all objectives of a study."""

    objectives: dict[str, ObjectiveFit]
    gaps: tuple[ComputeGap, ...]
    """The compute gap of each further objective over the baseline: "arm" where it is there."""
    tests: tuple[ExponentTest, ...]
    """Whether their exponents differ."""
    points: int
    convention: str
    resamples: int
    seed: int

    @property
    def compute_gap(self) -> ComputeGap | None:
        """The first of `gaps`."""
        return self.gaps[0] if self.gaps else None

    def gap_at(self, gap: ComputeGap, loss: float) -> tuple[float, Interval | None]:
        """One of `gaps` at another loss, with its interval."""
        law, baseline_law = (self.objectives[name].loss_law for name in (gap.objective, gap.baseline))
        assert law is not None
        assert baseline_law is not None
        there = compute_gap(gap.objective, gap.baseline, law, baseline_law, [loss], observed=gap.observed)
        assert there is not None
        return there.gaps[0], there.gaps_ci95[0]

    def to_dict(self) -> dict[str, Any]:
        """A dict for JSON."""
        return {
            "format": "unmask-fits-1",
            "method": "isoflop",
            "points": self.points,
            "flop_convention": self.convention,
            "bootstrap": self.resamples,
            "seed": self.seed,
            "objectives": {name: fit.to_dict() for name, fit in self.objectives.items()},
            "compute_gap": self.gaps[0].to_dict() if self.gaps else None,
            **({"compute_gaps": [gap.to_dict() for gap in self.gaps]} if len(self.gaps) > 1 else {}),
            "exponent_tests": [test.to_dict() for test in self.tests],
        }


def fit_isoflop(
    points: Sequence[Point],
    *,
    bootstrap: int = 1000,
    seed: int = 0,
    edge: Literal["drop", "keep"] = "drop",
    losses: Sequence[float] | None = None,
    source: str = "points",
) -> IsoflopFit:
    """Fit parabolas and power laws to `points`, and for several objectives the compute gaps at `losses`.

    `bootstrap` is the number of resamples (0 for t intervals alone) and `seed` fixes them. With `edge="keep"` minima
    outside the sampled sizes, which are extrapolations, take part in the laws. `losses` defaults to the range of the
    minima. Raises `UsageError`, which names `source`, for points that cannot be fitted.
    """
    points_module.check(points, source)
    if bootstrap < 0:
        raise UsageError(f"bootstrap {bootstrap} must not be negative")
    if losses is not None and not all(math.isfinite(loss) and loss > 0 for loss in losses):
        raise UsageError(f"losses {list(losses)} must be positive numbers, in nats per token")
    grouped = {name: points_module.budgets(group) for name, group in points_module.by_objective(points).items()}
    if all(len(budgets) == 1 for budgets in grouped.values()):
        flops = next(iter(grouped.values()))[0].flops
        raise UsageError(f"{source}: only one budget ({flops:g} FLOPs): a power law needs at least two, better five")
    given = all(len(budget.points) == 1 for budgets in grouped.values() for budget in budgets)
    if not given and all(_sizes(budget) < 3 for budgets in grouped.values() for budget in budgets):
        raise UsageError(f"{source}: no budget has three sizes of one objective: a parabola needs at least three")
    fits = {
        name: _fit_objective(name, budgets, bootstrap=bootstrap, seed=seed, keep_edge=edge == "keep", given=given)
        for name, budgets in grouped.items()
    }
    return IsoflopFit(
        objectives=fits,
        gaps=tuple(_gaps(fits, losses)),
        tests=tuple(exponent_tests(fits)),
        points=len(points),
        convention=points_module.convention(points),
        resamples=bootstrap,
        seed=seed,
    )


def _fit_objective(
    objective: str, budgets: list[Budget], *, bootstrap: int, seed: int, keep_edge: bool, given: bool
) -> ObjectiveFit:
    # an objective's resamples do not depend on which others are fitted beside it
    rng = np.random.default_rng([seed, *objective.encode()])
    noise = None if given else _noise(budgets)
    fitted: list[tuple[Minimum, _Draws | None]]
    if given:
        fitted = [(_given(budget), None) for budget in budgets]
    else:
        draw = noise.sampler(bootstrap, rng) if noise is not None and bootstrap else None
        fitted = [_fit_parabola(budget, draw, keep_edge=keep_edge) for budget in budgets]
    minima, draws = [minimum for minimum, _ in fitted], [drawn for _, drawn in fitted]

    used = [number for number, minimum in enumerate(minima) if minimum.flag is None]
    params_law = tokens_law = loss_law = None
    with_floor: list[PowerLaw | None] = [None, None, None]
    left_out: tuple[LeftOut, ...] = ()
    if len(used) >= 2:
        flops_K = np.array([minima[number].flops for number in used])
        values_K = {name: np.array([getattr(minima[number], name) for number in used]) for name in QUANTITIES}
        drawn = [draws[number] for number in used]
        draws_RK: dict[str, Array | None] = dict.fromkeys(QUANTITIES)
        if all(each is not None for each in drawn):
            draws_RK = {name: np.stack([getattr(each, name) for each in drawn], axis=1) for name in QUANTITIES}
        plain = {name: fit_power_law(flops_K, values_K[name], draws_RK[name], rng) for name in QUANTITIES}
        params_law, tokens_law, loss_law = plain["params"], plain["tokens"], plain["loss"]
        with_floor = [
            fit_saturating_law(flops_K, values_K[name], draws_RK[name], -1 if plain[name].exponent < 0 else 1)
            for name in QUANTITIES
        ]
        left_out = tuple(_left_out(flops_K, values_K["params"], values_K["loss"], rng))
    return ObjectiveFit(
        objective,
        tuple(minima),
        params_law,
        tokens_law,
        loss_law,
        noise.kind if noise else None,
        noise.std if noise else None,
        noise.freedom if noise else 0,
        tuple(_notes(minima, params_law, loss_law, noise, bootstrap)),
        params_law_irreducible=with_floor[0],
        tokens_law_irreducible=with_floor[1],
        loss_law_irreducible=with_floor[2],
        left_out=left_out,
    )


def residuals(points: Iterable[Point], fit: IsoflopFit) -> list[tuple[Point, float]]:
    """Each point that has a parabola, with its loss less that of the parabola, in nats per token."""
    found: list[tuple[Point, float]] = []
    for objective, group in points_module.by_objective(points).items():
        if objective not in fit.objectives:
            continue
        for budget, minimum in zip(points_module.budgets(group), fit.objectives[objective].minima, strict=True):
            if minimum.parabola is not None:
                curve = minimum.curve(np.array([point.params for point in budget.points]))
                found += [(p, p.loss - float(at)) for p, at in zip(budget.points, curve, strict=True)]
    return found


def _left_out(flops_K: Array, params_K: Array, loss_K: Array, rng: np.random.Generator) -> Iterable[LeftOut]:
    if len(flops_K) < 3:
        return
    for number, flops in enumerate(flops_K):
        rest = np.arange(len(flops_K)) != number
        params = fit_power_law(flops_K[rest], params_K[rest], None, rng)
        loss = fit_power_law(flops_K[rest], loss_K[rest], None, rng)
        floor = fit_saturating_law(flops_K[rest], loss_K[rest], None, -1 if loss.exponent < 0 else 1)
        yield LeftOut(
            float(flops),
            float(params.predict(flops) / params_K[number]) - 1,
            float(loss.predict(flops) / loss_K[number]) - 1,
            float(floor.predict(flops) / loss_K[number]) - 1 if floor else None,
        )


@dataclass(frozen=True)
class _Draws:
    """The minimum of one budget in each resample, each (R,); nan where the parabola has none."""

    params: Array
    tokens: Array
    loss: Array


def _fit_parabola(
    budget: Budget, draw: Callable[[int], Array] | None, *, keep_edge: bool
) -> tuple[Minimum, _Draws | None]:
    params_P = np.array([point.params for point in budget.points])
    loss_P = np.array([point.loss for point in budget.points])
    smallest, largest = float(params_P.min()), float(params_P.max())
    minimum = Minimum(budget.flops, None, None, None, None, None, _sizes(budget), (smallest, largest))
    if minimum.sizes < 3:
        return replace(minimum, flag="too few sizes"), None

    center, design_P3 = _design(params_P)
    solve_3P = np.linalg.pinv(design_P3)
    parabola_3 = solve_3P @ loss_P
    c0, c1, c2 = (float(parabola_3[power]) for power in range(3))
    minimum = replace(minimum, center=center, parabola=(c0, c1, c2))
    if not c2 > 0:
        return replace(minimum, flag="no minimum"), None

    # at one budget D is a line in log N: exactly -log N + log(C / 6) where C = 6 N D
    tokens_P = np.array([point.tokens for point in budget.points])
    tokens_line: Array = np.polyfit(np.log(params_P) - center, np.log(tokens_P), 1)
    drawn = None
    if draw is not None:
        loss_RP = design_P3 @ parabola_3 + draw(len(loss_P))
        c0_R, c1_R, c2_R = solve_3P @ loss_RP.T
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            c2_R = np.where(c2_R > 0, c2_R, np.nan)
            u_R: Array = -c1_R / (2 * c2_R)
            drawn = _Draws(
                params=np.exp(center + u_R),
                tokens=np.exp(np.polyval(tokens_line, u_R)),
                loss=c0_R - c1_R**2 / (4 * c2_R),
            )
    u = -c1 / (2 * c2)
    inside = math.log(smallest) <= center + u <= math.log(largest)
    minimum = replace(
        minimum,
        params=math.exp(center + u),
        params_ci95=percentile_interval(drawn.params) if drawn else None,
        tokens=math.exp(float(np.polyval(tokens_line, u))),
        loss=c0 - c1 * c1 / (4 * c2),
        loss_ci95=percentile_interval(drawn.loss) if drawn else None,
        flag=None if inside or keep_edge else "outside",
    )
    return minimum, drawn


@dataclass(frozen=True)
class _Noise:
    """What is known of the noise of a run's loss."""

    kind: NoiseKind
    deviations: Array
    """Of single runs, from the mean of their size or from the parabola, scaled to the variance of a new run."""
    std: float
    freedom: int

    def sampler(self, resamples: int, rng: np.random.Generator) -> Callable[[int], Array]:
        """A function of the number of points that returns (R, P) noise, with one variance for all it is asked for."""
        if self.kind == "repeats":
            return lambda count: rng.choice(self.deviations, (resamples, count))
        scale_R = self.std * np.sqrt(self.freedom / rng.chisquare(self.freedom, resamples))
        return lambda count: scale_R[:, None] * rng.standard_normal((resamples, count))


def _noise(budgets: Iterable[Budget]) -> _Noise | None:
    """The noise of a run, from the repeats of all sizes or else from the residuals of all parabolas, if either."""
    fitted = [budget for budget in budgets if _sizes(budget) >= 3]
    cells = [
        np.array([point.loss for point in budget.points if point.params == params])
        for budget in fitted
        for params in dict.fromkeys(point.params for point in budget.points)
    ]
    if cells and min(len(cell) for cell in cells) >= 2:
        kind: NoiseKind = "repeats"
        deviations = np.concatenate([cell - cell.mean() for cell in cells])
        freedom = len(deviations) - len(cells)
    else:
        kind = "residuals"
        residuals: list[Array] = [np.empty(0)]
        for budget in fitted:
            loss_P = np.array([point.loss for point in budget.points])
            _, design_P3 = _design(np.array([point.params for point in budget.points]))
            residuals.append(loss_P - design_P3 @ (np.linalg.pinv(design_P3) @ loss_P))
        deviations = np.concatenate(residuals)
        freedom = len(deviations) - 3 * len(fitted)
    if freedom == 0:
        return None
    return _Noise(
        kind,
        deviations * math.sqrt(len(deviations) / freedom),
        math.sqrt(float(deviations @ deviations) / freedom),
        freedom,
    )


def _design(params_P: Array) -> tuple[float, Array]:
    """The centre of log N and the columns 1, u, u^2."""
    center = float(np.log(params_P).mean())
    u_P = np.log(params_P) - center
    return center, np.stack([np.ones_like(u_P), u_P, u_P * u_P], axis=1)


def _sizes(budget: Budget) -> int:
    return len({point.params for point in budget.points})


def _given(budget: Budget) -> Minimum:
    (point,) = budget.points
    extent = (point.params, point.params)
    return Minimum(point.flops, point.params, None, point.tokens, point.loss, None, 1, extent, given=True)


def _gaps(fits: dict[str, ObjectiveFit], losses: Sequence[float] | None) -> Iterable[ComputeGap]:
    names = [name for name, fit in fits.items() if fit.loss_law is not None]
    if len(names) < 2:
        return
    baseline = baseline_of(names)
    base = fits[baseline]
    for name in sorted(set(names) - {baseline}, key=lambda name: (name != "mdm", names.index(name))):
        fit = fits[name]
        mine, theirs = ([cast(float, m.loss) for m in each.usable] for each in (fit, base))
        low, high = max(min(mine), min(theirs)), min(max(mine), max(theirs))
        ratios = [
            cast(float, minimum.params) / cast(float, other.params)
            for minimum in fit.usable
            for other in base.usable
            if max(minimum.flops / other.flops, other.flops / minimum.flops) <= points_module.BUDGET_TOLERANCE
        ]
        asked = losses or np.geomspace(max(*mine, *theirs), min(*mine, *theirs), GAP_LOSSES).tolist()
        gap = compute_gap(
            name,
            baseline,
            cast(PowerLaw, fit.loss_law),
            cast(PowerLaw, base.loss_law),
            asked,
            observed=(low, high) if low <= high else None,
            params_ratio=ratios,
        )
        if gap is not None:
            yield gap


def _notes(
    minima: Sequence[Minimum],
    params_law: PowerLaw | None,
    loss_law: PowerLaw | None,
    noise: _Noise | None,
    bootstrap: int,
) -> Iterable[str]:
    """What weakens this fit, in sentences."""
    why = {
        "too few sizes": "it has fewer than three sizes",
        "no minimum": "its parabola opens downward",
        "outside": "its minimum lies outside the sizes that were run",
    }
    for minimum in minima:
        if minimum.flag is not None:
            yield f"The budget of {minimum.flops:.3g} FLOPs is left out of the laws: {why[minimum.flag]}."
        elif minimum.params is not None and not minimum.given and minimum.params_ci95 is None and noise and bootstrap:
            yield (
                f"The budget of {minimum.flops:.3g} FLOPs has no interval for its best size: in over 5% of the "
                "resamples its parabola opens downward."
            )
    used = len([minimum for minimum in minima if minimum.flag is None])
    if loss_law is None:
        yield f"{used} usable {'minimum' if used == 1 else 'minima'}: no power law; it takes at least two."
        return
    if used == 2:
        yield "Two budgets fix a line and leave no degree of freedom to test it: the exponents are not supported."
    elif used < 5:
        left = "1 degree" if used == 3 else f"{used - 2} degrees"
        yield f"{used} budgets leave {left} of freedom, so the t intervals of the exponents are wide."
    if bootstrap and noise is None and not any(minimum.given for minimum in minima):
        yield "Three sizes at a budget fix its parabola exactly: nothing is known of the noise of a run."
    elif noise is not None and noise.freedom < 5:
        many = "1 degree" if noise.freedom == 1 else f"{noise.freedom} degrees"
        yield f"The noise of a run is estimated with only {many} of freedom."
    interval = loss_law.exponent_ci95
    if interval is None or interval[0] <= 0 <= interval[1]:
        yield "The data do not support a loss exponent: its 95% interval is unknown or includes zero."
    assert params_law is not None
    interval = params_law.exponent_ci95
    if interval is None or interval[0] <= 0 or interval[1] - interval[0] > abs(params_law.exponent):
        told = f" ({interval[0]:.2f} to {interval[1]:.2f})" if interval else ""
        yield (
            f"The data do not support an exponent of the best size: its 95% interval{told} is unknown, includes zero, "
            "or is wider than the exponent."
        )
