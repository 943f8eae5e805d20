"""`metrics.jsonl`: the record of a run, one JSON object a line, from which fits and reports are made.

`kind` is one of start, train, valid, skip, end. A run that is resumed from a checkpoint writes the steps after it
again; `read` keeps the last line of each (kind, step, split).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from unmask.errors import UnmaskError

Record = dict[str, Any]


class MetricsWriter:
    """Appends records to `metrics.jsonl` and, if wanted, to TensorBoard event files."""

    def __init__(self, directory: Path, *, tensorboard: bool, first_step: int = 0, main: bool = True) -> None:
        """`first_step` hides what the event files hold of later steps. Only the `main` process writes at all."""
        self._file: TextIO | None = _open_for_append(directory / "metrics.jsonl") if main else None
        self._scalar: Callable[[str, float, int], None] | None = None
        self._close_board: Callable[[], None] | None = None
        if tensorboard and main:
            from torch.utils.tensorboard import SummaryWriter

            board = SummaryWriter(str(directory / "tensorboard"), purge_step=first_step + 1 if first_step else None)
            self._scalar, self._close_board = board.add_scalar, board.close

    def write(self, record: Record) -> Record:
        """Append one record and return it."""
        if self._file is not None:
            self._file.write(json.dumps(record, allow_nan=False, default=str) + "\n")
            self._file.flush()
        if self._scalar is not None and record["kind"] in ("train", "valid"):
            place = record["kind"] if record["kind"] == "train" else f"valid/{record['split']}"
            for name, value in record.items():
                if isinstance(value, float) and name not in ("seconds", "flops"):
                    self._scalar(f"{place}/{name}", value, record["step"])
        return record

    def close(self) -> None:
        """Close all files."""
        if self._file is not None:
            self._file.close()
        if self._close_board is not None:
            self._close_board()


def read(path: Path) -> list[Record]:
    """The records of a `metrics.jsonl` in order, without those that a resumed run wrote again.

    A last line that was cut short by a kill is dropped. Raises `UnmaskError` on any other line that is not JSON.
    """
    latest: dict[tuple[str, int, str], Record] = {}
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines, 1):
        try:
            record: Record = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                continue
            raise UnmaskError(f"{path}: line {number} is not JSON ({error.msg}): restore it or delete it") from error
        key = (record["kind"], record.get("step", 0), record.get("split", ""))
        latest.pop(key, None)
        latest[key] = record
    return list(latest.values())


def finite(value: float) -> float | None:
    """`value`, or None where JSON has no such number."""
    return value if math.isfinite(value) else None


def _open_for_append(path: Path) -> TextIO:
    """Open for appending, ending first a last line that a kill cut short."""
    if path.exists():
        content = path.read_bytes()
        if content and not content.endswith(b"\n"):
            with path.open("ab") as file:
                file.truncate(content.rfind(b"\n") + 1)
    return path.open("a")
