"""`unmask train RECIPE --out DIR`: train one model; under `torchrun`, on many processes."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from unmask import arguments, recipes
from unmask.config import RunConfig
from unmask.errors import UsageError
from unmask.sft_config import SftConfig
from unmask.wording import counted

PROG = "unmask train"


@dataclass(frozen=True)
class Options:
    """Train one model on a corpus; every field of the recipe's configuration is an option."""

    out: Path
    """Directory for the run: new, empty, or with --resume the run's own."""
    run: Annotated[RunConfig, tyro.conf.arg(name="")]
    resume: bool = False
    """Go on from the last checkpoint; begin where there is none. A run that has ended prints its result."""
    json: bool = False
    """Print the last record of metrics.jsonl as JSON instead of a sentence."""


@dataclass(frozen=True)
class SftOptions(Options):
    """Fine-tune a model (--model) on files of conversations (--data FILE...).

    ShareGPT, Alpaca, OpenAI messages or prompt and completion, as JSON or JSON lines. Prompts are never corrupted.
    """

    run: Annotated[SftConfig, tyro.conf.arg(name="")]


def main(argv: Sequence[str]) -> None:
    """Train as `argv` says, show progress on standard error, and print the result."""
    if not argv or argv[0] in ("-h", "--help"):
        print(help_text())
        return
    name, *rest = argv
    if name.startswith("-"):
        raise UsageError(f"{name}: the recipe comes first: {PROG} {next(iter(recipes.RECIPES))} ...")
    recipe = recipes.lookup(name)
    options = parse(recipe(), rest, prog=f"{PROG} {name}")

    # torch takes a second or two to import: not for --help
    from unmask.train.loop import train
    from unmask.train.progress import TrainingProgress

    last: dict[str, Any] = {}
    if not _is_main():
        for _ in train(options.run, options.out, resume=options.resume):
            pass
        return
    with TrainingProgress() as progress:
        for last in train(options.run, options.out, resume=options.resume, on_request=progress.stopping):
            progress.show(last)
    print(json.dumps(last) if options.json else sentence(last, options.out))


def parse(recipe: RunConfig, argv: Sequence[str], *, prog: str) -> Options:
    """The options in `argv`, on top of a recipe's config."""
    if any(argument.split("=")[0] in ("--steps", "--flops") for argument in argv):
        recipe = dataclasses.replace(recipe, steps=None, flops=None)  # either takes the place of the recipe's
    argv = [re.sub("^--from(?==|$)", "--init-from", argument) for argument in argv]
    if isinstance(recipe, SftConfig):
        return arguments.parse(SftOptions, argv, prog=prog, default=SftOptions(out=tyro.MISSING, run=recipe))
    return arguments.parse(Options, argv, prog=prog, default=Options(out=tyro.MISSING, run=recipe))


def sentence(last: dict[str, Any], out: Path) -> str:
    """The last record of a run, in words."""
    if last["kind"] == "stop":
        return (
            f"stopped by {last['signal']} after step {last['step']:,} of {last['steps']:,}, "
            f"saved in {out / 'checkpoints'}: add --resume to go on"
        )
    steps = counted(last["step"], "step")
    best = ""
    if last.get("best_step", last["step"]) != last["step"]:
        best = f"; the best, {last['best_loss']:.4f} at step {last['best_step']:,}, in {out / 'best'}"
    told = f"{last['objective']} {last['size']}: {steps}, {last['tokens']:,} tokens"
    if last.get("loss") is not None:
        error = f" ± {last['standard_error']:.4f}" if last.get("standard_error") is not None else ""
        kind = "a bound" if last["bound"] else "exact"
        told += (
            f"; {last['split']} {last['loss']:.4f}{error} nats per token ({kind}), "
            f"{last['bits_per_byte']:.4f} bits per byte"
        )
    return f"{told}; model in {out / 'model'}{best}"


def help_text() -> str:
    """The recipes, and how to read on."""
    lines = [
        f"usage: {PROG} RECIPE --out DIR --data DIR [--size NAME] [--steps N | --flops C] [--objective NAME] ...",
        f"       {PROG} adapt --from MODEL --out DIR --data DIR [--steps N | --flops C] ...",
        f"       {PROG} sft --model MODEL --out DIR --data FILE... [--epochs N] ...",
        "",
        "Train one model on a corpus made by unmask prepare. A recipe is a configuration to start from, every field of",
        "which is an option. Ctrl-C or SIGTERM finishes the step and saves; --resume goes on.",
        "",
        "Recipes:",
        "",
    ]
    for name, recipe in recipes.RECIPES.items():
        lines.append(f"  {name:<12}{(inspect.getdoc(recipe) or '').splitlines()[0]}")
    lines += [
        "",
        f"{PROG} RECIPE --help     every option, with the recipe's value",
        "torchrun --nproc-per-node 2 -m unmask train RECIPE ...     the same on several processes",
    ]
    return "\n".join(lines)


def _is_main() -> bool:
    return os.environ.get("RANK", "0") == "0"
