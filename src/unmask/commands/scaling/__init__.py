"""`unmask scaling`: plan a study over sizes and budgets, run it, fit how loss scales, predict, and make the report."""

from __future__ import annotations

from typing import Annotated

import tyro

from unmask.commands.scaling import fit, predict, report

Options = (
    Annotated[fit.Fit, tyro.conf.subcommand("fit")]
    | Annotated[predict.Predict, tyro.conf.subcommand("predict")]
    | Annotated[report.Report, tyro.conf.subcommand("report")]
)


def run(options: fit.Fit | predict.Predict | report.Report) -> None:
    """Do what the subcommand asks."""
    if isinstance(options, fit.Fit):
        fit.run(options)
    elif isinstance(options, predict.Predict):
        predict.run(options)
    else:
        report.run(options)
