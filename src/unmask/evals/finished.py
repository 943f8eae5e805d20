"""What an evaluation has finished, kept in a file as it goes, so that one that was killed goes on.

Each piece of work (a batch of requests) has a key, which says all that its result depends on beside the model and the
settings; those two stand in the file's first line. A piece is computed as it would be without the file, so what comes
out does not depend on where a run was killed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self, cast

from unmask.errors import UsageError
from unmask.evals.journal import Journal

FORMAT = "unmask-finished-1"


class Finished:
    """The finished pieces of one run. A context manager that closes the file."""

    def __init__(self, path: Path | None = None, made_by: Mapping[str, Any] | None = None) -> None:
        """Open `path`, or keep nothing. A file that says another `made_by` is begun anew.

        Raises `UsageError` if the file can't be written.
        """
        self.path = path
        self.recovered = 0
        """Pieces that an earlier run left."""
        self.others: list[str] = []
        """What an earlier run's model or settings differ in, if its pieces are of no use."""
        self.saved_seconds = 0.0
        """What the pieces that were looked up took when they were computed."""
        self._known: dict[str, tuple[Any, float]] = {}
        self._journal: Journal | None = None
        self._empty = False
        if path is None:
            return
        head = {"format": FORMAT, **(made_by or {})}
        try:
            self._journal = Journal(path)
            records = list(_records(path))
            if records[:1] == [head]:
                pieces = [cast("list[Any]", each) for each in records[1:] if isinstance(each, list)]
                self._known = {str(key): (value, float(seconds)) for key, value, seconds in pieces}
            else:
                if records and isinstance(records[0], dict):
                    before = cast("dict[str, Any]", records[0])
                    self.others = [key for key in {**before, **head} if before.get(key) != head.get(key)]
                path.unlink(missing_ok=True)
                self._journal.write(head)
        except OSError as error:
            raise UsageError(f"{path}: can't be written ({error.strerror}): choose another --json") from None
        self.recovered = len(self._known)
        self._empty = not self._known

    def once(self, key: str, compute: Callable[[], Any]) -> Any:
        """What `compute` gives, which must go into JSON; from the file if it is known there."""
        if key in self._known:
            value, seconds = self._known[key]
            self.saved_seconds += seconds
            return value
        begun = time.perf_counter()
        value = compute()
        if self._journal is not None:
            self._journal.write([key, value, round(time.perf_counter() - begun, 6)])
            self._empty = False
        return value

    def remove(self) -> None:
        """Close and delete the file: the run is through."""
        self._empty = True
        self.close()

    def close(self) -> None:
        """Close the file; one without pieces is of no use to anyone."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        if self.path is not None and self._empty:
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


def key_of(*parts: Any) -> str:
    """A key of numbers, texts and tuples or lists of them."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


def _records(path: Path) -> Iterator[Any]:
    """What the lines of a file say; a damaged one is left out, and what it said computed again."""
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else []
    for line in lines:
        with contextlib.suppress(ValueError):
            yield json.loads(line)
