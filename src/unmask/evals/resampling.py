"""Intervals over seeds and items: what several runs of one model say together, and how models differ on the same items.

Items about one person, or with one answer, go together: they are drawn as one cluster. A share gets Wilson's interval
for the number of independent items that has the bootstrap's variance, so that 0 of 40 is not told as exactly none.
`Draws` resamples the clusters once for all figures of several models, so that differences between models are paired.

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
ENDS = (0.025, 0.975)
"""Quantiles of the ends of an interval."""
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


class Draws:
    """The same resamples of clusters for any number of figures."""

    def __init__(self, clusters: int, seed: int, resamples: int) -> None:
        rng = np.random.default_rng(seed)
        self._counts_RK = np.stack([np.ones(clusters), *(_counts(rng, clusters) for _ in range(resamples))])
        """How often each cluster is drawn; first as they are, each once."""

    def sums(self, sums_KF: Floats) -> Floats:
        """The sums (1 + R, F) over all clusters, and over those of each resample."""
        return self._counts_RK @ sums_KF

    @staticmethod
    def interval(values_R: Floats) -> tuple[float, float] | None:
        """The 95% interval of a figure, from its value and those of the resamples, of which some may be no number.

        None where nothing varies: one cluster tells nothing of its spread.
        """
        known = values_R[1:][np.isfinite(values_R[1:])]
        if not len(known):
            return None
        low, high = map(float, np.quantile(known, ENDS))
        return None if low == high == values_R[0] else (low, high)


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
    low, high = np.quantile(_resampled(sums, value, shared=shared, seed=seed, resamples=resamples), ENDS)
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
