"""Intervals over seeds and items: what several runs of one model say together.

Items about one person, or with one answer, go together: they are drawn as one cluster. A share gets Wilson's interval
for the number of independent items that has the bootstrap's variance, so that 0 of 40 is not told as exactly none.

Shapes: S runs, K clusters of a run, F sums from which a figure is computed, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from unmask.seeding import derived_seed

Floats = npt.NDArray[np.float64]
RESAMPLES = 1000
Z = 1.959963984540054
"""The normal's 97.5% quantile."""


@dataclass(frozen=True)
class Repeated:
    """A figure of several runs."""

    value: float
    """The mean over the runs."""
    ci95: tuple[float, float]
    """Over runs and items."""
    of_runs: list[float]
    """Each run's."""

    def to_dict(self) -> dict[str, Any]:
        """A dict for JSON."""
        return {"value": self.value, "ci95": list(self.ci95), "of_runs": self.of_runs}


def share(
    right: Sequence[Sequence[bool]], clusters: Sequence[Sequence[Hashable]], *, shared: bool, seed: int = 0
) -> Repeated:
    """The share of right items over runs; `clusters` says which items of a run go together.

    `shared`: all runs were asked the same items, which are drawn once for all of them.
    """
    sums = [by_cluster([[float(each), 1.0] for each in run], names) for run, names in zip(right, clusters, strict=True)]
    of_runs = [float(run.sum(0)[0] / run.sum(0)[1]) for run in sums]
    value = sum(of_runs) / len(of_runs)
    drawn_R = _resampled(sums, lambda sums_F: float(sums_F[0] / sums_F[1]), shared=shared, seed=seed)
    items = sum(map(len, right))
    variance = float(drawn_R.var())
    if variance > 0:
        independent = min(max(value * (1 - value) / variance, 1.0), items)
    else:
        independent = len(sums[0]) if shared else sum(map(len, sums))
    return Repeated(value, wilson(value, independent), of_runs)


def figure(
    sums: Sequence[Floats], value: Callable[[Floats], float], *, shared: bool, seed: int = 0, resamples: int = 200
) -> Repeated:
    """A figure that is a function of sums over items, from each run's `by_cluster`; the interval is the bootstrap's."""
    of_runs = [value(run.sum(0)) for run in sums]
    low, high = np.quantile(_resampled(sums, value, shared=shared, seed=seed, resamples=resamples), [0.025, 0.975])
    return Repeated(sum(of_runs) / len(of_runs), (float(low), float(high)), of_runs)


def by_cluster(sums: Sequence[Sequence[float]], clusters: Sequence[Hashable]) -> Floats:
    """The sums (K, F) of each cluster, from those of each item."""
    names = {name: number for number, name in enumerate(dict.fromkeys(clusters))}
    found = np.zeros((len(names), len(sums[0])))
    np.add.at(found, [names[name] for name in clusters], np.array(sums, dtype=np.float64))
    return found


def wilson(value: float, items: float) -> tuple[float, float]:
    """Wilson's 95% interval of a share of so many independent items."""
    middle = (value + Z**2 / (2 * items)) / (1 + Z**2 / items)
    half = Z * math.sqrt(value * (1 - value) / items + (Z / (2 * items)) ** 2) / (1 + Z**2 / items)
    return max(0.0, middle - half), min(1.0, middle + half)


def _resampled(
    sums: Sequence[Floats],
    value: Callable[[Floats], float],
    *,
    shared: bool,
    seed: int,
    resamples: int = RESAMPLES,
) -> Floats:
    """The mean over runs in each resample (R,) of runs and of their clusters."""
    rng = np.random.default_rng(derived_seed(seed, "resampling"))
    runs_RS = rng.integers(len(sums), size=(resamples, len(sums)))
    found = np.zeros(resamples)
    for number, runs_S in enumerate(runs_RS):
        once = _counts(rng, len(sums[0])) if shared else None
        chosen = [sums[int(run)] for run in runs_S]
        drawn = [value((_counts(rng, len(each)) if once is None else once) @ each) for each in chosen]
        found[number] = sum(drawn) / len(drawn)
    return found


def _counts(rng: np.random.Generator, clusters: int) -> Floats:
    """How often each cluster is drawn."""
    return np.bincount(rng.integers(clusters, size=clusters), minlength=clusters).astype(np.float64)
