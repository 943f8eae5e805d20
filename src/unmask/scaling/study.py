"""Running a study, and reading back what its runs left behind.

    study.json  sessions.json  fits.json  evaluation.json  report/
    runs/<name>/{config.json, metrics.jsonl, checkpoints/, model/}, failure.json if the run failed

`metrics.jsonl` is the truth: a run is finished when it has an `end` record. Whoever runs a study passes the trainer in,
so this module knows no torch.
"""

from __future__ import annotations

import datetime
import json
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from unmask import records
from unmask.errors import UnmaskError, UsageError
from unmask.records import Record
from unmask.scaling.plan import Plan, PlannedRun
from unmask.scaling.points import Point

RunOne = Callable[[PlannedRun, Path], None]
"""Make one run in a directory. If there is something in it, go on from there. Returns without an `end` record if it was
asked to stop."""
State = Literal["skipped", "started", "finished", "failed", "given up", "interrupted"]
OVER: frozenset[State] = frozenset({"skipped", "finished", "failed", "given up"})
"""States of a run that takes no more time."""


@dataclass(frozen=True)
class Progress:
    """What a caller of `run_study` is told, whenever something happens."""

    state: State
    run: PlannedRun
    number: int
    """Of this run, from 1."""
    total: int
    flops_done: float
    """Budgets of all runs that are over."""
    flops_total: float
    error: str = ""


@dataclass(frozen=True)
class Failure:
    """A run that failed, and why."""

    run: str
    error: str
    attempts: int


@dataclass(frozen=True)
class Session:
    """One stretch of work on a study, from a call of `run_study` to its end or the last event before a kill."""

    begun: str
    """Date and time."""
    seconds: float
    jobs: int
    """Runs at a time."""


@dataclass(frozen=True)
class FinishedRun:
    """A run with an `end` record."""

    plan: PlannedRun
    start: Record
    """The last `start` record, or nothing."""
    end: Record
    convention: str | None = None
    """How the plan counts FLOPs; None: as the run says."""

    @property
    def point(self) -> Point | None:
        """The run as a point for fits: the planned budget, what was really trained on, and the final loss."""
        if self.end.get("loss") is None:
            return None
        return Point(
            objective=self.plan.series,
            flops=float(self.plan.flops),
            params=float(self.end.get("params", self.plan.params)),
            tokens=float(self.end["tokens"]),
            loss=float(self.end["loss"]),
            unique_tokens=self.plan.unique_tokens,
            convention=self.convention or self.end.get("flop_convention"),
            name=self.plan.name,
        )


@dataclass(frozen=True)
class Study:
    """A study directory as it is now."""

    directory: Path
    plan: Plan
    finished: tuple[FinishedRun, ...]
    failed: tuple[Failure, ...]
    pending: tuple[str, ...]
    """Names of the runs that are neither: not begun, or interrupted."""
    sessions: tuple[Session, ...] = ()
    """When and how long it was worked on, where that is known."""

    @property
    def points(self) -> list[Point]:
        """The points of the finished runs that have a loss; of several learning rates the best one's."""
        best: dict[tuple[object, ...], Point] = {}
        for run in self.finished:
            point = run.point
            if point is None:
                continue
            plan = run.plan
            rest = tuple(sorted((k, v) for k, v in plan.settings.items() if k != "learning_rate"))
            shape = (plan.size, plan.batch_size, plan.length)
            key = (plan.series, plan.flops, shape, plan.seed, plan.unique_tokens, rest)
            if key not in best or point.loss < best[key].loss:
                best[key] = point
        return list(best.values())

    @classmethod
    def open(cls, directory: Path) -> Study:
        """Read a study. Raises `UnmaskError` for one that is damaged or from another version."""
        plan = Plan.read(directory)
        finished: list[FinishedRun] = []
        failed: list[Failure] = []
        pending: list[str] = []
        for run in plan.runs:
            place = directory / "runs" / run.name
            found = records.read(place / "metrics.jsonl")
            end = _last(found, "end")
            if end is not None:
                _check_same(run, place, end)
                finished.append(FinishedRun(run, _last(found, "start") or {}, end, plan.flop_convention))
            elif (failure := failure_of(place)) is not None:
                failed.append(failure)
            else:
                pending.append(run.name)
        return cls(directory, plan, tuple(finished), tuple(failed), tuple(pending), _read_sessions(directory))


