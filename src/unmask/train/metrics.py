"""Writing `metrics.jsonl`, and the same figures for TensorBoard. `unmask.records` reads it."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from unmask.errors import UnmaskError
from unmask.records import Record


class MetricsWriter:
    """Appends records to `metrics.jsonl` and, if wanted, to TensorBoard event files."""

    def __init__(self, directory: Path, *, tensorboard: bool, first_step: int = 0, main: bool = True) -> None:
        """`first_step` hides what the event files hold of later steps. Only the `main` process writes at all."""
        self._directory = directory
        self._file: TextIO | None = _open_for_append(directory / "metrics.jsonl") if main else None
        self._scalar: Callable[[str, float, int], None] | None = None
        self._close_board: Callable[[], None] | None = None
        if tensorboard and main:
            from torch.utils.tensorboard import SummaryWriter

            board = SummaryWriter(str(directory / "tensorboard"), purge_step=first_step + 1 if first_step else None)
            self._scalar, self._close_board = board.add_scalar, board.close

    def write(self, record: Record) -> Record:
        """Append one record and return it. Raises `UnmaskError` where it cannot be written."""
        line = json.dumps(record, allow_nan=False, default=str) + "\n"
        try:
            if self._file is not None:
                self._file.write(line)
                self._file.flush()
            if self._scalar is not None and record["kind"] in ("train", "valid"):
                place = record["kind"] if record["kind"] == "train" else f"valid/{record['split']}"
                for name, value in record.items():
                    if isinstance(value, float) and name not in ("seconds", "flops"):
                        self._scalar(f"{place}/{name}", value, record["step"])
        except OSError as error:
            raise UnmaskError(
                f"{self._directory}: metrics cannot be written ({error.strerror or error}): "
                "make room and run again with --resume"
            ) from error
        return record

    def close(self) -> None:
        """Close all files; what cannot be written any more has been complained of."""
        for close in (self._file.close if self._file is not None else None, self._close_board):
            if close is not None:
                with contextlib.suppress(OSError):
                    close()


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
