"""The noise of a single run's loss, from repeats or from the residuals of parabolas, and resamples of it.

If every size was run at least twice, the runs' deviations from the mean of their size are resampled. Otherwise the
noise is estimated from the residuals of all parabolas of an objective, and resamples are drawn from a normal
distribution whose variance is itself drawn from what that estimate leaves open, so that few residuals give wide
intervals.

Shapes: P points of a budget, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from unmask.scaling.laws import Array
from unmask.scaling.parabola import parabola_design, sizes_of
from unmask.scaling.points import Budget

NoiseKind = Literal["repeats", "residuals"]


@dataclass(frozen=True)
class Noise:
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


def run_noise(budgets: Iterable[Budget]) -> Noise | None:
    """The noise of a run, from the repeats of all sizes or else from the residuals of all parabolas, if either."""
    fitted = [budget for budget in budgets if sizes_of(budget) >= 3]
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
            _, design_P3 = parabola_design(np.array([point.params for point in budget.points]))
            residuals.append(loss_P - design_P3 @ (np.linalg.pinv(design_P3) @ loss_P))
        deviations = np.concatenate(residuals)
        freedom = len(deviations) - 3 * len(fitted)
    if freedom == 0:
        return None
    return Noise(
        kind,
        deviations * math.sqrt(len(deviations) / freedom),
        math.sqrt(float(deviations @ deviations) / freedom),
        freedom,
    )