def run_study(
    plan: Plan,
    directory: Path,
    run_one: RunOne,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    attempts: int = 3,
    jobs: int = 1,
    cost: Callable[[PlannedRun], float] | None = None,
) -> Study:
    """Make the runs of `plan` in order, in `directory`, and return what came of it.

    Finished runs are skipped. A run that raises is recorded in its directory and the next one begins; a later call
    tries it again, up to `attempts` times in all. A run that returns unfinished was asked to stop, and so the study
    stops. With several `jobs` so many runs are under way at a time, each call of `run_one` in a thread of its own, and
    those of the highest `cost` come first, so that all are busy to the end. `on_progress` is called from one thread at
    a time. Raises `UsageError` if the directory holds other runs under these names.
    """
    plan.write(directory)
    sessions = [*_read_sessions(directory), Session(_now(), 0.0, jobs)]
    begun = time.monotonic()
    done = 0.0
    lock = threading.Lock()
    stopped = threading.Event()

    def tell(state: State, number: int, error: str = "") -> None:
        nonlocal done
        with lock:
            if state in OVER:
                done += plan.runs[number - 1].flops
            if state != "skipped":
                sessions[-1] = replace(sessions[-1], seconds=time.monotonic() - begun)
                _write_sessions(directory, sessions)
            if on_progress is not None:
                on_progress(Progress(state, plan.runs[number - 1], number, len(plan.runs), done, plan.flops, error))

    def make(number: int) -> None:
        run = plan.runs[number - 1]
        place = directory / "runs" / run.name
        if stopped.is_set():
            return
        if is_finished(run, place):
            tell("skipped", number)
            return
        before = failure_of(place)
        if before is not None and before.attempts >= attempts:
            tell("given up", number, before.error)
            return
        tell("started", number)
        try:
            run_one(run, place)
        except Exception as error:  # whatever one run dies of, the others go on
            record_failure(place, _one_line(error))
            tell("failed", number, _one_line(error))
            return
        if not is_finished(run, place):
            stopped.set()
            tell("interrupted", number)
            return
        (place / "failure.json").unlink(missing_ok=True)
        tell("finished", number)

    numbers = range(1, len(plan.runs) + 1)
    if jobs == 1:  # in this very thread: a trainer may want the process's signals
        for number in numbers:
            make(number)
    else:

        def place_in_line(number: int) -> tuple[bool, float]:
            run = plan.runs[number - 1]
            # what is finished is told at once, so that progress is right from the beginning
            return not is_finished(run, directory / "runs" / run.name), -cost(run) if cost else 0.0

        line = sorted(numbers, key=place_in_line)
        with ThreadPoolExecutor(jobs) as pool:
            try:
                for future in as_completed([pool.submit(make, number) for number in line]):
                    future.result()
            except BaseException:
                stopped.set()
                raise
    return Study.open(directory)


def points_of_runs(directory: Path) -> list[Point]:
    """The points of a directory with `runs/*/metrics.jsonl`, planned or not.

    Without a `study.json` a run's budget is what it really spent. Raises `UsageError` if nothing is finished there.
    """
    if (directory / "study.json").exists():
        study = Study.open(directory)
        if not study.points:
            raise UsageError(
                f"{directory}: none of its {len(study.plan.runs)} runs is finished with a loss: run it first"
            )
        return study.points
    points: list[Point] = []
    for path in sorted(directory.glob("runs/*/metrics.jsonl")):
        end = _last(records.read(path), "end")
        if end is None or end.get("loss") is None:
            continue
        try:
            points.append(
                Point(
                    objective=str(end["objective"]),
                    flops=float(end["flops"]),
                    params=float(end["params"]),
                    tokens=float(end["tokens"]),
                    loss=float(end["loss"]),
                    convention=end.get("flop_convention"),
                    name=path.parent.name,
                )
            )
        except KeyError as error:
            raise UnmaskError(f"{path}: the end record has no {error}: make the run again with this version") from error
    if not points:
        raise UsageError(f"{directory}: no study.json and no finished run in runs/*/metrics.jsonl")
    return points


def _last(records: Sequence[Record], kind: str) -> Record | None:
    return next((record for record in reversed(records) if record["kind"] == kind), None)


def is_finished(run: PlannedRun, place: Path) -> bool:
    """Whether the run in `place` has ended. Raises `UsageError` if it is another run."""
    end = _last(records.read(place / "metrics.jsonl"), "end")
    if end is not None:
        _check_same(run, place, end)
    return end is not None


def _check_same(run: PlannedRun, place: Path, end: Record) -> None:
    planned = {
        "objective": run.objective,
        "size": run.size,
        "batch_size": run.batch_size,
        "length": run.length,
        "seed": run.seed,
        **run.settings,
    }
    try:
        config: Record = json.loads((place / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = {}
    found = {**config, "objective": end.get("objective"), "size": end.get("size"), "steps": end.get("step")}
    planned["steps"] = run.steps
    for name, value in planned.items():
        if name in found and found[name] != value:
            raise UsageError(
                f"{place}: holds another run ({name} {found[name]!r} instead of {value!r}): "
                "give another study directory, or remove this one"
            )


def _one_line(error: BaseException) -> str:
    told = str(error).strip().splitlines()
    text = told[0] if told else type(error).__name__
    return text if isinstance(error, UnmaskError) else f"{type(error).__name__}: {text}"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _write_sessions(directory: Path, sessions: Sequence[Session]) -> None:
    path = directory / "sessions.json"
    draft = path.with_suffix(".json.part")
    draft.write_text(json.dumps([asdict(session) for session in sessions], indent=1) + "\n", encoding="utf-8")
    draft.replace(path)


def _read_sessions(directory: Path) -> tuple[Session, ...]:
    """The sessions of a study; none where the record is missing or damaged, since nothing depends on it."""
    try:
        return tuple(Session(**fields) for fields in json.loads((directory / "sessions.json").read_text()))
    except (OSError, ValueError, TypeError):
        return ()


def record_failure(place: Path, error: str) -> Failure:
    """Count one more failure of the run in `place`."""
    before = failure_of(place)
    failure = Failure(place.name, error, 1 + (before.attempts if before else 0))
    place.mkdir(parents=True, exist_ok=True)
    record = {"error": failure.error, "attempts": failure.attempts}
    (place / "failure.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return failure


def failure_of(place: Path) -> Failure | None:
    """How the run in `place` failed last, if it did."""
    try:
        record: Record = json.loads((place / "failure.json").read_text(encoding="utf-8"))
        return Failure(place.name, str(record["error"]), int(record["attempts"]))
    except (OSError, ValueError, KeyError):
        return None


def progress_of(place: Path, run: PlannedRun) -> float:
    """The share of its steps that a run has made, by its metrics."""
    path = place / "metrics.jsonl"
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 4096))
            lines = file.read().splitlines()
    except OSError:
        return 0.0
    for line in reversed(lines):
        try:
            step = json.loads(line).get("step")
        except (ValueError, AttributeError):
            continue
        if step is not None:
            return min(int(step) / run.steps, 1.0)
    return 0.0
