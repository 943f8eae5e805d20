"""`unmask reversal`: train on sentences in one direction, ask in both, for an MDM and an ARM."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from unmask.errors import UsageError


@dataclass(frozen=True)
class Options:
    """The reversal curse: who was trained on "A is B", does it know "B is A"?

    Trains on all sentences of Berglund et al.'s data (or on generated ones of the same structure) and asks in the
    direction that was trained and in the other, in phrasings that were not. Models are fine-tuned (--models), or new
    ones of --size are trained on the sentences alone. Run again to go on where it stopped.
    """

    out: Path
    """Directory for the runs and reversal.json."""
    data: Path | None = None
    """Folder with Berglund et al.'s files. None: generated sentences about --people."""
    people: int = 40
    """People of the generated sentences."""
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
    steps: int = 32
    """Decoding steps of a masked model."""
    guidance: float = 0.8
    """Weight of unsupervised guidance of a masked model."""
    choice_samples: int = 32
    """Draws of masks for the likelihood of each candidate that a masked model chooses from; 0: no choosing."""
    limit: int = 0
    """Items of each test, spread evenly over it; 0: all."""
    seed: int = 0
    """Of the data that are generated, of the weights and of the order."""
    json: bool = False
    """Print one JSON object instead of a table."""


def run(options: Options) -> None:
    """Train, ask, and print a table of exact matches and BLEU."""
    from rich.console import Console

    from unmask.data import reversal as data
    from unmask.data.digests import write_atomically
    from unmask.evals import perplexity
    from unmask.evals import reversal as evals
    from unmask.language_model import load
    from unmask.recipes import reversal as recipe
    from unmask.train.loop import train
    from unmask.train.progress import TrainingProgress

    evals.check_installed()
    if not options.models and not options.objectives:
        raise UsageError("--objectives: names none: give mdm, arm or others, or --models to fine-tune")
    if options.limit < 0:
        raise UsageError(f"--limit {options.limit}: must not be negative")
    found = data.generate(options.people, options.seed) if options.data is None else data.read(options.data)
    tests = {
        name: [items[index] for index in perplexity.spread(len(items), options.limit or len(items))]
        for name, items in found.tests.items()
    }
    options.out.mkdir(parents=True, exist_ok=True)
    file = recipe.sentences(found, options.out / "sentences.jsonl")
    new = not options.models
    known = recipe.tokenizer(found) if new else None
    if known is not None:
        starts = {
            name: recipe.new_model(options.out / name / "start", options.size, known, name, options.seed)
            for name in options.objectives
        }
    else:
        starts = {f"{number}-{Path(path).name}": Path(path) for number, path in enumerate(options.models, 1)}
    positions = options.positions
    if positions is None:
        positions = max(len(known.encode(item.completion)) for item in found.train) + 1 if known else 52
    settings = evals.Settings(positions, options.steps, options.guidance, options.choice_samples, options.seed)
    console = Console(stderr=True, highlight=False)
    results: dict[str, Any] = {}
    for name, start in starts.items():
        console.print(f"{name}: {len(found.train):,} sentences ({found.source})")
        config = recipe.run(
            start,
            file,
            epochs=options.epochs if options.epochs is not None else 100 if new else 10,
            batch_size=options.batch_size,
            learning_rate=options.learning_rate or (3e-3 if new else 2e-4),
            seed=options.seed,
        )
        if new:
            config = replace(config, objective=name)
        place, last = options.out / name / "run", {}
        with TrainingProgress(console) as progress:
            for last in train(config, place, resume=True, on_request=progress.stopping):
                progress.show(last)
        if last["kind"] == "stop":
            print(f"stopped by {last['signal']}: run again to go on")
            return
        lm = load(place, "auto")
        with console.status(f"{name}: asking") as status:

            def told(test: str, done: int, total: int, status: Any = status, name: str = name) -> None:
                status.update(f"{name}: {test}, {done} of {total}")

            answers = evals.evaluate(lm, tests, settings, told)
        results[name] = {
            "objective": lm.objective,
            "steps": last["step"],
            "tokens": last["tokens"],
            "tests": {test: {**asdict(data.TESTS[test]), **answer.to_dict()} for test, answer in answers.items()},
        }
    whole = {"data": found.source, "sentences": len(found.train), "settings": asdict(settings), "models": results}
    write_atomically(options.out / "reversal.json", json.dumps(whole, indent=1) + "\n")
    if options.json:
        print(json.dumps(whole))
    else:
        print(table(whole))
        print(f"in {options.out / 'reversal.json'}")


def table(whole: dict[str, Any]) -> str:
    """A line for each model and test."""
    rows = [("model", "asked", "test", "items", "exact", "95%", "BLEU", "choice", "95%", "chance")]
    for name, model in whole["models"].items():
        for test, result in model["tests"].items():
            choice = result["choice"]
            rows.append(
                (
                    name,
                    result["asked"],
                    test.removesuffix(", reversed"),
                    str(result["items"]),
                    f"{100 * result['exact']:.1f}",
                    interval(result["exact_ci95"]),
                    f"{result['bleu']:.1f}",
                    "-" if choice is None else f"{100 * choice:.1f}",
                    "-" if choice is None else interval(result["choice_ci95"]),
                    f"{100 * result['chance']:.0f}",
                )
            )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) if column < 3 else cell.rjust(width) for column, (cell, width) in enumerate(cells))
        for cells in (list(zip(row, widths, strict=True)) for row in rows)
    ]
    return "\n".join(line.rstrip() for line in lines)


def interval(limits: list[float]) -> str:
    """Both ends, in percent."""
    low, high = limits
    return f"{100 * low:.1f}..{100 * high:.1f}"
