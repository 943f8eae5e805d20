"""JSON lines that are written one by one and survive a kill: what is left of a last line is taken off."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO


class Journal:
    """A file that lines are added to, each of them whole and on the disk before the next.

    It is made with its first line: an error before leaves no empty one.
    """

    def __init__(self, path: Path) -> None:
        """What a kill left of a last line is taken off."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        if path.is_file():
            _mend(path)
        self._file: TextIO | None = None

    def write(self, record: Any) -> None:
        """Add a line."""
        self._file = self._file or self.path.open("a", encoding="utf-8")
        self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _mend(path: Path) -> None:
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    if end == len(content):
        return
    with path.open("r+b") as file:
        try:
            json.loads(content[end:])
        except ValueError:
            file.truncate(end)
        else:
            file.seek(0, os.SEEK_END)
            file.write(b"\n")
