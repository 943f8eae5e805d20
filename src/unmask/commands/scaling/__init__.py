"""`unmask scaling`: plan a study over sizes and budgets, run it, fit how loss scales, predict, and make the report."""

from __future__ import annotations

from typing import Annotated

import tyro

from unmask.commands.scaling import fit, plan, predict, report, run_study

Options = (
    Annotated[plan.Plan, tyro.conf.subcommand("plan")]
    | Annotated[run_study.Run, tyro.conf.subcommand("run")]
    | Annotated[fit.Fit, tyro.conf.subcommand("fit")]
    | Annotated[predict.Predict, tyro.conf.subcommand("predict")]
    | Annotated[report.Report, tyro.conf.subcommand("report")]
)


def run(options: plan.Plan | run_study.Run | fit.Fit | predict.Predict | report.Report) -> None:
    """Do what the subcommand asks."""
    if isinstance(options, plan.Plan):
        plan.run(options)
    elif isinstance(options, run_study.Run):
        run_study.run(options)
    elif isinstance(options, fit.Fit):
        fit.run(options)
    elif isinstance(options, predict.Predict):
        predict.run(options)
    else:
        report.run(options)
