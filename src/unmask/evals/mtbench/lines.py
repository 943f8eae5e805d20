"""FastChat's files of JSON lines: a last line that a kill cut short counts for nothing (`journal` writes them)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

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
