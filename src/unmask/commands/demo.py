"""`unmask demo`: from text to a small study and its report, in minutes; interrupted, it goes on where it was."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from unmask.errors import UnmaskError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from unmask.data.manifest import Manifest
    from unmask.scaling.plan import Plan, PlannedRun
    from unmask.scaling.study import Study

MOST_WORKERS = 8


@dataclass(frozen=True)
class Options:
    """Train masked diffusion and autoregressive models on the State of the Union addresses, at three budgets and four
    sizes each, fit how they scale, evaluate the best pair, let it write, and leave a report.

    Takes less than ten minutes on two CPU cores. Run the same command again to go on after an interruption.
    """

    out: Path = Path("demo")
    """Directory for the corpus, the runs and the report."""
    scale: float = 1.0
    """Multiplies all budgets: 0.1 is ten times faster, and too small to show much."""
    workers: int = 0
    """Models trained at a time, each in one thread; 0: one for each CPU core, at most 8. Changes no result."""
    seed: int = 0
    """Of every run."""


def run(options: Options) -> None:
    """Do all of it, with progress on standard error, and print the path of the report."""
    if options.workers < 0:
        raise UsageError(f"--workers {options.workers} must be at least 1, or 0 for one for each CPU core")

    from rich.console import Console

    from unmask.machine import usable_cores
    from unmask.recipes import demo
    from unmask.train.all_runs import locked

    console = Console(stderr=True, highlight=False)
    workers = options.workers or min(usable_cores(), MOST_WORKERS)
    planned = demo.runs(options.scale, options.seed)
    begun = time.monotonic()
    with locked(options.out, "another demonstration"):
        _refuse_another(planned, options.out)
        corpus = _prepare(options.out / "corpus", console)
        plan = demo.study(planned, corpus, _command(options))
        study, stopped = _train(plan, options.out, workers, corpus, console)
        if stopped:
            print(f"stopped by {stopped}; everything is saved in {options.out}: the same command goes on from there")
            return
        _evaluate(study, options.out, options.seed, options.scale, console)
        page = _report(options.out, console)
    console.print(f"finished in {_took(begun)}")
    print(f"report: {page.resolve()}")
    if study.failed:
        names = ", ".join(each.run for each in study.failed)
        raise UnmaskError(f"{len(study.failed)} of {len(plan.runs)} runs failed ({names}): run again to try once more")


def _refuse_another(planned: Sequence[PlannedRun], out: Path) -> None:
    """Raise `UsageError` if the directory holds a study of other runs."""
    from unmask.scaling.plan import Plan

    if not (out / "study.json").exists():
        return
    there = Plan.read(out)
    if {run.name: run.steps for run in there.runs} != {run.name: run.steps for run in planned}:
        made = f", made by {there.command}" if there.command else ""
        raise UsageError(f"--out {out}: holds another study{made}: give another directory, or remove this one")


def _command(options: Options) -> str:
    """What makes the same study again."""
    words = ["unmask demo"]
    words += [f"--scale {options.scale:g}"] if options.scale != 1 else []
    words += [f"--seed {options.seed}"] if options.seed else []
    return " ".join(words)


def _prepare(directory: Path, console: Console) -> Manifest:
    from unmask.commands.prepare import preparation_progress
    from unmask.data.prepare import PrepareOptions, prepare
    from unmask.machine import usable_cores
    from unmask.recipes import demo

    begun = time.monotonic()
    console.print("[bold]1 of 4[/bold]  the corpus: State of the Union addresses")
    settings = PrepareOptions(tokenizer=demo.TOKENIZER, valid_fraction=demo.VALID_FRACTION)
    with preparation_progress() as on_progress:
        corpus = prepare([demo.CORPUS], directory, settings, processes=usable_cores(), on_progress=on_progress)
    splits = ", ".join(f"{name} {split.tokens:,}" for name, split in corpus.splits.items())
    console.print(f"        tokens: {splits}; vocabulary {corpus.vocab_size:,} ({_took(begun)})")
    return corpus


def _train(plan: Plan, out: Path, count: int, corpus: Manifest, console: Console) -> tuple[Study, str | None]:
    """The study, and the name of the signal that stopped it, if one did."""
    from unmask.recipes import demo
    from unmask.scaling.study import Study
    from unmask.train.all_runs import train_all

    begun = time.monotonic()
    plan.write(out)
    before = Study.open(out)
    todo = len(plan.runs) - len(before.finished)
    done = f", {len(before.finished)} of them done already" if before.finished else ""
    console.print(f"[bold]2 of 4[/bold]  training {len(plan.runs)} models, {min(count, max(todo, 1))} at a time{done}")
    if not todo:
        return before, None
    count = min(count, todo)

    def cost(planned: PlannedRun) -> float:
        return demo.cost(planned, corpus.vocab_size)

    study, signal = train_all(plan, out, out / "corpus", jobs=count, cost=cost, console=console)
    if signal is None:
        if not study.finished:
            raise UnmaskError(f"all runs failed; {study.failed[0].run}: {study.failed[0].error}")
        console.print(f"        {len(study.finished)} models are trained ({_took(begun)})")
    return study, signal


def _evaluate(study: Study, out: Path, seed: int, scale: float, console: Console) -> None:
    """Evaluate the best model of each objective at the largest budget, unless that is done already."""
    from rich.progress import Progress

    from unmask.data.source import Corpus
    from unmask.evals import study as evals
    from unmask.language_model import load
    from unmask.recipes import demo
    from unmask.report.evaluation import Evaluation

    best = evals.best_runs(study)
    console.print(f"[bold]3 of 4[/bold]  held-out text and samples: {', '.join(run.plan.name for run in best)}")
    before = Evaluation.read(out)
    if before is not None and {row.run for row in before.temporal} == {run.plan.name for run in best}:
        console.print("        done already")
        return
    begun = time.monotonic()
    models = {run.plan.name: load(out / "runs" / run.plan.name) for run in best}
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("        evaluating", total=None)
        rows = evals.temporal(
            models,
            Corpus.open(out / "corpus"),
            demo.SPLITS,
            length=demo.LENGTH,
            windows=demo.evaluated_windows(scale),
            seed=seed,
            on_window=lambda done, total: bar.update(task, completed=done, total=total),
        )
    console.print(f"        {sum(row.tokens or 0 for row in rows):,} tokens evaluated ({_took(begun)})")
    samples = tuple(sample for name, lm in models.items() for sample in demo.samples(lm, name, seed))
    Evaluation(tuple(rows), samples, demo.SPLIT_WORDS, time.monotonic() - begun).write(out)


def _report(out: Path, console: Console) -> Path:
    from unmask.report import write_report

    begun = time.monotonic()
    console.print("[bold]4 of 4[/bold]  fits, figures, report")
    page = write_report(out)
    console.print(f"        written ({_took(begun)})")
    return page


def _took(begun: float) -> str:
    from unmask.scaling import numbers

    return numbers.duration(time.monotonic() - begun)
