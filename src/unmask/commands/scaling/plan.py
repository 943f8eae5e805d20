"""`unmask scaling plan`: what a study would cost, and `study.json` to run it from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from unmask.errors import UsageError

if TYPE_CHECKING:
    from unmask.data.manifest import Manifest
    from unmask.scaling.plan import Plan as StudyPlan
    from unmask.scaling.plan import PlannedRun


@dataclass(frozen=True)
class Plan:
    """Choose the runs of a study, and print what each takes before anything starts. Planning again in the same
    directory adds runs; those that are finished stay.
    """

    study: Annotated[Path, tyro.conf.Positional]
    """Directory for the study: new, or one to add runs to."""
    data: Path
    """Directory made by unmask prepare, or token files as unmask train takes them."""
    flops: tuple[float, ...]
    """Budgets C, such as 1e13 3e13 1e14."""
    objectives: tuple[str, ...] = ("mdm", "arm")
    """Of mdm, arm, mlm, span and any_order."""
    sizes: tuple[str, ...] = ()
    """Named sizes for every budget. None: chosen around the best size that --law expects. minimum: the run that this
    study has nearest to each minimum is made again with its settings, for other --seeds or on --unique-tokens."""
    law: str = ""
    """What expects the best sizes: a file of fits, a CSV of points, a study, or paper. None: this study's finished runs
    where they have a law, else the paper's, which holds for far larger budgets than a CPU's."""
    sizes_per_budget: int = 5
    """How many sizes are chosen."""
    span: float = 4.0
    """How far, as a factor, they reach below and above the expected best size."""
    seeds: tuple[int, ...] = (0,)
    """Each run is made with each."""
    learning_rates: tuple[float, ...] = ()
    """Each run is made with each, and fits take the best. They are those of the base size, 33K: other sizes follow by
    width and depth (--set parametrization=completep base_size=33K, the default; =standard gives all sizes the same).
    None: that of the study's runs; in a new one 0.016 for arm, 0.004 for all that mask."""
    mask_rates: tuple[float, ...] = (0.15,)
    """Of mlm and span: each is a series of its own in the fits."""
    unique_tokens: tuple[int, ...] = ()
    """Train on only so many tokens of the corpus and repeat them; several are an axis. None: on the whole corpus."""
    allow_repeats: bool = False
    """Let runs go over the whole corpus more than once."""
    tokenizer: str = ""
    """Of token files, as for unmask train. None: one beside them, or that of the study's runs."""
    batch_size: int = 32
    """Sequences in a step."""
    length: int = 256
    """Tokens in a sequence."""
    convention: Literal["6nd", "full"] = "6nd"
    """How FLOPs are counted: 6 N D as in the paper, or with attention and head."""
    recipe: str = "pretrain"
    """What unmask train goes by."""
    set: tuple[str, ...] = ()
    """Further fields of every run, as weight_decay=0.1."""
    title: str = "A scaling study"
    """For the report."""
    question: str = ""
    """What is asked, for the report."""
    measure: bool = True
    """Whether some steps are measured on this machine, for the hours."""
    dry_run: bool = False
    """Print the table and write nothing."""
    json: bool = False
    """Print the plan as JSON instead of a table."""


def run(options: Plan) -> None:
    """Plan, measure, print and write."""
    from unmask.data.packed import read_manifest
    from unmask.scaling import timing
    from unmask.scaling.design import Design, parametrized
    from unmask.scaling.plan import Plan as StudyPlan

    before = StudyPlan.read(options.study) if (options.study / "study.json").exists() else None
    tokenizer = options.tokenizer or (before.tokenizer if before is not None else "")
    manifest = read_manifest(options.data, tokenizer)
    if "train" not in manifest.splits:
        raise UsageError(f"--data {options.data}: has no split for training: prepare it again")
    corpus_tokens = manifest.splits["train"].tokens
    planned = () if before is None else before.runs
    chosen = _settings(options.set) | ({"tokenizer": tokenizer} if tokenizer else {})
    settings = parametrized(chosen, planned, options.recipe)
    _check_held_out(manifest, settings, options)
    design = Design(
        budgets=options.flops,
        objectives=options.objectives,
        sizes=options.sizes,
        sizes_per_budget=options.sizes_per_budget,
        span=options.span,
        batch_size=options.batch_size,
        length=options.length,
        seeds=options.seeds,
        learning_rates=options.learning_rates,
        mask_rates=options.mask_rates,
        unique_tokens=options.unique_tokens,
        allow_repeats=options.allow_repeats,
        convention=options.convention,
        vocab_size=manifest.vocab_size,
        corpus_tokens=corpus_tokens,
        settings=settings,
        planned=planned,
    )
    rows, told = _law(options)
    runs = design.runs(rows)
    plan = StudyPlan(
        runs,
        title=options.title,
        question=options.question,
        corpus=f"{options.data}, {corpus_tokens} training tokens, vocabulary {manifest.vocab_size}",
        command=f"unmask scaling run {options.study}",
        flop_convention=options.convention,
        recipe=options.recipe,
        data=str(options.data),
    )
    plan, added = _merged(plan, before, options.study)
    measured = timing.read(options.study)
    if options.measure:
        missing = _unmeasured(added, measured)
        if missing:
            measured += timing.measure(replace(plan, runs=tuple(missing)), _say_measuring)
    seconds = timing.estimate(plan.runs, measured, manifest.vocab_size)
    if not options.dry_run:
        plan.write(options.study)
        if measured:
            timing.write(options.study, measured)
    if options.json:
        fields: dict[str, Any] = json.loads(plan.to_json())
        fields["seconds"] = seconds
        print(json.dumps(fields, indent=2))
        return
    _print(plan, added, seconds, manifest.vocab_size, corpus_tokens, "" if options.sizes else told)
    if options.dry_run:
        print("Nothing was written (--dry-run).")
    else:
        print(f"Written to {options.study / 'study.json'}. Next: unmask scaling run {options.study}")


