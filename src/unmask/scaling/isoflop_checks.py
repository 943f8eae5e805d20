"""How far an IsoFLOP fit can be trusted: what it says of a budget that is left out, and what weakens it, in sentences.

Shapes: K budgets.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unmask.scaling.laws import Array, PowerLaw, fit_power_law
from unmask.scaling.parabola import Minimum
from unmask.scaling.run_noise import Noise
from unmask.scaling.saturating import fit_saturating_law

BUDGETS_NAMED = 8
"""In one sentence; of more their number and range."""


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


def left_out_errors(flops_K: Array, params_K: Array, loss_K: Array, rng: np.random.Generator) -> Iterable[LeftOut]:
    """For each of at least three budgets, how far laws through the others miss its minimum."""
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


def weaknesses(
    minima: Sequence[Minimum],
    params_law: PowerLaw | None,
    loss_law: PowerLaw | None,
    noise: Noise | None,
    bootstrap: int,
) -> Iterable[str]:
    """What weakens this fit, in sentences."""
    why = {
        "too few sizes": "fewer than three sizes",
        "no minimum": "the parabola opens downward",
        "outside": "the minimum lies outside the sizes that were run",
    }
    for flag, reason in why.items():
        left = [minimum.flops for minimum in minima if minimum.flag == flag]
        if left:
            yield f"{_budgets(left)} left out of the laws: {reason}."
    unsure = [
        minimum.flops
        for minimum in minima
        if minimum.flag is None and minimum.params is not None and not minimum.given and minimum.params_ci95 is None
    ]
    if unsure and noise and bootstrap:
        many = "has no interval for its" if len(unsure) == 1 else "have no intervals for their"
        yield (
            f"{_budgets(unsure).rsplit(' ', 1)[0]} {many} best size: in over 5% of the resamples the parabola opens "
            "downward."
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


def _budgets(flops: Sequence[float]) -> str:
    """Budgets as the beginning of a sentence."""
    told = [f"{each:.3g}" for each in flops]
    if len(told) == 1:
        return f"The budget of {told[0]} FLOPs is"
    if len(told) > BUDGETS_NAMED:
        return f"{len(told)} budgets from {told[0]} to {told[-1]} FLOPs are"
    return f"The budgets of {', '.join(told[:-1])} and {told[-1]} FLOPs are"
