"""Tables without markup: CSV for programs, and aligned columns for a terminal."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path


def write_csv(path: Path, rows: Iterable[Sequence[object]]) -> None:
    """Write `rows`, the heads among them, as CSV; None becomes an empty cell."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(["" if cell is None else cell for cell in row] for row in rows)


def aligned(rows: Sequence[Sequence[str]], *, words: Sequence[int] = (0,)) -> str:
    """`rows`, heads included, a line each; the columns in `words` are text, the others numbers and flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in words else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
