"""Batches of windows of tokens, in an order that is a pure function of (seed, global step, row).

The tokens of a split are cut into windows of `length`. Every epoch is a new permutation of all of them (grain's
index shuffle, so nothing of the size of the data is ever in memory), and the global batch of a step is the next
`batch_size` windows. A process takes the `rows` of the global batch that are its own. The whole state is therefore
one integer, the step: a run may stop anywhere and go on with any number of processes.

Shapes: B rows, T tokens of a window.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Generator, Iterator
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from unmask.errors import UnmaskError, UsageError
from unmask.seeding import derived_seed

THREADS, AHEAD = 2, 8
"""Threads that read ahead, and how many batches."""


class Tokens(Protocol):
    """A long array of tokens, such as a `TokenSource`."""

    def __len__(self) -> int: ...
    def __getitem__(self, key: slice, /) -> npt.NDArray[Any]: ...


class _Windows:
    """The windows of a split, as grain reads them."""

    def __init__(self, source: Tokens, length: int) -> None:
        self._source, self._length = source, length

    def __len__(self) -> int:
        return len(self._source) // self._length

    def __getitem__(self, index: int) -> npt.NDArray[np.int64]:
        return self._source[index * self._length : (index + 1) * self._length].astype(np.int64)


class _Limited:
    """The first `count` windows in an order of their own, the same ones in every epoch.

    A slice of a shuffled `MapDataset` would not do: grain shuffles it anew in each epoch, and the slice has others.
    """

    def __init__(self, shuffled: Any, count: int) -> None:
        self._shuffled, self._count = shuffled, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> npt.NDArray[np.int64]:
        return self._shuffled[index]


class _Steps:
    """The batches of all steps, as grain reads them."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, step: int) -> npt.NDArray[np.int64]:
        return self._batches[step]


class Batches:
    """`batches[step]` is this process's part of the global batch of `step`: int64 tokens of shape (B, T).

    `rows` are its rows of the global batch (all, by default); windows that fill no batch at the end of an epoch go
    into one with the first of the next epoch. With `unique_tokens` an epoch has only so many: windows from all over
    `source`, the same ones for every seed, and of fewer tokens a part of those of more. Raises `UnmaskError` if
    `source` is shorter than one window and `UsageError` for numbers that make no batch.
    """

    def __init__(
        self,
        source: Tokens,
        *,
        length: int,
        batch_size: int,
        seed: int,
        rows: slice | None = None,
        unique_tokens: int | None = None,
    ) -> None:
        if length < 1 or batch_size < 1:
            raise UsageError(f"length {length} and batch_size {batch_size} must be at least 1")
        self.rows = range(batch_size)[rows or slice(None)]
        """The rows of the global batch that come out."""
        if not self.rows:
            raise UsageError(f"rows {rows} of a batch of {batch_size} are none: use no more processes than rows")
        if len(source) < length:
            raise UnmaskError(
                f"{len(source)} tokens are less than one window of {length}: lower the length, or prepare more text"
            )
        if unique_tokens is not None and not length <= unique_tokens <= len(source):
            raise UsageError(
                f"unique_tokens {unique_tokens} must be from {length}, one window, to the {len(source)} of the corpus"
            )
        self.batch_size = batch_size
        """Rows of the global batch."""
        self.windows = (unique_tokens or len(source)) // length
        """Windows of an epoch."""
        windows = _grain().MapDataset.source(_Windows(source, length))
        if unique_tokens is not None:
            shuffled = windows.shuffle(seed=derived_seed(0, "unique tokens") % 2**32)
            windows = _grain().MapDataset.source(_Limited(shuffled, self.windows))
        self._shuffled = windows.shuffle(seed=derived_seed(seed, "windows") % 2**32).repeat()

    def __getitem__(self, step: int) -> npt.NDArray[np.int64]:
        if step < 0:
            raise IndexError(f"step {step} is negative")
        first = step * self.batch_size
        return np.stack([self._shuffled[first + row] for row in self.rows])

    def iterate(self, start_step: int = 0) -> Generator[npt.NDArray[np.int64]]:
        """The batches from `start_step` on, without end, read ahead in threads. Any step starts at once."""
        grain = _grain()
        ahead = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=AHEAD)
        iterator = iter(grain.MapDataset.source(_Steps(self)).to_iter_dataset(ahead))
        iterator.set_state({"next_index": start_step})
        try:
            yield from cast(Iterator[npt.NDArray[np.int64]], iterator)
        finally:
            iterator.close()

    def epoch(self, step: int) -> float:
        """How often the data had been seen when `step` begins."""
        return step * self.batch_size / self.windows


def _grain() -> Any:
    """Import grain without its warning that there is no JAX."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        import grain
    finally:
        logger.setLevel(level)
    return grain
