"""A training for commands that train several models one after the other, each going on where it stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from unmask.config import RunConfig
from unmask.train.loop import train
from unmask.train.progress import TrainingProgress


class Stopped(Exception):  # noqa: N818
    """A signal stopped the training; the message is what to tell."""


def trained(config: RunConfig, place: Path, console: Console) -> dict[str, Any]:
    """Train in the run directory `place`, or go on there, with progress on `console`; the last record.

    Raises `Stopped` when a signal stopped it.
    """
    last: dict[str, Any] = {}
    with TrainingProgress(console) as progress:
        for last in train(config, place, resume=True, on_request=progress.stopping):
            progress.show(last)
    if last["kind"] == "stop":
        raise Stopped(f"stopped by {last['signal']}: run again to go on")
    return last
