"""The bootstrap: resamples of the runs as weights, and their fits in parallel.

A resample draws as many runs as there are, with replacement; how often each was drawn is its weight, so that all
resamples share one set of points. Chunks of resamples go to threads: numpy leaves the interpreter while it computes,
and the arrays of a chunk stay in the processor's cache. The result does not depend on the number of threads.

Shapes: R resamples, P points.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from unmask.machine import usable_cores
from unmask.scaling.laws import Array

T = TypeVar("T")
CHUNK = 100
"""Resamples that are solved together."""


def resample_weights(points: int, resamples: int, rng: np.random.Generator) -> Array:
    """How often each point is in each resample, (R, P); every row sums to P."""
    return rng.multinomial(points, np.full(points, 1 / points), resamples).astype(np.float64)


def in_chunks(solve: Callable[[Array], T], weights_RP: Array, workers: int | None = None) -> list[T]:
    """`solve` on the weights in chunks of rows, in order, by `workers` threads (default: as many as cores)."""
    chunks = [weights_RP[start : start + CHUNK] for start in range(0, len(weights_RP), CHUNK)]
    workers = min(workers or usable_cores(), len(chunks))
    if workers <= 1:
        return [solve(chunk) for chunk in chunks]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(solve, chunks))
