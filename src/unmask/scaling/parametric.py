"""The parametric law L(N, D) = E + A / N^alpha + B / D^beta, fitted to all runs at once.

Hoffmann et al. (2022), approach 3, with the corrections of Besiroglu et al. (2024): Huber losses of log L are summed,
the search goes to the end, and intervals come from a bootstrap over runs.

Shapes: R resamples, P points, G budgets.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from unmask.errors import UsageError
from unmask.scaling import points as points_module
from unmask.scaling.bootstrap import in_chunks, resample_weights
from unmask.scaling.comparison import exponent_tests
from unmask.scaling.huber import DELTA, LARGEST_EXPONENT, SMALLEST_EXPONENT, LogHuber
from unmask.scaling.laws import ENOUGH, Array, Booleans, ComputeGap, Interval, compute_gap, percentile_interval
from unmask.scaling.parametric_law import NAMES, ParametricFit, ParametricLaw, Solver
from unmask.scaling.points import Point
from unmask.scaling.series import pairs
from unmask.scaling.varpro import VariableProjection

FEWEST_POINTS = 6
"""One more than there are parameters."""
GAP_LOSSES = 25


def fit_parametric(
    points: Sequence[Point],
    *,
    bootstrap: int = 1000,
    seed: int = 0,
    solver: Solver = "huber",
    delta: float = DELTA,
    losses: Sequence[float] | None = None,
    workers: int | None = None,
    source: str = "points",
) -> ParametricFit:
    """Fit L = E + A / N^alpha + B / D^beta to the points of each objective, but for runs that repeat their data.

    `solver` "huber" minimises over all five parameters at once, "varpro" by variable projection; each law carries the
    other's answer as `cross_check`. `bootstrap` resamples of the runs give the intervals, fixed by `seed` whatever the
    number of `workers` (threads). Raises `UsageError`, which names `source`, where no objective can be fitted.
    """
    points_module.check(points, source)
    if bootstrap < 0:
        raise UsageError(f"bootstrap {bootstrap} must not be negative")
    if losses is not None and not all(math.isfinite(loss) and loss > 0 for loss in losses):
        raise UsageError(f"losses {list(losses)} must be positive numbers, in nats per token")
    groups, unfit = points_module.fittable(points, _fresh, check_enough, source)
    in_all = points_module.by_objective(points)
    laws: dict[str, ParametricLaw] = {}
    for objective, group in groups.items():
        rng = np.random.default_rng([seed, *objective.encode()])
        laws[objective] = _fit_objective(objective, group, bootstrap, rng, solver, delta, workers)
        if left := len(in_all[objective]) - len(group):
            told = f"{left} runs that repeat their data are" if left > 1 else "1 run that repeats its data is"
            note = f"{told} left out: --method repeated is for those."
            laws[objective] = replace(laws[objective], notes=(*laws[objective].notes, note))
    return ParametricFit(
        objectives=laws,
        gaps=tuple(_gaps(laws, losses)),
        tests=tuple(exponent_tests(laws)),
        points=sum(law.points for law in laws.values()),
        convention=points_module.convention(points),
        resamples=bootstrap,
        seed=seed,
        delta=delta,
        unfit=unfit,
    )


def check_enough(objective: str, points: Sequence[Point]) -> None:
    """Raise `UsageError` unless `points` can fix the five parameters."""
    if len(points) < FEWEST_POINTS:
        raise UsageError(f"{objective} has {len(points)} runs: five parameters take at least {FEWEST_POINTS}; add runs")
    for what, values in (
        ("sizes", {point.params for point in points}),
        ("numbers of training tokens", {point.tokens for point in points}),
    ):
        if len(values) < 3:
            raise UsageError(
                f"{objective} has {len(values)} different {what}: a power law with a floor takes at least "
                "three; add runs"
            )


def _fresh(points: Iterable[Point]) -> list[Point]:
    return [point for point in points if points_module.epochs(point) <= points_module.ONE_EPOCH]


def _fit_objective(
    objective: str,
    points: Sequence[Point],
    bootstrap: int,
    rng: np.random.Generator,
    solver: Solver,
    delta: float,
    workers: int | None,
) -> ParametricLaw:
    problem = LogHuber(points, delta)
    projection = VariableProjection(problem)
    joint_K, joint_value = problem.fit()
    projected_K, projected_value = projection.fit()
    best_K, value, other_K = (
        (joint_K, joint_value, projected_K) if solver == "huber" else (projected_K, projected_value, joint_K)
    )

    def solve(weights_RP: Array) -> tuple[Array, Booleans, Booleans]:
        rows = len(weights_RP)
        if solver == "huber":
            found = problem.refine(np.repeat(best_K[None], rows, axis=0), weights_RP)
            return found.theta_RK, found.converged_R, found.at_bound_RK
        found = projection.refine(np.repeat(best_K[None, 3:], rows, axis=0), weights_RP)
        theta = projection.theta(found.theta_RK, weights_RP)
        return theta, found.converged_R, (theta <= problem.lower_K) | (theta >= problem.upper_K)

    draws_R5, at_bound_5 = np.empty((0, 5)), np.zeros(5)
    if bootstrap:
        parts = in_chunks(solve, resample_weights(len(points), bootstrap, rng), workers)
        theta_RK, converged_R, at_bound_RK = (np.concatenate(part) for part in zip(*parts, strict=True))
        if converged_R.mean() >= ENOUGH:
            draws_R5 = problem.natural(theta_RK[converged_R])
            at_bound_5 = at_bound_RK[converged_R].mean(axis=0)
    E, log_a, alpha, log_b, beta = (float(part) for part in problem.natural(best_K[None])[0])
    columns = (draws_R5[:, 0], np.exp(draws_R5[:, 1]), draws_R5[:, 2], np.exp(draws_R5[:, 3]), draws_R5[:, 4])
    floor, log_first, first, log_second, second = (float(part) for part in problem.natural(other_K[None])[0])
    other = (floor, math.exp(log_first), first, math.exp(log_second), second)
    ci95 = {name: percentile_interval(column) for name, column in zip(NAMES, columns, strict=True)}
    values = (E, math.exp(log_a), alpha, math.exp(log_b), beta)
    return ParametricLaw(
        objective,
        *values,
        ci95=ci95,
        value=value,
        points=len(points),
        solver=solver,
        residuals=tuple(problem.residuals(best_K[None])[0].tolist()),
        params_range=_range(point.params for point in points),
        tokens_range=_range(point.tokens for point in points),
        flops_range=_range(point.flops for point in points),
        left_out_error=_left_out(problem, best_K, points, solver, projection),
        cross_check=dict(zip(NAMES, other, strict=True)),
        notes=(
            *_repeat_notes(points),
            *_notes(ci95, dict(zip(NAMES, values, strict=True)), at_bound_5, bool(bootstrap), len(draws_R5)),
        ),
        draws_R5=draws_R5,
    )


def _left_out(
    problem: LogHuber, best_K: Array, points: Sequence[Point], solver: Solver, projection: VariableProjection
) -> float | None:
    """How far the law of the other budgets is from the runs of each budget."""
    members = [[id(point) for point in budget.points] for budget in points_module.budgets(points)]
    number = {member: budget for budget, group in enumerate(members) for member in group}
    budget_P = np.array([number[id(point)] for point in points])
    weights_GP = (budget_P[None] != np.arange(len(members))[:, None]).astype(np.float64)
    for kept_P in weights_GP > 0:
        rest = [point for point, kept in zip(points, kept_P, strict=True) if kept]
        few = min(len({p.params for p in rest}), len({p.tokens for p in rest})) < 3 if rest else True
        if few or len(rest) < FEWEST_POINTS:
            return None
    if solver == "huber":
        theta_GK = problem.refine(np.repeat(best_K[None], len(members), axis=0), weights_GP).theta_RK
    else:
        found = projection.refine(np.repeat(best_K[None, 3:], len(members), axis=0), weights_GP)
        theta_GK = projection.theta(found.theta_RK, weights_GP)
    error_GP = np.abs(np.expm1(problem.residuals(theta_GK)))
    return float(error_GP[budget_P, np.arange(len(points))].mean())


def _repeat_notes(points: Iterable[Point]) -> Iterable[str]:
    repeating = sum(point.repeats for point in points)
    if repeating:
        yield f"{repeating} runs repeat their data, which this law takes for new: --method repeated does not."


def _notes(
    ci95: dict[str, Interval | None], values: dict[str, float], at_bound_5: Array, asked: bool, draws: int
) -> Iterable[str]:
    if not asked:
        return
    if not draws:
        yield "In over 5% of the resamples the fit did not settle: there are no intervals."
        return
    if at_bound_5[2] > 1 - ENOUGH or values["E"] <= 0:
        yield "The data do not support an irreducible loss: in over 5% of the resamples it vanishes."
    for number, (name, what) in enumerate((("alpha", "size"), ("beta", "tokens"))):
        interval = ci95[name]
        if interval is None:
            continue
        low, high = interval
        if low <= 2 * SMALLEST_EXPONENT or high >= LARGEST_EXPONENT or high - low > values[name]:
            yield (
                f"The data do not support an exponent of {what}: {name} = {values[name]:.3g} has the 95% interval "
                f"{low:.3g} to {high:.3g}."
            )
        elif at_bound_5[3 + number] > 1 - ENOUGH:
            yield f"In over 5% of the resamples {name} ran to the edge of what is allowed."


def _gaps(laws: dict[str, ParametricLaw], losses: Sequence[float] | None) -> Iterable[ComputeGap]:
    def reached(law: ParametricLaw) -> Interval:
        high, low = (float(law.loss_law.predict(flops)) for flops in law.flops_range)
        return low, high

    for name, baseline in pairs(list(laws)):
        law, base = laws[name], laws[baseline]
        theirs = reached(base)
        mine = reached(law)
        low, high = max(mine[0], theirs[0]), min(mine[1], theirs[1])
        asked = losses or np.geomspace(max(mine[1], theirs[1]), min(mine[0], theirs[0]), GAP_LOSSES).tolist()
        # below the other's irreducible loss there is no gap to speak of
        floor = max(law.E, base.E)
        asked = [loss for loss in asked if loss > floor]
        if not asked:
            continue
        both = (max(law.flops_range[0], base.flops_range[0]), min(law.flops_range[1], base.flops_range[1]))
        ratios = [float(law.params_law.predict(flops) / base.params_law.predict(flops)) for flops in both]
        gap = compute_gap(
            name,
            baseline,
            law.loss_law,
            base.loss_law,
            asked,
            observed=(low, high) if low <= high else None,
            params_ratio=ratios if both[0] <= both[1] else (),
        )
        if gap is not None:
            yield gap


def _range(values: Iterable[float]) -> Interval:
    found = list(values)
    return min(found), max(found)
