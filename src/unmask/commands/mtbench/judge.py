"""`unmask mtbench judge`: grades for answers, from a chat model behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import tyro

from unmask.errors import UsageError
from unmask.wording import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from unmask.evals.mtbench.judging import Cost, Judgment, Key, Task

OPENAI = "https://api.openai.com/v1"


@dataclass(frozen=True)
class Judge:
    """Have a judge grade answers from 1 to 10, each on its own, with FastChat's prompts.

    Shows what that will cost, and asks, before it starts. Run again, it goes on with what has no grade yet. Writes
    FOLDER/model_judgment/JUDGE_single.jsonl, as FastChat reads it.
    """

    folder: Annotated[Path, tyro.conf.Positional]
    """Folder of the comparison, with model_answer/ in it."""
    questions: Path
    """FastChat's question.jsonl, the one that the answers were written with."""
    prompts: Path
    """FastChat's judge_prompts.jsonl."""
    references: Path | None = None
    """FastChat's reference_answer/gpt-4.jsonl, for answers on math, coding and reasoning."""
    judge: str = "gpt-4"
    """Name of the model at the endpoint."""
    models: tuple[str, ...] = ()
    """Model ids whose answers are graded. None: all in the folder."""
    base_url: str | None = None
    """The endpoint, before /chat/completions. None: OPENAI_BASE_URL of the environment, else OpenAI's."""
    api_key: str | None = None
    """None: OPENAI_API_KEY of the environment, which other users of the machine don't see in the list of processes."""
    max_tokens: int = 2048
    """Tokens of a judgment."""
    temperature: float = 0.0
    """Of the judge."""
    body: str = "{}"
    """Further fields of the requests as a JSON object, such as '{"seed": 1}'; with null, one is left out."""
    parallel: int = 4
    """Requests at a time."""
    retries: int = 8
    """How often a request is tried again, with growing pauses."""
    timeout: float = 300.0
    """Seconds that a request may take."""
    price_in: float | None = None
    """Price of a million prompt tokens."""
    price_out: float | None = None
    """Price of a million tokens of the judge's answers."""
    yes: bool = False
    """Start without asking."""
    dry_run: bool = False
    """Show the cost and stop."""
    json: bool = False
    """Print one JSON object instead of a table."""


def run(options: Judge) -> None:
    """Show the cost, ask, grade, and print each model's mean grade."""
    from rich.console import Console

    from unmask.commands.progress import progress
    from unmask.evals.journal import Journal
    from unmask.evals.mtbench import answers, endpoint, grading, judging
    from unmask.evals.mtbench import questions as asking

    endpoint.check_installed()
    body = _body(options)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    bar = progress(console)
    server = endpoint.Endpoint(
        options.base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI,
        options.api_key or os.environ.get("OPENAI_API_KEY"),
        timeout=options.timeout,
        retries=options.retries,
        on_pause=bar.console.print,
    )
    questions = asking.read(options.questions)
    models = answers.read_folder(options.folder, questions, options.models)
    prompts = judging.read_prompts(options.prompts)
    wanted = judging.tasks(models, prompts, judging.read_references(options.references, questions))
    path = judging.file_of(options.folder, options.judge)
    made = judging.read(path)
    missing = judging.missing(wanted, made)
    cost = judging.expected_cost(missing, made.values())
    console.print(_told_cost(options, server.base_url, len(wanted), len(models), cost))
    if options.dry_run or (missing and not options.yes and not _confirmed()):
        return
    with bar, Journal(path) as journal:
        task = bar.add_task(options.judge, total=len(missing))
        grading.grade(
            server,
            missing,
            options.judge,
            journal,
            body=body,
            parallel=options.parallel,
            on_judged=lambda: bar.advance(task),
        )
    summary = _summary(path, options, wanted, missing, judging.read(path))
    if options.json:
        print(json.dumps(summary, ensure_ascii=False))
    else:
        _print(summary)


