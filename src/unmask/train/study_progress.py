"""What a person sees of a study: a bar for all of it and one for each run under way; elsewhere, a line now and then."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from unmask.records import Record
from unmask.scaling import numbers, series, study
from unmask.scaling.plan import Plan, PlannedRun

LINE_SECONDS = 10.0
"""At most one line of progress in so many seconds where there is no terminal."""
TITLE_WIDTH = 10


class _Run:
    """Where one run is."""

    def __init__(self, cost: float) -> None:
        self.cost = cost
        self.share = 0.0
        """Of the run that is done."""
        self.share_before = 0.0
        """Of the run that was done before this session."""
        self.steps = 1
        self.speed = 0.0
        """Tokens per second; 0 while nobody works on it."""
        self.task: TaskID | None = None


class StudyProgress:
    """Context manager that shows a study from the `Progress` of `run_study` and the records of its runs.

    The time left is the cost of what is left at the speed of this session; `cost` gives a run's, in any unit.
    """

    def __init__(self, plan: Plan, cost: Callable[[PlannedRun], float], console: Console | None = None) -> None:
        """`console` is standard error by default."""
        self._console = console or Console(stderr=True, highlight=False)
        self._runs = {run.name: _Run(cost(run)) for run in plan.runs}
        self._over = 0
        self._begun = self._last_line = time.monotonic()
        self._lock = threading.Lock()
        self._bar = Progress(
            TextColumn("{task.description:<" + str(TITLE_WIDTH) + "}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[figures]}"),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._all = self._bar.add_task("all runs", total=sum(run.cost for run in self._runs.values()), figures="")

    def __enter__(self) -> Self:
        self._begun = self._last_line = time.monotonic()
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()

    def on_progress(self, progress: study.Progress) -> None:
        """Show what `run_study` tells."""
        with self._lock:
            run = self._runs[progress.run.name]
            if progress.state in study.OVER:
                self._over += 1
                run.share = 1.0
                run.share_before = run.share_before if progress.state == "finished" else 1.0
            if progress.state != "started":
                run.speed = 0.0
                self._forget_task(run)
            if progress.state in ("failed", "given up"):
                self._print(f"{progress.run.name} failed: {progress.error}", "yellow")
            self._update()

    def on_record(self, directory: Path, record: Record) -> None:
        """Show a record of the run in `directory`."""
        with self._lock:
            run = self._runs[directory.name]
            if record["kind"] == "start":
                run.steps = record["steps"]
                run.share_before = run.share = record["step"] / run.steps
                self._forget_task(run)
                title = f"{series.label(record['objective'])} {record['size']}"
                run.task = self._bar.add_task(title, total=run.steps, completed=record["step"], figures="")
            elif record["kind"] == "train":
                run.share, run.speed = record["step"] / run.steps, record["tokens_per_second"]
                loss = "not finite" if record["loss"] is None else f"{record['loss']:.3f}"
                if run.task is not None:
                    figures = f"loss {loss}  {run.speed:,.0f} tokens/s"
                    self._bar.update(run.task, completed=record["step"], figures=figures)
                self._update()
                self._line(f"{directory.name}: loss {loss}")
            elif record["kind"] in ("skip", "warning"):
                told = record.get("message") or f"step {record['step']:,} skipped: {record.get('reason')}"
                self._print(f"{directory.name}: {told}", "yellow")

    @property
    def left(self) -> float | None:
        """Seconds that the rest will take, or None where nothing was done yet in this session."""
        now = sum(run.cost * (run.share - run.share_before) for run in self._runs.values())
        rest = sum(run.cost * (1 - run.share) for run in self._runs.values())
        if now <= 0:
            return None if rest > 0 else 0.0
        return (time.monotonic() - self._begun) * rest / now

    def _update(self) -> None:
        done = sum(run.cost * run.share for run in self._runs.values())
        speed = sum(run.speed for run in self._runs.values())
        figures = f"{self._over} of {len(self._runs)} done"
        figures += f"  {speed:,.0f} tokens/s" if speed else ""
        figures += f"  {numbers.duration(self.left)} left" if self.left else ""
        self._bar.update(self._all, completed=done, figures=figures)

    def _line(self, latest: str) -> None:
        now = time.monotonic()
        if self._console.is_terminal or now - self._last_line < LINE_SECONDS:
            return
        self._last_line = now
        task = self._bar.tasks[0]
        self._print(f"{task.percentage:3.0f}%  {task.fields['figures']}  ({latest})")

    def _forget_task(self, run: _Run) -> None:
        if run.task is not None:
            self._bar.remove_task(run.task)
            run.task = None

    def _print(self, line: str, style: str = "") -> None:
        self._console.print(Text(line, style=style), soft_wrap=True)
