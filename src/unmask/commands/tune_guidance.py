"""`unmask tune-guidance MODEL --task NAME`: w and the estimator, chosen on a part of a task, reported on the rest."""

from __future__ import annotations

import json as json_format
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro


@dataclass(frozen=True)
class Options:
    """Choose the guidance weight and the estimator for a task on held-out items of it, and evaluate on the others."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """Model directory or directory of a training run."""
    task: Annotated[str, tyro.conf.arg(metavar="NAME")]
    """Name of one task in the harness."""
    data_dir: Path | None = None
    """Local data, as for unmask eval."""
    weights: tuple[float, ...] = (0.0, 0.5, 1.0, 1.5, 2.0)
    """Guidance weights to try."""
    estimators: tuple[str, ...] = ("auto", "chain")
    """Estimators to try with each."""
    metric: str = "acc"
    """What is to be best."""
    share: float = 0.2
    """Of the items, to choose on."""
    limit: int | None = None
    """Items in all, both parts together."""
    num_samples: int = 128
    """Draws of masks."""
    seed: int = 0
    """Of the masks and of the two parts."""
    batch_size: int | None = None
    """Rows in a batch; None goes by the memory."""
    device: str = "auto"
    """Where to run: auto, cpu, cuda."""
    json: Path | None = None
    """Write everything to this file; - prints it instead of the table."""


def run(options: Options) -> None:
    """Tune, and print what was tried and what came of it."""
    from unmask.evals.task_names import require_harness, require_known

    require_harness()
    require_known([options.task])  # before torch, which the rest takes
    from unmask import machine
    from unmask.evals.tuning import Tuning, tune
    from unmask.language_model import load

    tuning = Tuning(
        options.task,
        options.data_dir,
        options.weights,
        options.estimators,
        options.metric,
        options.share,
        options.limit,
        options.num_samples,
        options.seed,
        options.batch_size,
    )
    tuning.check()
    lm = load(options.model, options.device)
    machine.keep_freed_memory(lm.device)
    found = tune(
        lm,
        tuning,
        name=options.model,
        on_step=lambda text: print(text, file=sys.stderr, flush=True),
    )
    text = json_format.dumps(found, indent=1)
    if options.json is not None and str(options.json) == "-":
        print(text)
        return
    if options.json is not None:
        options.json.write_text(text + "\n", encoding="utf-8")
    chosen = found["chosen"]
    print(f"\n{options.task}, {options.metric} on the items that choose:")
    print_rows([(f"w = {each['guidance']:g}, {each['estimator']}", each) for each in found["tried"]])
    print(f"\nchosen: w = {chosen['guidance']:g}, {chosen['estimator']}; on the other items:")
    print_rows(list(found["reported"].items()))


def print_rows(rows: list[tuple[str, dict[str, Any]]]) -> None:
    """One line for each evaluation."""
    from unmask.evals.compare import figure

    print(f"  {'':<40}{'value':>9}{'± items':>9}{'± masks':>9}{'items':>8}{'calls':>11}{'seconds':>9}")
    for name, each in rows:
        figures = "".join(f"{figure(each[key]):>9}" for key in ("value", "stderr_items", "stderr_estimate"))
        print(f"  {name:<40}{figures}{each['items']:>8,}{each['network_calls']:>11,}{each['seconds']:>9.1f}")
