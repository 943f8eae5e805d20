"""A parabola of the loss in log N at one budget, and its lowest point, in each resample too.

Hoffmann et al. (2022), approach 2; Nie et al. (2025), section 4.

Shapes: P points of a budget, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from unmask.scaling import numbers
from unmask.scaling.laws import Array, Interval, percentile_interval
from unmask.scaling.points import Budget

Flag = Literal["too few sizes", "no minimum", "outside"]


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

    @property
    def beyond(self) -> str:
        """Of one outside the sizes that were run, where it lies: "< 8.27K" or "> 3.5M"; else ""."""
        if self.flag != "outside" or self.params is None:
            return ""
        smallest, largest = self.params_range
        return f"< {numbers.count(smallest)}" if self.params < smallest else f"> {numbers.count(largest)}"

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
class Draws:
    """The minimum of one budget in each resample, each (R,); nan where the parabola has none."""

    params: Array
    tokens: Array
    loss: Array


def fit_parabola(
    budget: Budget, draw: Callable[[int], Array] | None, *, keep_edge: bool
) -> tuple[Minimum, Draws | None]:
    """The minimum of a budget, and the same in each resample; `draw` gives the noise (R, P) of so many points.

    With `keep_edge` a minimum outside the sizes that were run is not flagged. There are no resamples without a minimum.
    """
    params_P = np.array([point.params for point in budget.points])
    loss_P = np.array([point.loss for point in budget.points])
    smallest, largest = float(params_P.min()), float(params_P.max())
    minimum = Minimum(budget.flops, None, None, None, None, None, sizes_of(budget), (smallest, largest))
    if minimum.sizes < 3:
        return replace(minimum, flag="too few sizes"), None

    center, design_P3 = parabola_design(params_P)
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
            drawn = Draws(
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


def given_minimum(budget: Budget) -> Minimum:
    """The single point of a budget as its minimum."""
    (point,) = budget.points
    extent = (point.params, point.params)
    return Minimum(point.flops, point.params, None, point.tokens, point.loss, None, 1, extent, given=True)


def parabola_design(params_P: Array) -> tuple[float, Array]:
    """The centre of log N and the columns 1, u, u^2."""
    center = float(np.log(params_P).mean())
    u_P = np.log(params_P) - center
    return center, np.stack([np.ones_like(u_P), u_P, u_P * u_P], axis=1)


def sizes_of(budget: Budget) -> int:
    """How many different sizes a budget has."""
    return len({point.params for point in budget.points})
