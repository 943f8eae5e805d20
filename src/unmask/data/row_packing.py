"""Which short examples share a row, so that a batch of many lengths has little padding."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def first_fit_decreasing(lengths_N: npt.NDArray[np.int64], width: int) -> list[list[int]]:
    """Rows of at most `width` tokens, each the numbers of its examples: the longest first, each where it first fits.

    Needs at most 11/9 of the fewest rows there can be, and two thirds of a row (Dosa, 2007). No example may be longer
    than `width`.
    """
    rows: list[list[int]] = []
    room_N = np.full(len(lengths_N), width, np.int64)  # of the rows that are there, and of new ones
    for number in np.argsort(-lengths_N, kind="stable").tolist():
        row = int(np.argmax(room_N >= lengths_N[number]))
        if row == len(rows):
            rows.append([])
        rows[row].append(number)
        room_N[row] -= lengths_N[number]
    return rows
