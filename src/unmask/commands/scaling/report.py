"""`unmask scaling report`: the page of a study."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from unmask.errors import UsageError


@dataclass(frozen=True)
class Report:
    """Make the page of a study: its figures, fits, runs and samples, in report/index.html."""

    study: Annotated[Path, tyro.conf.Positional]
    """Directory of a study."""
    bootstrap: int = 1000
    """Resamples for the intervals."""
    seed: int = 0
    """Of the resamples."""


def run(options: Report) -> None:
    """Write the page, and say where it is."""
    from unmask.report import write_report

    if options.bootstrap < 0:
        raise UsageError(f"--bootstrap {options.bootstrap} must not be negative")
    print(write_report(options.study, bootstrap=options.bootstrap, seed=options.seed))
