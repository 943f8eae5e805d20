"""`unmask scaling run`: make the runs of a planned study."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from unmask.errors import UnmaskError, UsageError

if TYPE_CHECKING:
    from unmask.scaling.plan import Plan
    from unmask.scaling.runner import Backend


@dataclass(frozen=True)
class Run:
    """Make the runs of a study: finished ones are skipped, broken ones go on, failed ones are tried again. Ctrl-C saves
    and ends; the same command goes on from there.
    """

    study: Annotated[Path, tyro.conf.Positional]
    """Directory of a study, made by unmask scaling plan."""
    jobs: int = 0
    """Runs at a time. 0: as many as there are GPUs, or cores: small networks do not keep two threads busy."""
    attempts: int = 3
    """How often a run may fail before it is left alone."""
    executor: Literal["processes", "slurm", "submitit"] = "processes"
    """processes of this machine; slurm: array jobs through submitit; submitit: its local executor."""
    processes: int = 1
    """Processes of each run, by torchrun."""
    gpus: str = ""
    """GPUs of this machine to use, as 0,1,2. None: those of CUDA_VISIBLE_DEVICES."""
    slurm: tuple[str, ...] = ()
    """Parameters of submitit's executor, as timeout_min=600 slurm_partition=gpu gpus_per_node=1 cpus_per_task=8."""
    json: bool = False
    """Print the outcome as JSON."""


def run(options: Run) -> None:
    """Run, show what happens, and say what came of it."""
    import json

    from unmask.commands.scaling.overview import OverviewDisplay
    from unmask.data.packed import read_manifest
    from unmask.scaling import timing
    from unmask.scaling.plan import Plan
    from unmask.scaling.runner import run_plan

    for name in ("jobs", "attempts", "processes"):
        value, least = getattr(options, name), 0 if name == "jobs" else 1
        if value < least:
            raise UsageError(f"--{name} {value} must be at least {least}")
    plan = Plan.read(options.study)
    if not plan.data:
        raise UsageError(f"{options.study}: its plan names no data: plan it with unmask scaling plan")
    vocab_size = read_manifest(plan.data, plan.tokenizer).vocab_size
    backend = _backend(plan, options)
    seconds = timing.estimate(plan.runs, timing.read(options.study), vocab_size)
    weights = seconds if len(seconds) == len(plan.runs) else None
    with OverviewDisplay(quiet=options.json) as display:
        study = run_plan(
            plan,
            options.study,
            backend,
            attempts=options.attempts,
            weights=weights,
            on_event=display.event,
            on_tick=display.tick,
        )
    outcome = {
        "finished": [each.plan.name for each in study.finished],
        "failed": [{"run": each.run, "error": each.error, "attempts": each.attempts} for each in study.failed],
        "pending": list(study.pending),
    }
    if options.json:
        print(json.dumps(outcome, indent=2))
    else:
        print(_sentence(len(study.finished), len(study.failed), len(study.pending), options.study))
    if study.failed and not study.pending:
        first = study.failed[0]
        raise UnmaskError(
            f"{options.study}: {len(study.failed)} of {len(plan.runs)} runs failed, first {first.run}: {first.error}; "
            f"see {options.study / 'logs'}, and run again with more --attempts"
        )


def _sentence(finished: int, failed: int, pending: int, study: Path) -> str:
    told = f"{finished} finished, {failed} failed, {pending} to go."
    if pending:
        return f"{told} Go on with: unmask scaling run {study}"
    return f"{told} Next: unmask scaling report {study}"


def _backend(plan: Plan, options: Run) -> Backend:
    from unmask.machine import usable_cores
    from unmask.scaling.runner import LocalBackend
    from unmask.scaling.submitting import SubmititBackend

    cores = usable_cores()
    visible = options.gpus or os.environ.get("CUDA_VISIBLE_DEVICES", "")
    gpus = [name for name in visible.split(",") if name.strip()]
    if gpus and options.executor == "processes":
        most = len(gpus) // options.processes
        if not most:
            raise UsageError(f"--processes {options.processes} are more than the {len(gpus)} GPUs: lower them")
        if options.jobs > most:
            raise UsageError(
                f"--jobs {options.jobs}: {len(gpus)} GPUs take {most} runs of {options.processes} processes"
            )
        slots = options.jobs or most
    else:
        slots = options.jobs or max(1, cores // options.processes)
        if options.executor != "slurm" and slots * options.processes > cores:
            raise UsageError(
                f"--jobs {slots} with {options.processes} processes each are more than the {cores} cores: lower them"
            )
    threads = max(1, cores // (slots * options.processes))
    if options.executor == "processes":
        return LocalBackend(plan, options.study, slots=slots, threads=threads, gpus=gpus, processes=options.processes)
    cluster: Literal["slurm", "local"] = "slurm" if options.executor == "slurm" else "local"
    parameters = _parameters(options.slurm)
    if cluster == "slurm":
        threads = max(1, int(parameters.get("cpus_per_task", 1)) // options.processes)
    return SubmititBackend(plan, options.study, cluster, slots, parameters, threads, options.processes)


def _parameters(pairs: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise UsageError(f"--slurm {pair}: must be a name and a value, such as timeout_min=600")
        found[name] = int(text) if text.lstrip("-").isdigit() else text
    return found
