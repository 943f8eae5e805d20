"""`unmask mtbench report`: score against seconds, or perplexity and length where nobody judged."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from unmask.errors import UnmaskError, UsageError

if TYPE_CHECKING:
    from unmask.evals.mtbench.judging import Judgment, Key
    from unmask.evals.mtbench.results import Models

FORMAT = "unmask-mtbench-1"
EXAMPLES = 3


@dataclass(frozen=True)
class Report:
    """Score against seconds for the answers in a folder, with intervals over questions, by turn and by category.

    Without a judge's grades, --reference gives perplexity in the place of the score, and the page says so. Writes
    mt-bench.json, mt-bench.csv, figures and index.html.
    """

    folder: Annotated[Path, tyro.conf.Positional]
    """Folder of the comparison, with model_answer/ in it."""
    questions: Path
    """FastChat's question.jsonl, the one that the answers were written with."""
    out: Path | None = None
    """Where the page goes. None: FOLDER/report."""
    judge: str = ""
    """Whose grades. None: the one judge that there is."""
    models: tuple[str, ...] = ()
    """Model ids that are shown. None: all in the folder."""
    reference: str = ""
    """Autoregressive model for the perplexity of the answers: a folder of ours or of Transformers."""
    seed: int = 0
    """Of the resamples."""
    device: str = "auto"
    """Where the reference runs: auto, cpu, cuda."""
    json: bool = False
    """Print the result as JSON instead of a table."""


def run(options: Report) -> None:
    """Measure, write the page, and print a table."""
    from rich.console import Console

    from unmask import model_directory
    from unmask.commands.progress import progress
    from unmask.evals import reference_model
    from unmask.evals.mtbench import answers, results
    from unmask.evals.mtbench import questions as asking
    from unmask.report import mtbench_page

    questions = asking.read(options.questions)
    models = answers.read_folder(options.folder, questions, options.models)
    turns = results.common_turns(models)
    judge, judgments = _judgments(options, models)
    if judgments is None and not options.reference:
        raise UsageError(
            f"{options.folder}: has no grades: run unmask mtbench judge, or give --reference MODEL for the perplexity "
            "of the answers instead"
        )
    costs = None
    if options.reference:
        reference = reference_model.open_reference(options.reference, options.device)
        with progress(Console(stderr=True)) as bar:
            task = bar.add_task("likelihoods", total=len(models) * len(turns))
            costs = results.likelihoods(models, turns, reference, lambda done: bar.update(task, completed=done))
        reference_model.finite(list(costs.values()), options.reference)
    result: dict[str, Any] = {
        "format": FORMAT,
        "command": "unmask " + shlex.join(sys.argv[1:]),
        "measure": "perplexity" if judgments is None else "score",
        "judge": judge,
        "reference": model_directory.short_name(options.reference) if options.reference else None,
        "seed": options.seed,
        **results.measure(models, judgments, costs, options.seed),
        "examples": _examples(models, turns),
    }
    out = options.out or options.folder / "report"
    out.mkdir(parents=True, exist_ok=True)
    (out / "mt-bench.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    page = mtbench_page.write(result, out)
    if options.json:
        print(json.dumps(result, ensure_ascii=False))
        return
    _print(result)
    for line in mtbench_page.headlines(result):
        print(line)
    print(f"[{page}]")


def _judgments(options: Report, models: Models) -> tuple[str | None, dict[Key, Judgment] | None]:
    """The judge and its judgments of `models`; None where there are none. Raises where some answer has none."""
    from unmask.evals.mtbench import judging

    paths = {path.name.removesuffix("_single.jsonl"): path for path in (options.folder / judging.FOLDER).glob("*")}
    if options.judge and options.judge.replace("/", "_") not in paths:
        raise UsageError(
            f"--judge {options.judge}: has graded nothing here: there are {', '.join(sorted(paths)) or '-'}"
        )
    if len(paths) > 1 and not options.judge:
        raise UsageError(f"--judge: several have graded: name one of {', '.join(sorted(paths))}")
    if not paths:
        return None, None
    path = paths[options.judge.replace("/", "_")] if options.judge else next(iter(paths.values()))
    made = judging.read(path)
    for model, answers in models.items():
        for answer in answers.values():
            for turn in range(1, len(answer.turns) + 1):
                judgment = made.get(judging.Key(answer.question.id, model, turn))
                if judgment is None or judgment.answer_id not in (None, answer.answer_id):
                    raise UnmaskError(
                        f"{path}: has no grade for turn {turn} of question {answer.question.id} by {model}: run unmask "
                        "mtbench judge again, or choose --models"
                    )
    return next(iter(made.values())).judge, made


def _examples(models: Models, turns: list[tuple[int, int]]) -> list[dict[str, Any]]:
    from unmask.evals.perplexity import spread

    firsts = [question_id for question_id, turn in turns if turn == 1]
    chosen = [firsts[index] for index in spread(len(firsts), EXAMPLES)]
    return [
        {
            "question": next(iter(models.values()))[question_id].question.turns[0],
            "answers": {model: answers[question_id].turns[0].text for model, answers in models.items()},
        }
        for question_id in chosen
    ]


def _print(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("answers", no_wrap=True)
    shown = {"score": 2, "perplexity": 1, "words": 1, "seconds": 3, "network_calls": 0}
    for name in shown:
        table.add_column(name.replace("_", " "), justify="right", no_wrap=True)
    for model_id, about in result["models"].items():
        figures = about["groups"][0]
        cells = [f"{figures[name]['value']:.{places}f}" if name in figures else "-" for name, places in shown.items()]
        table.add_row(model_id, *cells)
    console = Console(highlight=False)
    console.width = max(console.width, 120)
    console.print(table)
