"""Part files of all units, in order, to the `.npy` shards and document boundaries of one split."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import numpy.typing as npt

from unmask.data import manifest
from unmask.data.digests import sha256_files, sync_directory
from unmask.data.units import Counts, Unit, read_lengths, tokens_path

COPY_TOKENS = 1 << 24


def write_split(
    split: str,
    units: list[tuple[Unit, Counts]],
    *,
    partial: Path,
    out: Path,
    dtype: str,
    shard_tokens: int,
    on_tokens: Callable[[int], None],
) -> manifest.Split:
    """Write the shards and the boundaries of `split` from the parts of `units` in `partial` into `out`.

    Shards that are there already, from a run that was killed, are kept. The tokens of a part are deleted when the
    shards that hold them are written, so that the disk never holds much more than the corpus once.
    """
    stops = np.cumsum([counts.tokens for _, counts in units])
    starts = stops - [counts.tokens for _, counts in units]
    total = int(stops[-1])
    boundaries = out / f"{split}-documents.npy"
    if not boundaries.is_file():
        lengths = (read_lengths(partial, unit, split) for unit, _ in units)
        documents = sum(counts.documents for _, counts in units)
        _write_array(boundaries, partial, "int64", documents + 1, _positions(lengths))
    files: list[tuple[Path, int]] = []
    for number, first in enumerate(range(0, total, shard_tokens)):
        last = min(first + shard_tokens, total)
        path = out / f"{split}-{number:05d}.npy"
        overlapping = [
            (tokens_path(partial, unit, split), max(first - start, 0), min(last, stop) - start)
            for (unit, _), start, stop in zip(units, starts.tolist(), stops.tolist(), strict=True)
            if start < last and stop > first
        ]
        if not path.is_file():
            _write_array(path, partial, dtype, last - first, _stretches(overlapping, dtype))
        for (unit, _), stop in zip(units, stops.tolist(), strict=True):
            if stop <= last:
                tokens_path(partial, unit, split).unlink(missing_ok=True)
        files.append((path, last - first))
        on_tokens(last - first)
    digests = sha256_files([boundaries, *(path for path, _ in files)])
    return manifest.Split(
        documents=sum(counts.documents for _, counts in units),
        tokens=total,
        bytes=sum(counts.bytes for _, counts in units),
        boundaries=manifest.FileEntry(boundaries.name, digests[0]),
        shards=tuple(
            manifest.Shard(file=path.name, sha256=digest, tokens=tokens)
            for (path, tokens), digest in zip(files, digests[1:], strict=True)
        ),
    )


def _write_array(path: Path, partial: Path, dtype: str, length: int, pieces: Iterator[npt.NDArray[np.generic]]) -> None:
    """Write a one-dimensional `.npy` of `length` elements from its `pieces`; `path` appears when it is complete."""
    temporary = partial / f"{path.name}.tmp"
    written = 0
    with temporary.open("wb") as file:
        header = {"descr": np.dtype(dtype).newbyteorder("<").str, "fortran_order": False, "shape": (length,)}
        np.lib.format.write_array_header_1_0(cast(BinaryIO, file), header)
        for piece in pieces:
            file.write(piece.astype(np.dtype(dtype).newbyteorder("<"), copy=False).tobytes())
            written += piece.size
        file.flush()
        os.fsync(file.fileno())
    assert written == length, f"{path.name}: {written} elements instead of {length}"
    temporary.replace(path)
    sync_directory(path.parent)


def _positions(lengths: Iterator[npt.NDArray[np.int64]]) -> Iterator[npt.NDArray[np.int64]]:
    """0, then the end of each document."""
    end = np.zeros(1, dtype=np.int64)
    yield end
    for some in lengths:
        ends = end[-1] + np.cumsum(some)
        if ends.size:
            yield ends
            end = ends


def _stretches(parts: list[tuple[Path, int, int]], dtype: str) -> Iterator[npt.NDArray[np.generic]]:
    """The elements from start to stop of each (path, start, stop), a bounded number at a time."""
    size = np.dtype(dtype).itemsize
    for path, start, stop in parts:
        for at in range(start, stop, COPY_TOKENS):
            yield np.fromfile(path, dtype=dtype, count=min(COPY_TOKENS, stop - at), offset=at * size)
