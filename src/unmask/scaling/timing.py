"""How long runs take on this machine, from a few measured steps: `timing.json` of a study.

Of each objective the smallest and the largest planned size make some steps; between them the time of a step is a
straight line in its FLOPs, attention and head counted. Starting a run and its last validation are counted too.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from unmask import machine, records, sizes
from unmask.config import RunConfig, field_arguments
from unmask.errors import UnmaskError
from unmask.scaling.design import SCORED_SHARE
from unmask.scaling.launch import last_error
from unmask.scaling.plan import Plan, PlannedRun

FILE = "timing.json"
MEASURED_STEPS, WARM_STEPS = 30, 6
ENOUGH_SECONDS = 15
"""A measurement ends with its step after so long."""
MOST_SECONDS = 600
"""If not even the warm-up steps and one more are over after so long, it fails."""


@dataclass(frozen=True)
class Measured:
    """One measurement."""

    objective: str
    size: str
    batch_size: int
    length: int
    seconds_per_step: float
    start_seconds: float
    """From the command to its first step."""


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
            found.append(_measured(plan, chosen))
    return found


def write(directory: Path, measured: Sequence[Measured]) -> None:
    """Keep measurements in a study's directory."""
    fields = {"machine": machine.describe(), "measured": [asdict(each) for each in measured]}
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
            line = sorted((_step_flops(each.size, run, vocab_size), each.seconds_per_step) for each in alike)
            step = _on_line(_step_flops(run.size, run, vocab_size), line)
            start = statistics.median(each.start_seconds for each in alike)
            seconds[run.name] = start + (run.steps + _validation_steps(run)) * step
    return seconds


def _validation_steps(run: PlannedRun) -> float:
    """The last validation in training steps: only forward, which is a third of a step."""
    fields = {**asdict(RunConfig()), **run.settings}
    draws = 1 if run.objective == "arm" else fields["validation_draws"]
    return fields["validation_windows"] * draws / run.batch_size / 3


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


def _on_line(x: float, line: Sequence[tuple[float, float]]) -> float:
    """The value at `x` on the line from the first point to the last: flat if that falls, and never under zero."""
    (x0, y0), (x1, y1) = line[0], line[-1]
    slope = max(y1 - y0, 0.0) / (x1 - x0) if x1 > x0 else y0 / x0
    return max(y0 + slope * (x - x0), y0 * min(x / x0, 1.0))


def _measured(plan: Plan, run: PlannedRun) -> Measured:
    fields = {
        "objective": run.objective,
        "size": run.size,
        "batch_size": run.batch_size,
        "length": run.length,
        "steps": MEASURED_STEPS,
        **{name: value for name, value in run.settings.items() if name != "warmup_steps"},
        "validation_windows": 0,
        "log_every": 1,
        "tensorboard": False,
        "checkpoint_every": 10**6,
    }
    with tempfile.TemporaryDirectory(prefix="unmask-timing-") as directory:
        place, said = Path(directory) / "run", Path(directory) / "log"
        command = [sys.executable, "-m", "unmask", "train", plan.recipe, "--out", str(place), "--data", plan.data]
        command += field_arguments(fields)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # as `unmask scaling run` does on as many cores as runs
        begun = time.monotonic()
        with said.open("wb") as log:
            process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        first: float | None = None
        try:
            while True:
                clock = [float(each["seconds"]) for each in records.read(place / "metrics.jsonl") if "loss" in each]
                passed = time.monotonic() - begun
                if clock and first is None:
                    first = passed
                ended = process.poll() is not None
                if ended or passed > MOST_SECONDS or (len(clock) > WARM_STEPS + 1 and passed > ENOUGH_SECONDS):
                    break
                time.sleep(0.1)
        finally:
            process.kill()
            process.wait()
        if first is None or len(clock) <= WARM_STEPS + 1:
            why = last_error(said.read_text(encoding="utf-8", errors="replace")) if ended else "no step in 10 minutes"
            raise UnmaskError(f"measuring {run.size} {run.objective}: {why} (--no-measure plans without the hours)")
    steps = [after - before for before, after in zip(clock[WARM_STEPS:], clock[WARM_STEPS + 1 :], strict=False)]
    return Measured(run.objective, run.size, run.batch_size, run.length, max(statistics.median(steps), 1e-6), first)
