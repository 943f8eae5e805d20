"""Fits as JSON: what `unmask scaling fit` writes and `unmask scaling predict` reads.

Beside the figures the file keeps the resamples of each law, so that whoever reads it can give intervals. Lists of
numbers stand on one line.
"""

from __future__ import annotations

import json
import re
from typing import Any, Protocol

INNERMOST = re.compile(r"\[\s+((?:-?[\d.][\d.eE+-]*|null)(?:,\s+(?:-?[\d.][\d.eE+-]*|null))*)\s+\]")


class Fit(Protocol):
    """Any of the fits."""

    def to_dict(self) -> dict[str, Any]:
        """A dict for JSON."""
        ...


def dumps(fit: Fit) -> str:
    """The fit as JSON."""
    text = json.dumps(fit.to_dict(), indent=2, allow_nan=False)
    return INNERMOST.sub(lambda found: "[" + re.sub(r",\s+", ", ", found[1]) + "]", text)
