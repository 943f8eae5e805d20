"""SHA-256 of files, with a cache so that large unchanged files are hashed once, and small atomic writes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

THREADS = 8


def sha256_files(
    paths: Sequence[Path], cache: Path | None = None, on_file: Callable[[int], None] | None = None
) -> list[str]:
    """The SHA-256 (hex) of each of `paths`; `on_file(index)` is called as each one is done.

    A file that `cache` remembers with the same size and the same times of last change (mtime and ctime, in
    nanoseconds) is not read again. A cache that cannot be read or written, as in a read-only directory, is ignored.
    """
    known = _read_cache(cache)
    names = [os.path.relpath(path, cache.parent) if cache else "" for path in paths]  # survives a move of both
    stamps = [_stamp(path) for path in paths]

    def digest(index: int) -> str:
        entry = known.get(names[index])
        if entry is not None and entry[:-1] == stamps[index]:
            return cast(str, entry[-1])
        with paths[index].open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()  # releases the GIL, so threads help

    digests: list[str] = []
    with ThreadPoolExecutor(THREADS) as pool:
        for index, value in enumerate(pool.map(digest, range(len(paths)))):
            digests.append(value)
            if on_file is not None:
                on_file(index)
    fresh = {name: [*stamp, value] for name, stamp, value in zip(names, stamps, digests, strict=True)}
    if cache is not None and fresh != known:
        with contextlib.suppress(OSError):
            write_atomically(cache, json.dumps(fresh) + "\n")
    return digests


def write_atomically(path: Path, text: str) -> None:
    """Write `text` to `path` so that a reader sees all of it or the file that was there before."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def is_temporary(path: Path) -> bool:
    """Whether `path` is what `write_atomically` leaves where it is killed while it writes."""
    return re.search(r"\.\d+\.tmp$", path.name) is not None


def sync_directory(path: Path) -> None:
    """Make the renames in the directory `path` durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _read_cache(path: Path | None) -> dict[str, list[Any]]:
    if path is None:
        return {}
    try:
        return cast(dict[str, list[Any]], json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}
