"""JSON lines that are written one by one and survive a kill: a last line that was cut short counts for nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO, cast

from unmask.errors import UnmaskError, UsageError

Record = dict[str, Any]


def read(path: Path, option: str = "") -> list[tuple[Record, str]]:
    """The objects of a file, each with where it stands.

    Raises `UsageError`, which names `option` if given, where there is no such file or no object in it, and
    `UnmaskError` for a line that is no JSON object, unless it is the last one and has no end.
    """
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no such file"
        raise UsageError(f"{option} {path}: {what}: give a file of FastChat's JSON lines".strip())
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UnmaskError(f"{path}: byte {error.start}: not UTF-8: save it as UTF-8") from None
    found: list[tuple[Record, str]] = []
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}: line {number}"
        try:
            record = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                continue
            raise UnmaskError(f"{where}: not JSON ({error}): restore the file, or leave the line out") from None
        if not isinstance(record, dict):
            raise UnmaskError(f"{where}: no JSON object: give a file of FastChat's JSON lines")
        found.append((cast(Record, record), where))
    if not found:
        raise UsageError(f"{option} {path}: is empty: give a file of FastChat's JSON lines".strip())
    return found


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

    def write(self, record: Record) -> None:
        """Add a line."""
        self._file = self._file or self.path.open("a", encoding="utf-8")
        self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()


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
