"""What is known of each request of an evaluation beside the figure that the harness gets, and what a task cost."""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass
class Record:
    """What is known of one request beside the figure that the harness gets."""

    log_likelihood: float = math.nan
    standard_error: float = math.nan
    network_calls: int = 0
    exact: bool = False
    truncated: int = 0
    """Tokens cut off the left of the prompt."""
    error: str = ""
    """Why there is no figure."""
    greedy: bool | None = None
    """Whether greedy decoding, told the length, gives the answer; None where nobody asks."""
    greedy_searched: bool | None = None
    """The same without that hint."""


@dataclass
class Spent:
    """What a task cost."""

    network_calls: int = 0
    seconds: float = 0.0
    calls_saved: int = 0
    batches_halved: int = 0


@dataclass
class Log:
    """Of all requests so far, by task, document and number of the request."""

    records: dict[tuple[str, int, int], Record] = field(default_factory=dict[tuple[str, int, int], Record])
    spent: dict[str, Spent] = field(default_factory=dict[str, Spent])
