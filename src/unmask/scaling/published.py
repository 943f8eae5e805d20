"""The law of the paper, built in, and what is published about repeated data.

Nie et al. (2025), "Scaling up Masked Diffusion Models on Text", figure 2: the minima at five budgets were read off the
figure; what stands here are the least-squares lines of log N and log L on log C through them, with their scatter, from
which intervals follow by the t distribution with three degrees of freedom. SlimPajama, 32,000 pieces, 6 N D.

The value of repeats: Prabhudesai et al. (2025), "Diffusion Beats Autoregressive in Data-Constrained Settings". Their
corpus and sizes are others, so a prediction that joins both is a rough one.

Shapes: R rows of (E, log A, alpha, log B, beta, log R_D, log R_N).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from unmask.scaling.law_rows import rows_of_laws
from unmask.scaling.laws import Array

SOURCE = "Nie et al. (2025), figure 2, read off the figure"
BUDGETS = (6e18, 1e19, 3e19, 6e19, 1e20)
DRAWS = 500


class Line(NamedTuple):
    """A least-squares line through the five minima."""

    mean: float
    """Of the logarithm, at the mean of log C."""
    slope: float
    scatter: float
    """Standard deviation about the line, three degrees of freedom."""


LINES: dict[str, dict[str, Line]] = {
    "arm": {"params": Line(19.79524, 0.64167, 0.05604), "loss": Line(0.95124, -0.06424, 0.00276)},
    "mdm": {"params": Line(19.14335, 0.62885, 0.02276), "loss": Line(1.12416, -0.06248, 0.00176)},
}

REPEATS_SOURCE = "Prabhudesai et al. (2025)"
REPEATS: dict[str, float] = {"arm": 31.0, "mdm": 500.0, "any_order": 500.0}
"""R_D: how many epochs keep most of their value. For masked diffusion 494 to 513 are given."""


def rows(objective: str, seed: int = 0) -> Array:
    """The law of the paper for `objective` ("arm" or "mdm") and resamples of it, as rows; the first is the law."""
    log_flops_K = np.log(BUDGETS)
    center = float(log_flops_K.mean())
    spread = float(np.sqrt(((log_flops_K - center) ** 2).sum()))
    freedom = len(BUDGETS) - 2
    rng = np.random.default_rng([seed, *objective.encode()])
    lines: dict[str, Array] = {}
    for what, line in LINES[objective].items():
        scale_R = line.scatter * np.sqrt(freedom / rng.chisquare(freedom, DRAWS))
        mean_R = line.mean + scale_R * rng.standard_normal(DRAWS) / np.sqrt(len(BUDGETS))
        slope_R = line.slope + scale_R * rng.standard_normal(DRAWS) / spread
        mean_R, slope_R = np.concatenate([[line.mean], mean_R]), np.concatenate([[line.slope], slope_R])
        lines[what] = np.stack([mean_R - slope_R * center, slope_R], axis=1)
    return rows_of_laws(lines["params"], lines["loss"], np.zeros(DRAWS + 1))
