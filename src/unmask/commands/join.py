"""`unmask join`: one evaluation from parts of it that were made apart."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from unmask.commands.eval import print_table
from unmask.evals import evaluate, parts


@dataclass(frozen=True)
class Options:
    """Join evaluations of one model: of other tasks, or of other items of a task (unmask eval --offset).

    So a task can be spread over machines, or done in pieces. Figures are made again from all items.
    """

    results: tyro.conf.Positional[tuple[Path, ...]]
    """Files that unmask eval --json wrote."""
    out: Path
    """File for the joined result, which unmask compare takes like any other."""
    model: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """What to call the model; needed where the parts call it differently."""


def run(options: Options) -> None:
    """Write the joined result and print its table."""
    names = [str(path) for path in options.results]
    result = parts.join([evaluate.read(path) for path in options.results], names, model=options.model)
    evaluate.write(result, options.out)
    print_table(result["unmask"])
