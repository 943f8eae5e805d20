"""Series: runs that are fitted as one curve, and what they are called.

"mdm"; "mlm@0.3", of an objective with a fixed share of masks; "arm@u1000000", of runs on so many distinct tokens, where
a study has several such limits and this one makes runs repeat; "mlm@0.3@u1000000". Series are compared where their data
is the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from unmask.scaling import numbers

LABELS = {"mdm": "MDM", "arm": "ARM", "mlm": "MLM", "span": "span corruption", "any_order": "any order"}
BASELINE = "arm"
NAME = re.compile(r"(?P<kind>.*?)(@(?P<rate>0?\.\d+))?(@u(?P<unique>\d+))?", re.DOTALL)


def series_name(objective: str, *, mask_rate: float | None = None, unique_tokens: float | None = None) -> str:
    """The name of a series of an objective."""
    rate = "" if mask_rate is None else f"@{mask_rate:g}"
    return objective + rate + ("" if unique_tokens is None else f"@u{unique_tokens:.0f}")


def kind(series: str) -> str:
    """The objective of a series, without the rate and the limit of its data."""
    return _parts(series)[0]


def is_limited(series: str) -> bool:
    """Whether the data of a series is limited, beside others that have more."""
    return bool(_parts(series)[2])


def label(series: str) -> str:
    """A series as readers know it: "MDM", "MLM 30%", "ARM, 1M unique"."""
    objective, rate, unique = _parts(series)
    words = LABELS.get(objective, objective)
    if rate:
        words += f" {100 * float(rate):g}%"
    return words + (f", {numbers.round_count(float(f'{float(unique):.3g}'))} unique" if unique else "")


def baseline_of(names: Sequence[str]) -> str:
    """What the others are compared with: the ARM where it is there, else the first."""
    return next((name for name in names if kind(name) == BASELINE), names[0])


def pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """Each series with the baseline of those on the same data; that of the MDM comes first."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_parts(name)[2], []).append(name)
    found = [
        (name, baseline) for group in groups.values() for baseline in [baseline_of(group)] for name in group
        if name != baseline
    ]  # fmt: skip
    return sorted(found, key=lambda pair: kind(pair[0]) != "mdm")


def _parts(series: str) -> tuple[str, str, str]:
    found = NAME.fullmatch(series)
    assert found is not None
    return found["kind"], found["rate"] or "", found["unique"] or ""
