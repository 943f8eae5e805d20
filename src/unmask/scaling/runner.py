"""Running a study: several runs at once, on this machine or through SLURM, with what failed tried again.

A run is a process of its own (`launch.train_command`), so a run that dies takes nothing with it. `metrics.jsonl` is the
truth: finished runs are skipped, broken ones go on from their last checkpoint, failed ones are tried again, after all
others, until they have failed `attempts` times. One runner at a time holds a study; one that was killed leaves no lock
behind, and trainings that outlived it are waited for, not started twice.

What starts runs is a `Backend`: processes of this machine (`LocalBackend`), or jobs of submitit (`submitting`).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from unmask.errors import UsageError
from unmask.scaling.launch import last_error, train_command
from unmask.scaling.plan import Plan, PlannedRun
from unmask.scaling.study import Study, failure_of, is_finished, progress_of, record_failure

POLL_SECONDS = 0.2
LOCK = "runner.lock"


class Handle(Protocol):
    """A run that was started."""

    def poll(self) -> str | None:
        """None while it runs; then "" if it ended by itself, or why it failed."""
        ...

    def stop(self) -> bool:
        """Ask it to save and end; False if it goes on without the runner."""
        ...


class Backend(Protocol):
    """What starts runs."""

    @property
    def at_once(self) -> int:
        """How many runs are handed over before it waits."""
        ...

    def start(self, runs: Sequence[tuple[PlannedRun, Path]]) -> Sequence[Handle]:
        """Start runs in their directories, or go on with them."""
        ...


@dataclass
class Overview:
    """A study while it runs."""

    plan: Plan
    weights: dict[str, float]
    """What each run costs, in seconds or FLOPs."""
    finished: set[str] = field(default_factory=set[str])
    failed: dict[str, str] = field(default_factory=dict[str, str])
    running: dict[str, float] = field(default_factory=dict[str, float])
    """The share that is done of each run under way."""
    waiting: set[str] = field(default_factory=set[str])
    """Runs that another process is still making."""
    started: float = field(default_factory=time.monotonic)
    done_before: float = 0.0
    """Share of the whole that was done when this runner began."""

    @property
    def total(self) -> float:
        """What the whole plan costs."""
        return sum(self.weights.values())

    @property
    def done(self) -> float:
        """Share of the whole that is done."""
        over = sum(self.weights[name] for name in self.finished)
        return (over + sum(self.weights[name] * share for name, share in self.running.items())) / self.total

    @property
    def seconds_left(self) -> float | None:
        """By the pace since this runner began; None before there is one."""
        gained = self.done - self.done_before
        given_up = sum(self.weights[name] for name in self.failed if name not in self.running) / self.total
        if gained <= 1e-9:
            return None
        return (time.monotonic() - self.started) / gained * max(1 - self.done - given_up, 0)


@dataclass(frozen=True)
class Event:
    """Something that happened."""

    kind: str
    """"skipped", "started", "finished", "failed" (to be tried again), "given up", "waiting" (for a process of an
    earlier runner), "interrupted" (saved, to go on later) or "left" (a job of a cluster that goes on)."""
    run: PlannedRun
    detail: str = ""


class LocalBackend:
    """Runs as processes of this machine, each with its share of the cores, or with its own GPUs."""

    def __init__(
        self, plan: Plan, directory: Path, *, slots: int, threads: int, gpus: Sequence[str] = (), processes: int = 1
    ):
        self._plan, self._directory = plan, directory
        self.at_once = slots
        self._threads, self._processes = threads, processes
        self._gpus = list(gpus)

    def start(self, runs: Sequence[tuple[PlannedRun, Path]]) -> list[Handle]:
        """Start training processes; their words go to `logs/<run>.log`."""
        return [self._start(run, place) for run, place in runs]

    def _start(self, run: PlannedRun, place: Path) -> Handle:
        environment = {**os.environ, "OMP_NUM_THREADS": str(self._threads)}
        taken: list[str] = []
        if self._gpus:
            taken, self._gpus = self._gpus[: self._processes], self._gpus[self._processes :]
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(taken)
        log = log_path(self._directory, run)
        command = train_command(self._plan, run, place, processes=self._processes)
        return _Process(command, environment, log, lambda: self._gpus.extend(taken))


class _Process:
    """A training process."""

    def __init__(self, command: Sequence[str], environment: dict[str, str], log: Path, on_end: Callable[[], None]):
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log, self._from = log, log.stat().st_size if log.exists() else 0
        self._on_end: Callable[[], None] | None = on_end
        with log.open("ab") as file:
            # a session of its own: Ctrl-C reaches the runner alone, which then asks its runs to save
            self._process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
            )

    def poll(self) -> str | None:
        code = self._process.poll()
        if code is None:
            return None
        if self._on_end is not None:
            self._on_end()
            self._on_end = None
        if code == 0:
            return ""
        with self._log.open("rb") as file:
            file.seek(self._from)
            said = last_error(file.read().decode(errors="replace"))
        return f"killed by {signal.Signals(-code).name}" if code < 0 else said

    def stop(self) -> bool:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        return True


def run_plan(
    plan: Plan,
    directory: Path,
    backend: Backend,
    *,
    attempts: int = 3,
    weights: dict[str, float] | None = None,
    on_event: Callable[[Event, Overview], None] | None = None,
    on_tick: Callable[[Overview], None] | None = None,
) -> Study:
    """Make all runs of `plan` in `directory` that are not finished, and return what came of it.

    SIGINT and SIGTERM ask the runs under way to save and end, and then end the study; the same call goes on from there.
    Raises `UsageError` while another runner is at work on the study, or if it holds other runs under these names.
    """
    with _held(directory), _stop_flag() as stop:
        overview = Overview(plan, weights or {run.name: run.flops for run in plan.runs})

        def tell(kind: str, run: PlannedRun, detail: str = "") -> None:
            if on_event is not None:
                on_event(Event(kind, run, detail), overview)

        pending: list[PlannedRun] = []
        for run in plan.runs:
            place = directory / "runs" / run.name
            before = failure_of(place)
            if is_finished(run, place):
                overview.finished.add(run.name)
                tell("skipped", run)
            elif before is not None and before.attempts >= attempts:
                overview.failed[run.name] = before.error
                tell("given up", run, before.error)
            else:
                pending.append(run)
        overview.done_before = overview.done + sum(
            overview.weights[run.name] * progress_of(directory / "runs" / run.name, run) for run in pending
        ) / max(overview.total, 1e-300)

        handles: dict[str, tuple[PlannedRun, Handle]] = {}
        asked = False
        while (pending and not stop()) or handles:
            if stop() and not asked:
                asked = True
                for name, (run, handle) in list(handles.items()):
                    if not handle.stop():
                        del handles[name], overview.running[name]
                        tell("left", run)
            starting: list[PlannedRun] = []
            while pending and len(handles) + len(starting) < backend.at_once and not stop():
                run = _next(pending, directory, overview, tell)
                if run is None:
                    break
                pending.remove(run)
                starting.append(run)
            if starting:
                begun = backend.start([(run, directory / "runs" / run.name) for run in starting])
                for run, handle in zip(starting, begun, strict=True):
                    handles[run.name] = (run, handle)
                    overview.running[run.name] = 0.0
                    tell("started", run)
            time.sleep(POLL_SECONDS)
            for name, (run, handle) in list(handles.items()):
                place = directory / "runs" / name
                overview.running[name] = progress_of(place, run)
                outcome = handle.poll()
                if outcome is None:
                    continue
                del handles[name], overview.running[name]
                if is_finished(run, place):
                    (place / "failure.json").unlink(missing_ok=True)
                    overview.failed.pop(name, None)
                    overview.finished.add(name)
                    tell("finished", run)
                elif stop():
                    tell("interrupted", run)
                else:
                    reason = outcome or "it stopped before its end"
                    failed = record_failure(place, reason)
                    overview.failed[name] = reason
                    again = failed.attempts < attempts
                    if again:
                        pending.append(run)  # after all others
                    tell("failed" if again else "given up", run, reason)
            if on_tick is not None:
                on_tick(overview)
    return Study.open(directory)


def log_path(directory: Path, run: PlannedRun) -> Path:
    """Where the words of a run go."""
    return directory / "logs" / f"{run.name}.log"


def _next(
    pending: Sequence[PlannedRun], directory: Path, overview: Overview, tell: Callable[[str, PlannedRun], None]
) -> PlannedRun | None:
    """The first pending run that no process left over from an earlier runner is still making."""
    for run in pending:
        if not _in_use(directory / "runs" / run.name):
            overview.waiting.discard(run.name)
            return run
        if run.name not in overview.waiting:
            overview.waiting.add(run.name)
            tell("waiting", run)
    return None


def _in_use(place: Path) -> bool:
    """Whether a training process holds the run directory."""
    try:
        handle = os.open(place, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # a file system without locks
    finally:
        os.close(handle)
    return False


@contextlib.contextmanager
def _held(directory: Path) -> Generator[None]:
    """Hold the study for this runner; the lock dies with the process."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"{directory}: another unmask scaling run is at work on this study: wait for it, or stop it"
            ) from None
        except OSError:
            pass  # a file system without locks
        yield


@contextlib.contextmanager
def _stop_flag() -> Generator[Callable[[], bool]]:
    """A function that says whether SIGINT or SIGTERM has come; a second one acts as it always does."""
    asked: list[int] = []

    def note(number: int, _: object) -> None:
        asked.append(number)
        signal.signal(number, before[number])

    numbers = (signal.SIGINT, signal.SIGTERM)
    try:
        before = {number: signal.signal(number, note) for number in numbers}
    except ValueError:  # not the main thread
        yield lambda: False
        return
    try:
        yield lambda: bool(asked)
    finally:
        for number in numbers:
            signal.signal(number, before[number])