def _check_held_out(manifest: Manifest, settings: Mapping[str, Any], options: Plan) -> None:
    """Raise `UsageError` if runs would end without a loss."""
    from unmask.config import RunConfig
    from unmask.data.manifest import FORMAT

    name = settings.get("validation_split", RunConfig().validation_split)
    if settings.get("validation_windows") == 0:
        raise UsageError("--set validation_windows=0: a study needs the held-out loss of its runs: leave it out")
    if name not in manifest.splits:
        remedy = "prepare it with --valid-fraction" if manifest.format == FORMAT else f"add files called {name}_..."
        raise UsageError(f"--data {options.data}: holds no text out as {name!r}: {remedy}")
    tokens = manifest.splits[name].tokens
    if tokens < options.length:
        raise UsageError(
            f"--data {options.data}: {name!r} has {tokens} tokens, less than one window of --length {options.length}: "
            "hold out more text"
        )


def _settings(pairs: tuple[str, ...]) -> dict[str, Any]:
    """NAME=VALUE of fields of the run's config, each with the type of its default."""
    import dataclasses

    from unmask.config import RunConfig
    from unmask.errors import unknown_name

    ours = {"data", "objective", "size", "steps", "flops", "length", "batch_size", "seed", "mask_rate", "unique_tokens"}
    ours |= {"tokenizer"}
    known = {field.name: getattr(RunConfig(), field.name) for field in dataclasses.fields(RunConfig)}
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        name = name.replace("-", "_")
        if not equals or name in ours:
            raise UsageError(
                f"--set {pair}: must be a field and its value, such as weight_decay=0.1, and none of the plan's"
            )
        if name not in known:
            raise unknown_name("field of --set", name, set(known) - ours)
        default = known[name]
        try:
            if isinstance(default, bool) or text in ("true", "false"):
                found[name] = {"true": True, "false": False}[text.lower()]
            elif isinstance(default, str):
                found[name] = text
            else:
                number = float(text)
                found[name] = int(number) if number.is_integer() and not isinstance(default, float) else number
        except (ValueError, KeyError):
            raise UsageError(f"--set {pair}: {text!r} is no value for {name} (default {default!r})") from None
    return found


def _law(options: Plan) -> tuple[Mapping[str, Any] | None, str]:
    """The law that expects the best sizes, and where it comes from."""
    from unmask.errors import UnmaskError
    from unmask.scaling import law_sources
    from unmask.scaling.design import MINIMUM

    if options.law:
        laws = law_sources.read(options.law, bootstrap=0)
        return laws.rows, laws.source
    if (options.study / "study.json").exists():
        for method in ("isoflop", "parametric"):
            try:
                laws = law_sources.read(str(options.study), method=method, bootstrap=0)
                return laws.rows, f"the finished runs of this study, by {method}"
            except UnmaskError:
                continue  # too few runs yet
    if options.sizes == (MINIMUM,):
        return None, ""  # the paper's law does not know this study's minima
    laws = law_sources.paper()
    return laws.rows, laws.source


