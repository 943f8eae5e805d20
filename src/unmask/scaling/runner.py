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
"""Time between two looks at processes of this machine."""
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

    @property
    def poll_seconds(self) -> float:
        """Time between two looks at its runs."""
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
    shares: dict[str, float] = field(default_factory=dict[str, float])
    """What is done of each run that is not finished."""
    finished: set[str] = field(default_factory=set[str])
    failed: dict[str, str] = field(default_factory=dict[str, str])
    """Why runs failed last, until they finish."""
    running: set[str] = field(default_factory=set[str])
    waiting: set[str] = field(default_factory=set[str])
    """Runs that another process is still making."""
    given_up: set[str] = field(default_factory=set[str])
    started: float = field(default_factory=time.monotonic)
    done_before: float = 0.0
    """Share of the whole that was done when this runner began."""

    @property
    def done(self) -> float:
        """Share of the whole that is done."""
        over = sum(self.weights[name] for name in self.finished)
        return (over + sum(self.weights[name] * share for name, share in self.shares.items())) / self._total

    @property
    def seconds_left(self) -> float | None:
        """By the pace since this runner began; None before there is one."""
        gained = self.done - self.done_before
        if gained <= 1e-9:
            return None
        left = sum(self.weights[name] * (1 - share) for name, share in self.shares.items() if name not in self.given_up)
        return (time.monotonic() - self.started) / gained * left / self._total

    @property
    def _total(self) -> float:
        return sum(self.weights.values())


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
        self.at_once, self.poll_seconds = slots, POLL_SECONDS
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
    with _held(directory), _stop_flag() as stopping:
        overview = Overview(plan, weights or {run.name: run.flops for run in plan.runs})
        runner = _Runner(directory, backend, attempts, overview, on_event or (lambda event, overview: None))
        runner.look()
        while runner.at_work or (runner.pending and not stopping()):
            if stopping():
                runner.let_go()
            else:
                runner.start()
            time.sleep(backend.poll_seconds)
            runner.collect(stopping=stopping())
            if on_tick is not None:
                on_tick(overview)
    return Study.open(directory)


class _Runner:
    """What `run_plan` does, one step at a time."""

    def __init__(
        self,
        directory: Path,
        backend: Backend,
        attempts: int,
        overview: Overview,
        on_event: Callable[[Event, Overview], None],
    ) -> None:
        self._directory, self._backend, self._attempts = directory, backend, attempts
        self._overview, self._on_event = overview, on_event
        self._handles: dict[str, tuple[PlannedRun, Handle]] = {}
        self._asked: set[str] = set()
        self.pending: list[PlannedRun] = []
        """Runs to be started, in this order."""

    @property
    def at_work(self) -> bool:
        """Whether runs are under way."""
        return bool(self._handles)

    def look(self) -> None:
        """See which runs are finished, which have failed too often, and how far the others are."""
        overview = self._overview
        for run in overview.plan.runs:
            if is_finished(run, self._place(run)):
                overview.finished.add(run.name)
                self._tell("skipped", run)
                continue
            overview.shares[run.name] = progress_of(self._place(run), run)
            before = failure_of(self._place(run))
            if before is not None and before.attempts >= self._attempts:
                self._give_up(run, before.error)
            else:
                self.pending.append(run)
        overview.done_before = overview.done

    def start(self) -> None:
        """Start as many pending runs as there is room for."""
        if len(self._handles) >= self._backend.at_once:
            return
        free = [run for run in self.pending if not self._is_made_by_another(run)]
        others = len(self.pending) - len(free)  # they take room too
        starting = free[: max(self._backend.at_once - len(self._handles) - others, 0)]
        if not starting:
            return
        handles = self._backend.start([(run, self._place(run)) for run in starting])
        for run, handle in zip(starting, handles, strict=True):
            self.pending.remove(run)
            self._handles[run.name] = (run, handle)
            self._overview.running.add(run.name)
            self._tell("started", run)

    def let_go(self) -> None:
        """Ask the runs under way to save and end; those that go on without the runner are left."""
        for name, (run, handle) in list(self._handles.items()):
            if name not in self._asked:
                self._asked.add(name)
                if not handle.stop():
                    self._forget(run)
                    self._tell("left", run)

    def collect(self, *, stopping: bool) -> None:
        """See how far the runs are, and what came of those that have ended."""
        overview = self._overview
        for run, handle in list(self._handles.values()):
            outcome = handle.poll()
            overview.shares[run.name] = progress_of(self._place(run), run)
            if outcome is None:
                continue
            self._forget(run)
            if is_finished(run, self._place(run)):
                (self._place(run) / "failure.json").unlink(missing_ok=True)
                overview.failed.pop(run.name, None)
                del overview.shares[run.name]
                overview.finished.add(run.name)
                self._tell("finished", run)
            elif stopping:
                self.pending.append(run)
                self._tell("interrupted", run)
            else:
                failure = record_failure(self._place(run), outcome or "it stopped before its end")
                if failure.attempts >= self._attempts:
                    self._give_up(run, failure.error)
                else:
                    overview.failed[run.name] = failure.error
                    self.pending.append(run)  # after all others
                    self._tell("failed", run, failure.error)

    def _place(self, run: PlannedRun) -> Path:
        return self._directory / "runs" / run.name

    def _tell(self, kind: str, run: PlannedRun, detail: str = "") -> None:
        self._on_event(Event(kind, run, detail), self._overview)

    def _give_up(self, run: PlannedRun, error: str) -> None:
        self._overview.failed[run.name] = error
        self._overview.given_up.add(run.name)
        self._tell("given up", run, error)

    def _forget(self, run: PlannedRun) -> None:
        del self._handles[run.name]
        self._overview.running.discard(run.name)

    def _is_made_by_another(self, run: PlannedRun) -> bool:
        """Whether a training that outlived an earlier runner still holds the run."""
        waiting = self._overview.waiting
        if not _in_use(self._place(run)):
            waiting.discard(run.name)
            return False
        if run.name not in waiting:
            waiting.add(run.name)
            self._tell("waiting", run)
        return True


def log_path(directory: Path, run: PlannedRun) -> Path:
    """Where the words of a run go."""
    return directory / "logs" / f"{run.name}.log"


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
        signal.signal(number, before[signal.Signals(number)])

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
            signal.signal(number, before[signal.Signals(number)])
