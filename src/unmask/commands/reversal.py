"""`unmask reversal`: train on sentences in one direction, ask in both, for an MDM and an ARM, with several seeds."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from unmask.data.reversal import Item, ReversalData
    from unmask.evals.reversal import Settings
    from unmask.language_model import LanguageModel

FORMAT = "unmask-reversal-2"


@dataclass(frozen=True)
class Options:
    """The reversal curse: who was trained on "A is B", does it know "B is A"?

    Trains on all sentences of Berglund et al.'s data (or on generated ones of the same structure) and asks in the
    direction that was trained and in the other, in phrasings that were not. Models are fine-tuned (--models), or new
    ones of --size are trained on the sentences alone. Leaves reversal.json, reversal.csv, figures and index.html. Run
    again to go on where it stopped, or with more --seeds, --objectives, --guidance or --steps to add to it.
    """

    out: Path
    """Directory for the runs and the result."""
    data: Path | None = None
    """Folder with Berglund et al.'s files. None: generated sentences about --people, other ones for each seed."""
    people: int = 30
    """People of the generated sentences: a third told of name first, a third description first, a third both ways."""
    models: tuple[str, ...] = ()
    """Models to fine-tune; none: new ones, one for each of --objectives."""
    objectives: tuple[str, ...] = ("mdm", "arm")
    """What new models are trained with: mdm, arm, mlm, span or any_order; the same epochs for each."""
    size: str = "307K"
    """Size of new models."""
    epochs: float | None = None
    """Passes over the sentences. None: the paper's 10, and 100 for new models, which must learn to read first."""
    batch_size: int = 32
    """Sentences in a step."""
    learning_rate: float | None = None
    """Peak rate. None: 2e-4, and 3e-3 for new models."""
    positions: int | None = None
    """Tokens of an answer. None: the paper's 52, and for new models, which have seen no longer rows than the sentences,
    as many as the longest answer in training."""
    steps: tuple[int, ...] = (32,)
    """Decoding steps of a masked model; several are compared."""
    guidance: tuple[float, ...] = (0.8,)
    """Weights of unsupervised guidance of a masked model; several are compared."""
    choice_samples: int = 32
    """Draws of masks for the likelihood of each candidate that a masked model chooses from; 0: no choosing."""
    limit: int = 0
    """Items of each test, spread evenly over it; 0: all."""
    seeds: int = 1
    """Runs of each model, with the seeds --seed, --seed + 1, and so on."""
    seed: int = 0
    """Of the data that are generated, of the weights and of the order."""
    json: bool = False
    """Print one JSON object instead of a table."""


def run(options: Options) -> None:
    """Train, ask, and print a table of exact matches, BLEU and choices."""
    from rich.console import Console

    from unmask import machine
    from unmask.data.digests import write_atomically
    from unmask.evals import reversal as evals
    from unmask.report import reversal_page
    from unmask.train.resumed import Stopped

    evals.check_installed()
    _check(options)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    runs: list[dict[str, Any]] = []
    for seed in range(options.seed, options.seed + options.seeds):
        try:
            runs += _runs(options, seed, console)
        except Stopped as stopped:
            print(stopped)
            return
    shared = options.data is not None
    with console.status("resampling"):
        rows = evals.summarise_runs(runs, shared=shared, seed=options.seed)
    whole = {
        "format": FORMAT,
        "machine": machine.describe(),
        "versions": machine.versions(),
        "command": "unmask " + shlex.join(sys.argv[1:]),
        "data": runs[0]["data"],
        "sentences": runs[0]["sentences"],
        "settings": {
            name: getattr(options, name) for name in ("size", "batch_size", "choice_samples", "limit", "seeds", "seed")
        },
        "runs": [_short(each) for each in runs],
        "rows": rows,
    }
    write_atomically(options.out / "reversal.json", json.dumps(whole, indent=1) + "\n")
    page = reversal_page.write(whole, options.out)
    if options.json:
        print(json.dumps(whole))
    else:
        print(reversal_page.plain_table(whole))
        print(f"[{page}]")


def _check(options: Options) -> None:
    if not options.models and not options.objectives:
        raise UsageError("--objectives: names none: give mdm, arm or others, or --models to fine-tune")
    for name, least in (("limit", 0), ("seeds", 1), ("positions", 1), ("choice_samples", 0)):
        value: int | None = getattr(options, name)
        if value is not None and value < least:
            raise UsageError(f"--{name.replace('_', '-')} {value}: must be at least {least}")
    for name, least in (("steps", 1), ("guidance", 0)):
        given: tuple[float, ...] = getattr(options, name)
        if not given or min(given) < least or len(set(given)) < len(given):
            raise UsageError(f"--{name} {' '.join(map(str, given))}: give different numbers from {least} on")


