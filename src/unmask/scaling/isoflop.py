"""IsoFLOP fits: the best size at each budget from a parabola, then power laws through the minima.

Nie et al. (2025), section 4, after Hoffmann et al. (2022), approach 2: at each budget C the loss is a parabola in
log N; its lowest point gives N*, D* and L*, and straight lines in log-log through those give N* ~ C^a, D* ~ C^b and
L* ~ C^c. Where a budget has a single point for every objective, the points are taken to be the minima themselves.

Intervals come from a bootstrap (`run_noise`); all resamples are solved at once. Where runs repeat different amounts of
distinct data, each amount is a series of its own.

Shapes: K budgets, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np

from unmask.errors import UsageError
from unmask.scaling import points as points_module
from unmask.scaling.comparison import ExponentTest, exponent_tests
from unmask.scaling.isoflop_checks import LeftOut, left_out_errors, weaknesses
from unmask.scaling.laws import Array, ComputeGap, Interval, PowerLaw, compute_gap, fit_power_law
from unmask.scaling.parabola import Draws, Minimum, fit_parabola, given_minimum, sizes_of
from unmask.scaling.points import Budget, Point
from unmask.scaling.run_noise import NoiseKind, run_noise
from unmask.scaling.saturating import fit_saturating_law
from unmask.scaling.series import is_limited, pairs

QUANTITIES = ("params", "tokens", "loss")
GAP_LOSSES = 25
"""Losses at which a compute gap is given, unless asked for others."""


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

    Runs on limited data that have three sizes at no budget are left out: `fit_repeated_data` is for those.
    `bootstrap` is the number of resamples (0 for t intervals alone) and `seed` fixes them. With `edge="keep"` minima
    outside the sampled sizes, which are extrapolations, take part in the laws. `losses` defaults to the range of the
    minima. Raises `UsageError`, which names `source`, for points that cannot be fitted.
    """
    points_module.check(points, source)
    if bootstrap < 0:
        raise UsageError(f"bootstrap {bootstrap} must not be negative")
    if losses is not None and not all(math.isfinite(loss) and loss > 0 for loss in losses):
        raise UsageError(f"losses {list(losses)} must be positive numbers, in nats per token")
    series = points_module.by_objective(points_module.split_by_data(points))
    grouped = {name: points_module.budgets(group) for name, group in series.items()}
    # some runs on limited data beside a study of new data are for the law of repeats, not for parabolas
    lone = [name for name in grouped if is_limited(name) and all(sizes_of(budget) < 3 for budget in grouped[name])]
    if len(lone) < len(grouped):
        grouped = {name: budgets for name, budgets in grouped.items() if name not in lone}
    if all(len(budgets) == 1 for budgets in grouped.values()):
        flops = next(iter(grouped.values()))[0].flops
        raise UsageError(f"{source}: only one budget ({flops:g} FLOPs): a power law needs at least two, better five")
    given = all(len(budget.points) == 1 for budgets in grouped.values() for budget in budgets)
    if not given and all(sizes_of(budget) < 3 for budgets in grouped.values() for budget in budgets):
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
    noise = None if given else run_noise(budgets)
    fitted: list[tuple[Minimum, Draws | None]]
    if given:
        fitted = [(given_minimum(budget), None) for budget in budgets]
    else:
        draw = noise.sampler(bootstrap, rng) if noise is not None and bootstrap else None
        fitted = [fit_parabola(budget, draw, keep_edge=keep_edge) for budget in budgets]
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
        left_out = tuple(left_out_errors(flops_K, values_K["params"], values_K["loss"], rng))
    return ObjectiveFit(
        objective,
        tuple(minima),
        params_law,
        tokens_law,
        loss_law,
        noise.kind if noise else None,
        noise.std if noise else None,
        noise.freedom if noise else 0,
        tuple(weaknesses(minima, params_law, loss_law, noise, bootstrap)),
        params_law_irreducible=with_floor[0],
        tokens_law_irreducible=with_floor[1],
        loss_law_irreducible=with_floor[2],
        left_out=left_out,
    )


def residuals(points: Sequence[Point], fit: IsoflopFit) -> list[tuple[Point, float]]:
    """Each point that has a parabola, named by its series, with its loss less the parabola's, in nats per token."""
    found: list[tuple[Point, float]] = []
    for objective, group in points_module.by_objective(points_module.split_by_data(points)).items():
        if objective not in fit.objectives:
            continue
        for budget, minimum in zip(points_module.budgets(group), fit.objectives[objective].minima, strict=True):
            if minimum.parabola is not None:
                curve = minimum.curve(np.array([point.params for point in budget.points]))
                found += [(p, p.loss - float(at)) for p, at in zip(budget.points, curve, strict=True)]
    return found


def _gaps(fits: dict[str, ObjectiveFit], losses: Sequence[float] | None) -> Iterable[ComputeGap]:
    for name, baseline in pairs([name for name, fit in fits.items() if fit.loss_law is not None]):
        fit, base = fits[name], fits[baseline]
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
