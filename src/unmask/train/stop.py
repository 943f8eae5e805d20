"""A polite stop: the first SIGINT or SIGTERM asks the loop to finish its step and save, the second one kills."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any


class StopRequest:
    """Context manager that notes SIGINT and SIGTERM instead of dying of them.

    Outside the main thread, where Python delivers no signals, it does nothing.
    """

    def __init__(self, on_request: Callable[[], None] | None = None) -> None:
        """`on_request` is called when a signal arrives, in the signal handler: it should be brief."""
        self.signal: str | None = None
        """The name of the signal that asked for the stop."""
        self._on_request = on_request
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number).name
        self._restore()
        if self._on_request is not None:
            self._on_request()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