def _merged(plan: StudyPlan, before: StudyPlan | None, directory: Path) -> tuple[StudyPlan, list[PlannedRun]]:
    """The plan with the runs that the study has already, and which are new."""
    if before is None:
        return plan, list(plan.runs)
    if before.flop_convention != plan.flop_convention:
        raise UsageError(
            f"--convention {plan.flop_convention}: {directory} counts FLOPs as {before.flop_convention}: keep to it, "
            "or give another directory"
        )
    if before.data != plan.data:
        raise UsageError(
            f"--data {plan.data}: {directory} is on {before.data or 'other data'}: keep to it, or give another study"
        )
    if before.tokenizer != plan.tokenizer:
        raise UsageError(
            f"--tokenizer {plan.tokenizer}: {directory} is in the tokens of {before.tokenizer or 'its data'}: keep to "
            "it, or give another study"
        )
    names = {run.name for run in before.runs}
    added = [run for run in plan.runs if run.name not in names]
    known = {run.name: run for run in plan.runs}
    for run in before.runs:
        if known.get(run.name, run) != run:
            raise UsageError(
                f"{directory}: run {run.name} was planned otherwise: keep to it, or give another directory"
            )
    runs = sorted((*before.runs, *added), key=lambda run: run.flops)
    return replace(plan, runs=tuple(runs), title=before.title, question=plan.question or before.question), added


def _unmeasured(runs: list[PlannedRun], measured: list[Any]) -> list[PlannedRun]:
    known = {(each.objective, each.batch_size, each.length) for each in measured}
    return [run for run in runs if (run.objective, run.batch_size, run.length) not in known]


def _say_measuring(run: PlannedRun) -> None:
    import sys

    print(f"measuring {run.objective} {run.size} ...", file=sys.stderr)


def _print(
    plan: StudyPlan, added: list[PlannedRun], seconds: dict[str, float], vocab_size: int, corpus_tokens: int, told: str
) -> None:
    from rich import box
    from rich.table import Table

    from unmask import sizes
    from unmask.commands.scaling.console import wide_console
    from unmask.scaling import numbers
    from unmask.scaling.design import memory_bytes

    console = wide_console()
    table = Table(box=box.SIMPLE_HEAD)
    for head in ("run", "FLOPs", "N", "steps", "tokens", "epochs", "memory", "time"):
        table.add_column(head, justify="left" if head == "run" else "right", no_wrap=True)
    for run in added:
        epochs = run.tokens / (run.unique_tokens or corpus_tokens)
        memory = memory_bytes(sizes.lookup(run.size), vocab_size=vocab_size, length=run.length, rows=run.batch_size)
        time = numbers.duration(seconds[run.name]) if run.name in seconds else "-"
        table.add_row(
            run.name,
            f"{run.flops:.3g}",
            numbers.count(run.params),
            f"{run.steps}",
            numbers.count(run.tokens),
            f"{epochs:.2g}",
            f"{memory / 2**30:.2g} GiB",
            time,
        )
    console.print(table)
    count = "1 run" if len(added) == 1 else f"{len(added)} runs"
    line = f"{count}, {sum(run.flops for run in added):.3g} FLOPs"
    known = [seconds[run.name] for run in added if run.name in seconds]
    if len(known) == len(added) and added:
        line += f", {numbers.duration(sum(known))} one after another on this machine (several go at a time)"
    console.print(line + ".")
    if len(plan.runs) > len(added):
        console.print(f"The study has {len(plan.runs) - len(added)} runs more, which stay as they are.")
    convention = "6 N D, N without embeddings" if plan.flop_convention == "6nd" else "with attention and head"
    chosen = f" Best sizes as expected by: {told}." if told else ""
    console.print(f"FLOPs count {convention}.{chosen}", style="dim")
    console.print(_rates(added), style="dim")


def _rates(runs: list[PlannedRun]) -> str:
    """How the learning rates of `runs` go by size, in a sentence or none."""
    from unmask.config import RunConfig
    from unmask.scaling import series

    by_size = {(run.settings.get("parametrization"), run.settings.get("base_size")) for run in runs}
    if not runs or len(by_size) > 1:
        return ""
    scheme, base = by_size.pop()
    rates: dict[float | None, list[str]] = {}
    for run in runs:
        named = rates.setdefault(run.settings.get("learning_rate"), [])
        if (label := series.label(run.objective)) not in named:
            named.append(label)
    shown = {f"{rate:g}" if rate else "the recipe's": ", ".join(names) for rate, names in rates.items()}
    told = " and ".join(f"{rate} ({names})" for rate, names in shown.items()) if len(shown) > 1 else next(iter(shown))
    if scheme != "completep":
        return f"One learning rate for all sizes: {told}."
    return (
        f"Learning rates follow width and depth from {told} at {base or RunConfig().base_size} (completep); "
        "--set parametrization=standard gives all sizes one."
    )
