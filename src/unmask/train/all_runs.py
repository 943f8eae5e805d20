"""All runs of a plan in processes of this machine, with progress, as the small studies of recipes make them."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from unmask.errors import UnmaskError, UsageError
from unmask.scaling.plan import Plan, PlannedRun
from unmask.scaling.study import Study, run_study
from unmask.train.stop import StopRequest
from unmask.train.study_progress import StudyProgress
from unmask.train.workers import Workers


def train_all(
    plan: Plan, out: Path, corpus: Path, *, jobs: int, cost: Callable[[PlannedRun], float], console: Console
) -> tuple[Study, str | None]:
    """Make the runs of `plan` that are not finished, in `out`, and keep no checkpoints of those that are.

    Returns the study, and the name of the signal that stopped it, if one did: everything is saved then, and the same
    call goes on from there.
    """
    progress = StudyProgress(plan, cost, console)

    def train(planned: PlannedRun, place: Path) -> None:
        workers.train(planned.run_config(str(corpus)), place)
        if (place / "model").is_dir():  # has ended: there is nothing to resume
            shutil.rmtree(place / "checkpoints", ignore_errors=True)

    with Workers(jobs, progress.on_record) as workers, StopRequest(workers.stop) as stop, progress:
        study = run_study(plan, out, train, on_progress=progress.on_progress, jobs=jobs, cost=cost)
    return study, stop.signal


@contextmanager
def locked(out: Path, another: str) -> Generator[None]:
    """Keep `another` process out of the directory, which is made if need be; the lock dies with the process."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UsageError(f"--out {out}: is a file: name a directory") from None
    handle = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise UnmaskError(f"--out {out}: {another} is at work in it: wait for it, or stop it") from None
    finally:
        os.close(handle)
