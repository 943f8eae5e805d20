"""`unmask gsm8k`: train on problems with rationales, solve others in two decodings, for an MDM and an ARM."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from unmask.errors import UsageError
from unmask.wording import counted

if TYPE_CHECKING:
    from rich.console import Console

    from unmask.data.problems import Problem
    from unmask.language_model import LanguageModel

FORMAT = "unmask-gsm8k-1"


@dataclass(frozen=True)
class Options:
    """Problems with rationales: GSM8K, or multiplication, which small models learn in minutes; or countdown.

    Each problem of --data gives two examples, question to rationale, and both to answer; each of --test is decoded
    twice accordingly. Countdown has no rationale, so it gives one example and is decoded once. Models are fine-tuned
    (--models), or new ones of --size are trained on the problems alone.
    Leaves gsm8k.json, gsm8k.csv, figures and index.html. Run again to go on where it stopped.
    """

    out: Path
    """Directory for the runs and the result."""
    data: tuple[Path, ...] = ()
    """Problems to train on: lines of question||rationale #### answer (Deng et al.), GSM8K's own .jsonl, or countdown's
    .jsonl of input and output (Ye et al.). None: they are generated, other ones for each seed."""
    test: Path | None = None
    """Problems to solve, in the same formats; with --data or --task countdown."""
    task: Literal["multiplication", "countdown"] | None = None
    """What is generated: products of two numbers of --digits (also without --task), or numbers from which a target is
    to be reached with + - * /."""
    problems: int = 3000
    """Problems that are generated to train on; none of them is asked."""
    digits: int = 2
    """Digits of the factors of products."""
    numbers: int = 3
    """Numbers of a countdown."""
    largest_number: int = 20
    """They are from 1 to this."""
    largest_target: int = 100
    """Targets are from 1 to this."""
    models: tuple[str, ...] = ()
    """Models to fine-tune; none: new ones, one for each of --objectives."""
    objectives: tuple[str, ...] = ("mdm", "arm")
    """What new models are trained with; the same epochs for each."""
    size: str = "307K"
    """Size of new models."""
    epochs: float = 40
    """Passes over the examples."""
    batch_size: int = 256
    """Examples in a step."""
    learning_rate: float | None = None
    """Peak rate. None: 2e-4, and 3e-3 for new models."""
    samplers: tuple[str, ...] = ("confidence", "ancestral")
    """Decodings of a masked model that are compared; confidence is the paper's greedy one."""
    steps: int = 256
    """Steps of each decoding of a masked model, at most one for each token."""
    guidance: float = 0.1
    """Weight of unsupervised guidance of a masked model."""
    temperature: float = 0.1
    """Of all models."""
    limit: int = 200
    """Problems to solve, spread evenly over the test; 0: all (of generated ones, 200)."""
    seeds: int = 1
    """Runs of each model, with the seeds --seed, --seed + 1, and so on."""
    seed: int = 0
    """Of the problems that are generated, of the weights and of the order."""
    json: bool = False
    """Print one JSON object instead of a table."""


def run(options: Options) -> None:
    """Train, solve, and print a table of accuracies."""
    from rich.console import Console

    from unmask import machine
    from unmask.data.digests import write_atomically
    from unmask.evals import problems as evals
    from unmask.report import problems_page
    from unmask.train.resumed import Stopped

    _check(options)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    runs: list[dict[str, Any]] = []
    for seed in range(options.seed, options.seed + options.seeds):
        try:
            runs += _runs(options, seed, console)
        except Stopped as stopped:
            print(stopped)
            return
    whole = {
        "format": FORMAT,
        "machine": machine.describe(),
        "versions": machine.versions(),
        "command": "unmask " + shlex.join(sys.argv[1:]),
        "task": runs[0]["task"],
        "data": runs[0]["data"],
        "problems": runs[0]["problems"],
        "settings": {
            name: getattr(options, name) for name in ("steps", "guidance", "temperature", "limit", "seeds", "seed")
        },
        "runs": [_short(each) for each in runs],
        "rows": evals.accuracy(runs, shared=options.test is not None, seed=options.seed),
    }
    write_atomically(options.out / "gsm8k.json", json.dumps(whole, indent=1) + "\n")
    page = problems_page.write(whole, options.out)
    if options.json:
        print(json.dumps(whole))
    else:
        print(problems_page.plain_table(whole))
        print(f"[{page}]")


def _check(options: Options) -> None:
    if not options.models and not options.objectives:
        raise UsageError("--objectives: names none: give mdm, arm or others, or --models to fine-tune")
    if options.data and options.task is not None:
        raise UsageError(f"--task {options.task}: generates what is trained on: leave it or --data out")
    if bool(options.data) != (options.test is not None) and options.task != "countdown":
        raise UsageError(
            "--data and --test: give problems to train on and problems to solve, or neither; --task countdown needs no "
            "--data"
        )
    from unmask import samplers

    for sampler in options.samplers:
        samplers.lookup(sampler)
    if not options.samplers or len(set(options.samplers)) < len(options.samplers):
        raise UsageError(f"--samplers {' '.join(options.samplers)}: give different ones")
    for name, least in (("limit", 0), ("problems", 1), ("seeds", 1), ("steps", 1), ("guidance", 0), ("temperature", 0)):
        if getattr(options, name) < least:
            raise UsageError(f"--{name} {getattr(options, name)}: must be at least {least}")


