"""Dated texts: files with a year in their names, split into an early period, to train on, and a later one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from unmask.data.reading import Source, find_sources
from unmask.errors import UsageError

SHIFTED = "shifted"
"""The split of the later texts; the others are shared out to "train" and "valid" as always."""
YEAR = re.compile(r"(?<!\d)(1[0-9]\d\d|20\d\d)(?!\d)")


@dataclass(frozen=True)
class DatedTexts:
    """Texts of two periods."""

    sources: tuple[Source, ...]
    """In the order of their years; those of the later period belong to the split `SHIFTED`."""
    early: tuple[int, int]
    """First and last year of the texts up to the one split year."""
    late: tuple[int, int]
    """Of those from the other on."""
    early_documents: int
    late_documents: int
    left_out: int
    """Files from between the two years."""


def year_of(name: str) -> int | None:
    """The year in a file's name, the last one if there are several; else that of a folder it is in; else None."""
    for part in reversed(Path(name).parts):
        if found := YEAR.findall(part):
            return int(found[-1])
    return None


def read_dated(inputs: Iterable[str | Path], until: int, since: int) -> DatedTexts:
    """The texts of `inputs`, as in `find_sources`, up to the year `until` and from the year `since` on.

    Raises `UsageError` for a file without a year in its name, years in the wrong order, and an empty period.
    """
    if since <= until:
        raise UsageError(f"--since {since}: must be after --until {until}")
    dated = sorted(_with_years(find_sources(inputs)), key=lambda pair: pair[0])
    early = [(year, replace(source, split=None)) for year, source in dated if year <= until]
    late = [(year, replace(source, split=SHIFTED)) for year, source in dated if year >= since]
    first, last = dated[0][0], dated[-1][0]
    if not early:
        raise UsageError(f"--until {until}: no text up to then: they are of {first} to {last}")
    if not late:
        raise UsageError(f"--since {since}: no text from then on: they are of {first} to {last}")
    return DatedTexts(
        sources=tuple(source for _, source in [*early, *late]),
        early=(early[0][0], early[-1][0]),
        late=(late[0][0], late[-1][0]),
        early_documents=len(early),
        late_documents=len(late),
        left_out=len(dated) - len(early) - len(late),
    )


def _with_years(sources: Sequence[Source]) -> list[tuple[int, Source]]:
    years = [year_of(source.name) for source in sources]
    if undated := [source for source, year in zip(sources, years, strict=True) if year is None]:
        more = f" and {len(undated) - 1} more" if len(undated) > 1 else ""
        raise UsageError(
            f"{undated[0].name}{more}: no year in the name: name files like Dickens_Oliver_1839.txt, or leave them out"
        )
    return [(year, source) for source, year in zip(sources, years, strict=True) if year is not None]
