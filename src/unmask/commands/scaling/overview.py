"""What `unmask scaling run` shows: one overview of all runs with the time left, or lines where nobody watches."""

from __future__ import annotations

import sys
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from unmask.scaling import numbers
from unmask.scaling.runner import Event, Overview

SHOWN = {"started", "finished", "failed", "given up", "waiting", "interrupted", "left"}
WORDS = {"left": "goes on without this runner", "waiting": "is still being made by an earlier runner: waiting"}


class OverviewDisplay:
    """A context manager whose `event` and `tick` the runner calls."""

    def __init__(self, *, quiet: bool = False, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._quiet = quiet
        self._live = Live(console=self._console, refresh_per_second=4, transient=True) if self._watched else None

    @property
    def _watched(self) -> bool:
        return self._console.is_terminal and not self._quiet

    def __enter__(self) -> OverviewDisplay:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def event(self, event: Event, overview: Overview) -> None:
        """Say what happened."""
        if self._quiet or event.kind not in SHOWN:
            return
        over = len(overview.finished)
        words = WORDS.get(event.kind, event.kind) + (f": {event.detail}" if event.detail else "")
        line = f"[{over}/{len(overview.plan.runs)}] {event.run.name} {words}{_left(overview)}"
        if self._live is not None:
            self._console.print(line, markup=False)
        else:
            print(line, file=sys.stderr, flush=True)

    def tick(self, overview: Overview) -> None:
        """Draw the overview."""
        if self._live is not None:
            self._live.update(self.render(overview))

    def render(self, overview: Overview) -> Group:
        """A bar for the whole study and one for each run under way."""
        table = Table.grid(padding=(0, 2))
        for name in sorted(overview.running):
            share = overview.shares[name]
            table.add_row(Text(name), ProgressBar(total=1.0, completed=share, width=30), Text(f"{100 * share:.0f}%"))
        total = Table.grid(padding=(0, 2))
        count = f"{len(overview.finished)} of {len(overview.plan.runs)} runs"
        if overview.failed:
            count += f", {len(overview.failed)} failed"
        bar = ProgressBar(total=1.0, completed=overview.done, width=40)
        total.add_row(Text(count), bar, Text(f"{100 * overview.done:.0f}%{_left(overview)}"))
        return Group(table, total)


def _left(overview: Overview) -> str:
    left = overview.seconds_left
    return "" if left is None or left < 1 else f", {numbers.duration(left)} left"
