"""What a person sees of a training run: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from unmask.records import Record
from unmask.wording import counted

SHOWN_PROMPT = 200
"""Characters of a prompt, from its end."""
LINE_SECONDS = 5.0
"""At most one line in so many seconds where there is no terminal."""


class TrainingProgress:
    """Context manager that shows the records of a run as they come: loss, tokens/s, time left."""

    def __init__(self, console: Console | None = None) -> None:
        """`console` is standard error by default."""
        self._console = console or Console(stderr=True, highlight=False)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TextColumn("left {task.fields[left]}"),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task: TaskID | None = None
        self._steps = 0
        self._last_line = -LINE_SECONDS
        self._tokens = 0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()

    def show(self, record: Record) -> None:
        """Show one record of `unmask.train.loop.train`."""
        show = {
            "start": self._start,
            "train": self._train,
            "valid": self._valid,
            "sample": self._sample,
            "skip": self._skip,
            "warning": self._warning,
        }.get(record["kind"])
        if show is not None:
            show(record)

    def stopping(self) -> None:
        """Say that a signal was heard; for `on_request` of `train`."""
        with contextlib.suppress(RuntimeError, OSError):  # in a signal handler, while the same stream is written to
            self._print("finishing the step and saving; once more to quit at once", "yellow")

    def _start(self, record: Record) -> None:
        self._steps = record["steps"]
        self._tokens = record["tokens"]
        title = f"{record['objective']} {record['size']}"
        begun = f", from step {record['step']:,}" if record["step"] else ""
        each = round(self._tokens / self._steps)
        trained = f" ({record['trained_params']:,} trained)" if "trained_params" in record else ""
        self._print(
            f"{title}: {record['params']:,} parameters{trained}, "
            f"{counted(record['steps'], 'step')} of {each:,} tokens, "
            f"{record['flops']:.3g} FLOPs{begun}"
        )
        self._task = self._bar.add_task(title, total=self._steps, completed=record["step"], figures="", left="-:--:--")

    def _train(self, record: Record) -> None:
        step, speed = record["step"], record["tokens_per_second"]
        loss = "not finite" if record["loss"] is None else f"{record['loss']:.4f}"
        left = _duration((self._tokens - record["tokens"]) / speed)
        if self._task is not None:
            self._bar.update(self._task, completed=step, figures=f"loss {loss}  {speed:,.0f} tokens/s", left=left)
        now = time.monotonic()
        if not self._console.is_terminal and (now - self._last_line >= LINE_SECONDS or step == self._steps):
            self._last_line = now
            self._print(f"step {step:,}/{self._steps:,}  loss {loss}  {speed:,.0f} tokens/s  left {left}")

    def _valid(self, record: Record) -> None:
        error = record.get("standard_error")
        kind = "a bound" if record["bound"] else "exact"
        self._print(
            f"step {record['step']:,}: {record['split']} {record['loss']:.4f}"
            + (f" ± {error:.4f}" if error is not None else "")
            + f" nats per token ({kind}), {record['bits_per_byte']:.4f} bits per byte"
        )

    def _sample(self, record: Record) -> None:
        for sample in record["samples"]:
            asked = " ".join(sample["prompt"].split())
            asked = asked if len(asked) <= SHOWN_PROMPT else f"... {asked[-SHOWN_PROMPT:]}"
            self._print(f"step {record['step']:,}: {asked}", "dim")
            self._print(f"    {' '.join(sample['answer'].split()) or '(nothing)'}")

    def _skip(self, record: Record) -> None:
        self._print(f"step {record['step']:,} skipped: {record['reason']}", "yellow")

    def _warning(self, record: Record) -> None:
        self._print(f"warning: {record['message']}", "yellow")

    def _print(self, line: str, style: str = "") -> None:
        self._console.print(Text(line, style=style), soft_wrap=True)


def _duration(seconds: float) -> str:
    """h:mm:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
