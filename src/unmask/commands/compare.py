"""`unmask compare A.json B.json ...`: evaluations side by side, with paired differences."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from unmask.evals import compare, evaluate


@dataclass(frozen=True)
class Options:
    """One table of several evaluations; differences are to the first, on the items that both have."""

    results: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE ...")]
    """Files that unmask eval --json wrote."""
    format: Literal["markdown", "csv", "latex", "html"] = "markdown"
    """How the table is written."""
    names: Annotated[str, tyro.conf.arg(metavar="NAMES")] = ""
    """What to call the models, separated by commas; their files' names otherwise."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """File for the table; None prints it."""


def run(options: Options) -> None:
    """Print or write the table."""
    from unmask.errors import UsageError

    names = [name.strip() for name in options.names.split(",")] if options.names else compare.names_of(options.results)
    if len(names) != len(options.results):
        raise UsageError(f"--names: {len(names)} names for {len(options.results)} results: give one for each")
    rows = compare.compare([evaluate.read(path) for path in options.results], names)
    text = compare.FORMATS[options.format](rows)
    if options.out is None:
        print(text, end="")
    else:
        options.out.write_text(text, encoding="utf-8")
