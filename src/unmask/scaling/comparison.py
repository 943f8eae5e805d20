"""Two objectives side by side: whether their exponents differ.

Shapes: R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from scipy import special

from unmask.scaling.laws import Interval, PowerLaw, percentile_interval
from unmask.scaling.series import pairs

LEVEL = 0.05
"""Exponents are called different where the larger of the p-values is below this."""


class Scaled(Protocol):
    """What every fit of an objective has."""

    @property
    def params_law(self) -> PowerLaw | None:
        """The best N at each budget."""
        ...

    @property
    def tokens_law(self) -> PowerLaw | None:
        """The best D at each budget."""
        ...

    @property
    def loss_law(self) -> PowerLaw | None:
        """The loss of the best size at each budget."""
        ...


@dataclass(frozen=True)
class ExponentTest:
    """Whether an exponent of `objective` differs from that of `baseline`."""

    objective: str
    baseline: str
    law: str
    """"params", "tokens" or "loss"."""
    difference: float
    """Exponent of `objective` less that of `baseline`."""
    difference_ci95: Interval | None
    p_value: float | None
    """Two-sided, from the resamples: what the noise of single runs can do. None without them."""
    p_value_t: float | None
    """Two-sided, Welch's test on the two regressions: what the scatter of the minima about the lines can do. None with
    fewer than three minima, or where the laws are no regressions."""

    @property
    def differ(self) -> bool | None:
        """Whether they differ by every test there is; None if there is none."""
        values = [value for value in (self.p_value, self.p_value_t) if value is not None]
        return max(values) < LEVEL if values else None

    def to_dict(self) -> dict[str, Any]:
        """A dict for JSON."""
        return {
            "objective": self.objective,
            "baseline": self.baseline,
            "law": self.law,
            "difference": self.difference,
            "difference_ci95": self.difference_ci95,
            "p_value": self.p_value,
            "p_value_t": self.p_value_t,
            "differ": self.differ,
        }


def exponent_tests(fits: Mapping[str, Scaled]) -> list[ExponentTest]:
    """Each series' exponents of N, D and L against those of its baseline."""
    tests: list[ExponentTest] = []
    for name, baseline in pairs([name for name, fit in fits.items() if fit.loss_law is not None]):
        for what in ("params", "tokens", "loss"):
            law, base = (getattr(fits[each], f"{what}_law") for each in (name, baseline))
            if law is not None and base is not None:
                tests.append(exponent_test(name, baseline, what, law, base))
    return tests


def exponent_test(objective: str, baseline: str, what: str, law: PowerLaw, base: PowerLaw) -> ExponentTest:
    """The test of one pair of laws."""
    resamples = min(len(law.draws_R2), len(base.draws_R2))
    difference_R = law.draws_R2[:resamples, 1] - base.draws_R2[:resamples, 1]
    difference_R = difference_R[np.isfinite(difference_R)]
    p_value = None
    if len(difference_R) and "bootstrap" in (law.interval, base.interval):
        beyond = min(int((difference_R <= 0).sum()), int((difference_R >= 0).sum()))
        p_value = min(1.0, 2 * (beyond + 1) / (len(difference_R) + 1))
    return ExponentTest(
        objective,
        baseline,
        what,
        law.exponent - base.exponent,
        percentile_interval(difference_R),
        p_value,
        _welch(law, base),
    )


def _welch(law: PowerLaw, base: PowerLaw) -> float | None:
    if law.exponent_ci95_t is None or base.exponent_ci95_t is None:
        return None
    variances: list[float] = []
    for each in (law, base):
        assert each.exponent_ci95_t is not None
        low, high = each.exponent_ci95_t
        variances.append(((high - low) / 2 / float(special.stdtrit(each.degrees_of_freedom, 0.975))) ** 2)
    total = sum(variances)
    if total == 0:
        return 1.0 if law.exponent == base.exponent else 0.0
    parts = zip(variances, (law.degrees_of_freedom, base.degrees_of_freedom), strict=True)
    freedom = total**2 / sum(variance**2 / each for variance, each in parts)
    return 2 * float(special.stdtr(freedom, -abs(law.exponent - base.exponent) / math.sqrt(total)))