def _problems(options: Options, seed: int) -> tuple[Sequence[Problem], Sequence[Problem], str]:
    """What is trained on, what is asked, and where they are from."""
    from unmask.data import countdown, problem_files, problems
    from unmask.evals import perplexity

    count = options.limit or 200
    ranges = countdown.Ranges(options.numbers, options.largest_number, options.largest_target)
    if options.test is None and options.task == "countdown":
        found = countdown.generate(ranges, options.problems + count, seed)
        return found[: options.problems], found[options.problems :], str(ranges)
    if options.test is None:
        train, test = problems.multiplication(options.digits, options.problems, count, seed)
        return train, test, f"products of two numbers of {counted(options.digits, 'digit')}"
    test = problem_files.read(options.test)
    if options.task == "countdown":
        train = countdown.generate(ranges, options.problems, seed, apart_from=test)
        source = f"{ranges}; asked: {options.test.name}"
    else:
        train = [each for file in options.data for each in problem_files.read(file)]
        source = ", ".join(file.name for file in options.data)
    problem_files.check_one_kind([*train, *test])
    chosen = perplexity.spread(len(test), options.limit or len(test))
    return train, [test[index] for index in chosen], source


def _runs(options: Options, seed: int, console: Console) -> Iterator[dict[str, Any]]:
    """Train each model with one seed and let it solve."""
    from unmask.data.countdown import Countdown
    from unmask.evals import problems as evals
    from unmask.recipes import problems as recipe
    from unmask.recipes import small_tuning
    from unmask.train.resumed import trained

    train, test, source = _problems(options, seed)
    evals.check_installed(test)
    folder = options.out / f"seed-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    file = recipe.examples_file(train, folder / "examples.jsonl")
    new = not options.models
    if new:
        known = recipe.new_tokenizer(train)
        starts = {
            name: small_tuning.new_model(
                folder / name / "start", options.size, known, name, seed, context_length=recipe.CONTEXT
            )
            for name in options.objectives
        }
    else:
        starts = small_tuning.given_models(options.models)
    for name, start in starts.items():
        console.print(f"{name}, seed {seed}: {len(train):,} problems ({source})")
        config = small_tuning.run(
            start,
            file,
            epochs=options.epochs,
            batch_size=options.batch_size,
            learning_rate=options.learning_rate or (3e-3 if new else 2e-4),
            seed=seed,
        )
        config = replace(config, length=recipe.CONTEXT, objective=name if new else config.objective)
        last = trained(config, folder / name / "run", console)
        yield {
            "model": name,
            "seed": seed,
            "task": "countdown" if isinstance(test[0], Countdown) else "rationales",
            "data": source,
            "problems": len(train),
            "objective": last["objective"],
            "params": last["params"],
            "steps": last["step"],
            "tokens": last["tokens"],
            "epochs": config.epochs,
            "decodings": _solved(options, train, test, folder / name, seed, console),
        }


def _solved(
    options: Options, train: Sequence[Problem], test: Sequence[Problem], place: Path, seed: int, console: Console
) -> list[dict[str, Any]]:
    """What a trained model wrote with each sampler; read from where it was written before."""
    from unmask.data.digests import write_atomically
    from unmask.evals import problems as evals
    from unmask.language_model import load

    lm = load(place / "run", "auto")
    longest = _longest(lm, train)
    kept = place / "solved.json"
    known: dict[str, Any] = json.loads(kept.read_text()) if kept.is_file() else {}
    found: list[dict[str, Any]] = []
    for sampler in options.samplers[:1] if lm.config.causal else options.samplers:
        settings = evals.Settings(*longest, sampler, options.steps, options.guidance, options.temperature, seed)
        key = json.dumps([asdict(settings), [each.question for each in test]])
        if key not in known:
            with console.status(f"{place.name}, seed {seed}: solving") as status:

                def told(done: int, total: int, sampler: str = sampler, status: Any = status) -> None:
                    status.update(f"{place.name}, seed {seed}, {sampler}: {done} of {total} solved")

                known[key] = evals.solve(lm, test, settings, told).to_dict()
            write_atomically(kept, json.dumps(known) + "\n")
        name = "autoregressive" if lm.config.causal else sampler
        expected = {"questions": [each.question for each in test], "expected": [each.answer for each in test]}
        found.append({"sampler": name, **expected, **known[key]})
    return found


def _longest(lm: LanguageModel, train: Sequence[Problem]) -> tuple[int, int]:
    """Tokens, with the end of text, of the longest rationale (0 without any) and answer that fit into the context."""
    from unmask.recipes.problems import CONTEXT

    context = min(CONTEXT, lm.config.context_length)
    longest = [0, 1]
    for problem in train:
        for place, (asked, rest) in zip((1, 0), reversed(problem.examples()), strict=False):
            before, whole = len(lm.tokenizer.encode(asked)), len(lm.tokenizer.encode(asked + rest)) + 1
            if whole <= context:
                longest[place] = max(longest[place], whole - before)
    return longest[0], longest[1]


def _short(run: dict[str, Any]) -> dict[str, Any]:
    """A run with a few problems instead of all; `solved.json` has them."""
    first = run["decodings"][0]
    names = ("questions", "expected", "rationales", "answers", "right")
    shown = [dict(zip(names, each, strict=True)) for each in list(zip(*(first[n] for n in names), strict=True))[:4]]
    return {**{name: value for name, value in run.items() if name != "decodings"}, "samples": shown}