def _body(options: Judge) -> dict[str, Any]:
    for name, least in (("parallel", 1), ("max_tokens", 1)):
        if getattr(options, name) < least:
            raise UsageError(f"--{name.replace('_', '-')} {getattr(options, name)}: must be at least {least}")
    if (options.price_in is None) != (options.price_out is None):
        raise UsageError("--price-in and --price-out: give both, or none")
    for name, price in (("price-in", options.price_in), ("price-out", options.price_out)):
        if price is not None and price < 0:
            raise UsageError(f"--{name} {price}: must not be negative")
    try:
        further = json.loads(options.body)
    except ValueError:
        further = None
    if not isinstance(further, dict):
        raise UsageError(f"--body {options.body}: must be a JSON object, such as '{{\"seed\": 1}}'")
    given = cast("dict[str, Any]", further)
    return {"temperature": options.temperature, "max_tokens": options.max_tokens, **given}


def _told_cost(options: Judge, url: str, wanted: int, models: int, cost: Cost) -> str:
    there = wanted - cost.judgments
    words = f"{counted(cost.judgments, 'judgment')} by {options.judge} at {url} of {counted(models, 'model')}"
    words += f" ({there} are there)" if there else ""
    if not cost.judgments:
        return words
    words += f": about {cost.prompt_tokens:,.0f} tokens in and {cost.completion_tokens:,.0f} out"
    most = cost.judgments * options.max_tokens
    words += f" (at most {most:,})"
    if options.price_in is None or options.price_out is None:
        return words + "; with --price-in and --price-out, the cost in money is told"
    dearest = (cost.prompt_tokens * options.price_in + most * options.price_out) / 1e6
    return f"{words}; about {cost.money(options.price_in, options.price_out):.2f} (at most {dearest:.2f})"


def _confirmed() -> bool:
    """Raises `UsageError` where nobody can be asked."""
    if not sys.stdin.isatty():
        raise UsageError("--yes: is needed to start where there is no terminal to ask in; --dry-run shows the cost")
    print("Start? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _summary(
    path: Path, options: Judge, wanted: Sequence[Task], asked: Sequence[Task], made: Mapping[Key, Judgment]
) -> dict[str, Any]:
    from unmask.evals.mtbench.judging import NO_RATING, Cost

    keys = {task.key for task in asked}
    new = [made[key] for key in keys]
    spent = Cost(
        len(new), sum(each.prompt_tokens or 0 for each in new), sum(each.completion_tokens or 0 for each in new)
    )
    models: dict[str, Any] = {}
    for model in dict.fromkeys(task.key.model for task in wanted):
        judgments = [made[task.key] for task in wanted if task.key.model == model]
        rated = [each for each in judgments if each.score != NO_RATING]
        by_turn = {
            turn: [each.score for each in rated if each.key.turn == turn]
            for turn in sorted({each.key.turn for each in rated})
        }
        models[model] = {
            "judgments": len(judgments),
            "unrated": len(judgments) - len(rated),
            "score": sum(each.score for each in rated) / len(rated) if rated else None,
            "turns": {turn: sum(scores) / len(scores) for turn, scores in by_turn.items()},
        }
    return {
        "file": str(path),
        "judge": options.judge,
        "new": len(new),
        "prompt_tokens": spent.prompt_tokens,
        "completion_tokens": spent.completion_tokens,
        "cost": spent.money(options.price_in, options.price_out or 0) if options.price_in is not None else None,
        "models": models,
    }


def _print(summary: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("model")
    for head in ("score", "turn 1", "turn 2", "judgments", "without rating"):
        table.add_column(head, justify="right")
    for model, found in summary["models"].items():
        means = [found["score"], *(found["turns"].get(turn) for turn in (1, 2))]
        told = ["-" if mean is None else f"{mean:.2f}" for mean in means]
        table.add_row(model, *told, str(found["judgments"]), str(found["unrated"]))
    Console(highlight=False).print(table)
    spent = f"{summary['prompt_tokens']:,} tokens in and {summary['completion_tokens']:,} out"
    money = "" if summary["cost"] is None else f", {summary['cost']:.2f}"
    print(f"[{counted(summary['new'], 'new judgment')}: {spent}{money}; {summary['file']}]")
