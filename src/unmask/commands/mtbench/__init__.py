"""`unmask mtbench`: answer the questions of MT-Bench, have the answers judged, report score against seconds."""

from __future__ import annotations

from typing import Annotated

import tyro

from unmask.commands.mtbench import answers, judge, report

Options = (
    Annotated[answers.Answers, tyro.conf.subcommand("answers")]
    | Annotated[judge.Judge, tyro.conf.subcommand("judge")]
    | Annotated[report.Report, tyro.conf.subcommand("report")]
)


def run(options: answers.Answers | judge.Judge | report.Report) -> None:
    """Do what the subcommand asks."""
    if isinstance(options, answers.Answers):
        answers.run(options)
    elif isinstance(options, judge.Judge):
        judge.run(options)
    else:
        report.run(options)
