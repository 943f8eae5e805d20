"""How long runs take on this machine, from a few measured steps: `timing.json` of a study.

Of each objective the smallest and the largest planned size make some steps; between them the time of a step follows its
FLOPs, attention and head counted, along a line in the logarithms.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from unmask import machine, records, sizes
from unmask.errors import UnmaskError
from unmask.scaling.design import SCORED_SHARE
from unmask.scaling.launch import field_arguments, last_error
from unmask.scaling.plan import Plan, PlannedRun

FILE = "timing.json"
MEASURED_STEPS, WARM_STEPS = 8, 3
SECONDS_ALLOWED = 600


@dataclass(frozen=True)
class Measured:
    """One measurement."""

    objective: str
    size: str
    batch_size: int
    length: int
    seconds_per_step: float


def measure(plan: Plan, on_start: Callable[[PlannedRun], None] | None = None) -> list[Measured]:
    """Measure a step of the smallest and the largest size of each objective, by short runs in a temporary directory.

    Raises `UnmaskError` if such a run fails.
    """
    found: list[Measured] = []
    for objective in dict.fromkeys(run.objective for run in plan.runs):
        runs = sorted((run for run in plan.runs if run.objective == objective), key=lambda run: run.params)
        for run in dict.fromkeys((runs[0].size, runs[-1].size)):
            chosen = next(each for each in runs if each.size == run)
            if on_start is not None:
                on_start(chosen)
            seconds = _seconds_per_step(plan, chosen)
            found.append(Measured(objective, chosen.size, chosen.batch_size, chosen.length, seconds))
    return found


def write(directory: Path, measured: Sequence[Measured]) -> None:
    """Keep measurements in a study's directory."""
    fields = {"machine": machine.describe(), "measured": [each.__dict__ for each in measured]}
    (directory / FILE).write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


def read(directory: Path) -> list[Measured]:
    """The measurements of a study on a machine like this; none if there are none."""
    try:
        fields = cast(dict[str, Any], json.loads((directory / FILE).read_text(encoding="utf-8")))
        if fields["machine"] != machine.describe():
            return []
        return [Measured(**each) for each in fields["measured"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def estimate(runs: Sequence[PlannedRun], measured: Sequence[Measured], vocab_size: int) -> dict[str, float]:
    """Seconds of each run by its name; none for runs of an objective, batch or length that was not measured."""
    seconds: dict[str, float] = {}
    for run in runs:
        alike = [
            each
            for each in measured
            if (each.objective, each.batch_size, each.length) == (run.objective, run.batch_size, run.length)
        ]
        if alike:
            logs = sorted((math.log(_step_flops(each.size, run, vocab_size)), each.seconds_per_step) for each in alike)
            seconds[run.name] = run.steps * _interpolate(math.log(_step_flops(run.size, run, vocab_size)), logs)
    return seconds


def _step_flops(size: str, run: PlannedRun, vocab_size: int) -> float:
    share = SCORED_SHARE.get(run.objective, float(run.settings.get("mask_rate", 0.15)))
    return sizes.training_flops(
        sizes.lookup(size),
        run.batch_size * run.length,
        convention="full",
        length=run.length,
        vocab_size=vocab_size,
        scored_share=share,
    )


def _interpolate(x: float, logs: Sequence[tuple[float, float]]) -> float:
    (x0, y0), (x1, y1) = logs[0], logs[-1]
    if x1 == x0:
        return y0 * math.exp(x - x0)
    slope = math.log(y1 / y0) / (x1 - x0)
    return math.exp(math.log(y0) + slope * (x - x0))


def _seconds_per_step(plan: Plan, run: PlannedRun) -> float:
    with tempfile.TemporaryDirectory(prefix="unmask-timing-") as directory:
        place = Path(directory) / "run"
        settings = {"validation_windows": 0, "log_every": 1, "tensorboard": False, "checkpoint_every": 10**6}
        command = [sys.executable, "-m", "unmask", "train", plan.recipe, "--out", str(place), "--data", plan.data]
        command += field_arguments(
            {
                "objective": run.objective,
                "size": run.size,
                "batch_size": run.batch_size,
                "length": run.length,
                "steps": MEASURED_STEPS,
                **{name: value for name, value in run.settings.items() if name != "warmup_steps"},
                **settings,
            }
        )
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS_ALLOWED, check=False, stdin=subprocess.DEVNULL
        )
        if done.returncode:
            raise UnmaskError(f"measuring {run.size} {run.objective}: {last_error(done.stderr)}")
        clock = [
            float(record["seconds"]) for record in records.read(place / "metrics.jsonl") if record["kind"] == "train"
        ]
    return max(
        statistics.median(b - a for a, b in zip(clock[WARM_STEPS - 1 :], clock[WARM_STEPS:], strict=False)), 1e-6
    )
