"""Fits as JSON: what `unmask scaling fit` writes and `unmask scaling predict` reads.

Beside the figures the file keeps the resamples of each law as `rows` (see `law_rows`), so that whoever reads it can
give intervals. Lists of numbers stand on one line.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence

from unmask.scaling.law_rows import COLUMNS, AnyFit, rows_of_fit
from unmask.scaling.points import Point

INNERMOST = re.compile(r"\[\s+((?:-?[\d.][\d.eE+-]*|null)(?:,\s+(?:-?[\d.][\d.eE+-]*|null))*)\s+\]")


def dumps(fit: AnyFit, points: Sequence[Point] = ()) -> str:
    """The fit as JSON, with the rows of its laws; `points` are those that it was fitted to."""
    found = fit.to_dict()
    if points:
        found["flops_range"] = (min(point.flops for point in points), max(point.flops for point in points))
    found["row_columns"] = COLUMNS
    found["rows"] = {
        name: [[None if math.isnan(value) else float(f"{value:.10g}") for value in row] for row in rows.tolist()]
        for name, rows in rows_of_fit(fit).items()
    }
    text = json.dumps(found, indent=2, allow_nan=False)
    return INNERMOST.sub(lambda innermost: "[" + re.sub(r",\s+", ", ", innermost[1]) + "]", text)