def _runs(options: Options, seed: int, console: Console) -> Iterator[dict[str, Any]]:
    """Train each model with one seed and ask it."""
    from unmask.data import reversal as data
    from unmask.evals import perplexity
    from unmask.recipes import reversal as recipe
    from unmask.recipes import small_tuning
    from unmask.train.resumed import trained

    found = data.generate(options.people, seed) if options.data is None else data.read(options.data)
    tests = {
        name: [items[index] for index in perplexity.spread(len(items), options.limit or len(items))]
        for name, items in found.tests.items()
    }
    folder = options.out / f"seed-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    file = recipe.sentences(found, folder / "sentences.jsonl")
    new = not options.models
    known = recipe.tokenizer(found) if new else None
    positions = options.positions
    if positions is None:
        positions = max(len(known.encode(item.completion)) for item in found.train) + 1 if known else 52
    for name, start in _starts(options, known, folder, seed).items():
        console.print(f"{name}, seed {seed}: {len(found.train):,} sentences ({found.source})")
        config = small_tuning.run(
            start,
            file,
            epochs=options.epochs if options.epochs is not None else 100 if new else 10,
            batch_size=options.batch_size,
            learning_rate=options.learning_rate or (3e-3 if new else 2e-4),
            seed=seed,
        )
        if new:
            config = replace(config, objective=name)
        last = trained(config, folder / name / "run", console)
        asked = _asked(options, found, tests, positions, folder / name, seed, console)
        yield {
            "model": name,
            "seed": seed,
            "data": found.source,
            "sentences": len(found.train),
            "objective": last["objective"],
            "params": last["params"],
            "steps": last["step"],
            "tokens": last["tokens"],
            "epochs": config.epochs,
            "decodings": asked,
        }


def _starts(options: Options, known: Any, folder: Path, seed: int) -> dict[str, Path]:
    """The models to train, by name."""
    from unmask.recipes.reversal import CONTEXT
    from unmask.recipes.small_tuning import given_models, new_model

    if known is None:
        return given_models(options.models)
    return {
        name: new_model(folder / name / "start", options.size, known, name, seed, context_length=CONTEXT)
        for name in options.objectives
    }


def _asked(
    options: Options,
    found: ReversalData,
    tests: dict[str, list[Item]],
    positions: int,
    place: Path,
    seed: int,
    console: Console,
) -> list[dict[str, Any]]:
    """What a trained model answers in each way of decoding; read from where it was asked before."""
    from unmask.data.digests import write_atomically
    from unmask.evals import reversal as evals
    from unmask.language_model import load

    lm: LanguageModel | None = None
    kept = place / "answers.json"
    known: dict[str, Any] = json.loads(kept.read_text()) if kept.is_file() else {}
    decodings: list[dict[str, Any]] = []
    for guidance in options.guidance:
        for number, steps in enumerate(options.steps):
            # what is chosen does not depend on the steps: once for each weight
            samples = 0 if number else options.choice_samples
            settings = evals.Settings(positions, steps, guidance, samples, seed)
            key = json.dumps([asdict(settings), options.limit])
            if key not in known:
                lm = lm or load(place / "run", "auto")
                known[key] = _answers(lm, tests, settings, f"{place.name}, seed {seed}", console)
                write_atomically(kept, json.dumps(known) + "\n")
            asked = {name: dict(each) for name, each in known[key]["tests"].items()}
            if number:
                for name, each in asked.items():
                    each["chosen"] = decodings[-1]["tests"][name]["chosen"]
            causal = known[key]["causal"]
            decodings.append(
                {"guidance": None if causal else guidance, "steps": None if causal else steps, "tests": asked}
            )
            if causal:
                return decodings
    return decodings


def _answers(
    lm: LanguageModel, tests: dict[str, list[Item]], settings: Settings, name: str, console: Console
) -> dict[str, Any]:
    from unmask.evals import reversal as evals

    with console.status(f"{name}: asking") as status:

        def told(test: str, done: int, total: int) -> None:
            status.update(f"{name}, {settings.steps} steps, w {settings.guidance:g}: {test}, {done} of {total}")

        answers = evals.evaluate(lm, tests, settings, told)
    return {"causal": lm.config.causal, "tests": {test: answer.to_dict() for test, answer in answers.items()}}


def _short(run: dict[str, Any]) -> dict[str, Any]:
    """A run with a few answers of each test instead of all; `answers.json` has them."""
    shown = {
        test: [
            {"answer": answer, "written": written}
            for answer, written in zip(result["answers"][:3], result["written"][:3], strict=True)
        ]
        for test, result in run["decodings"][0]["tests"].items()
    }
    return {**{name: value for name, value in run.items() if name != "decodings"}, "samples": shown}
