"""How a planned run becomes a command: `unmask train` as a process of its own, so that scaling needs no torch."""

from __future__ import annotations

import sys
from pathlib import Path

from unmask.config import field_arguments
from unmask.scaling.plan import Plan, PlannedRun


def train_command(plan: Plan, run: PlannedRun, place: Path, *, processes: int = 1) -> list[str]:
    """The command that makes `run` in `place`, or goes on with it; with several processes, by torchrun."""
    start = [sys.executable, "-m"]
    if processes > 1:
        start += ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
    fields = {
        "objective": run.objective,
        "size": run.size,
        "steps": run.steps,
        "batch_size": run.batch_size,
        "length": run.length,
        "seed": run.seed,
        **run.settings,
    }
    return [
        *start,
        "unmask",
        "train",
        plan.recipe,
        "--out",
        str(place),
        "--data",
        plan.data,
        "--resume",
        *field_arguments(fields),
    ]


def last_error(text: str) -> str:
    """What a command that failed said last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = [line for line in lines if "unmask: error: " in line]
    if said:
        return said[-1].split("unmask: error: ", 1)[1]
    return lines[-1] if lines else "it ended without a word"
