"""Several small runs at once: processes that each train one run at a time, in one thread.

A small network does not keep two threads busy, so a study of such networks is faster with a process for each core. A
run's result is the same to the last bit for any number of workers, since each computes in one thread.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from multiprocessing import connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from unmask.config import RunConfig
from unmask.errors import UnmaskError
from unmask.records import Record

SINGLE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
ENDING_SECONDS = 5.0


class Workers:
    """A context manager with `count` processes; `train` may be called from as many threads."""

    def __init__(self, count: int, on_record: Callable[[Path, Record], None]) -> None:
        """`on_record` gets the directory of a run and each record of it, from the thread that called `train`."""
        self.count = count
        self._on_record = on_record
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._all: list[_Worker] = []
        self._stopping = False

    def __enter__(self) -> Self:
        for _ in range(self.count):
            self._idle.put(self._start())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for worker in self._all:
            worker.end()

    def train(self, run: RunConfig, directory: Path) -> None:
        """Train `run` in `directory`, from its last checkpoint on, in the next worker that is free.

        Returns without an `end` record if `stop` was called before that. Raises `UnmaskError` for whatever goes wrong.
        """
        worker = self._idle.get()
        try:
            if self._stopping:
                return
            worker.begin(run, directory)
            if self._stopping:  # in the meantime
                worker.stop()
            for record in worker.records():
                self._on_record(directory, record)
        except EOFError:
            status = worker.end()
            if not self._stopping:
                worker = self._start()
                raise UnmaskError(
                    f"{directory}: the process that trained it died ({_cause(status)}): run again to go on"
                ) from None
        finally:
            self._idle.put(worker)

    @property
    def processes(self) -> list[int]:
        """The ids of the processes that are alive."""
        return [pid for worker in self._all if (pid := worker.pid) is not None]

    def stop(self) -> None:
        """Ask all workers to finish their step, save and return. Can be called from a signal handler."""
        self._stopping = True
        for worker in self._all:
            worker.stop()

    def _start(self) -> _Worker:
        worker = _Worker()
        self._all.append(worker)
        return worker


class _Worker:
    """One process and the pipe to it."""

    def __init__(self) -> None:
        # spawned, not forked: torch's threads do not survive a fork
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs,), daemon=True, name="unmask-worker")
        with _environment(SINGLE_THREAD):
            self._process.start()
        theirs.close()
        self._busy = self._asked = False

    def begin(self, run: RunConfig, directory: Path) -> None:
        """Begin to train. Raises `EOFError` if the process is dead."""
        self._asked, self._busy = False, True
        try:
            self._pipe.send((run, directory))
        except OSError:
            raise EOFError from None

    def records(self) -> Generator[Record]:
        """The records of the run that was begun, as they come. Raises `EOFError` if the process dies."""
        try:
            while (message := self._receive()) is not None:
                if isinstance(message, str):
                    raise UnmaskError(message)
                yield message
        finally:
            self._busy = False

    @property
    def pid(self) -> int | None:
        """The id of the process, while it is alive."""
        return self._process.pid if self._process.is_alive() else None

    def stop(self) -> None:
        """Ask it to stop what it trains, if it trains; once, since a second signal would kill it."""
        if self._busy and not self._asked and self._process.pid is not None:
            self._asked = True
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGTERM)

    def end(self) -> int | None:
        """End the process and return its exit code; what it had begun, it goes on with from its last checkpoint."""
        self._pipe.close()
        self._process.terminate()
        self._process.join(ENDING_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        return self._process.exitcode

    def _receive(self) -> Record | str | None:
        """A record, the message of an error, or None at the end of a run."""
        try:
            return self._pipe.recv()
        except OSError:  # the connection was reset
            raise EOFError from None


def _work(pipe: connection.Connection) -> None:
    """What a worker does: train the runs that come through the pipe, and send back their records."""
    # Ctrl-C in a terminal reaches a whole process group: leave it, so that a stop comes from the parent alone, and once
    os.setpgrp()
    threading.Thread(target=_end_with_parent, daemon=True).start()

    import torch

    torch.set_num_threads(1)

    from unmask.train.loop import train

    while True:
        try:
            run, directory = cast("tuple[RunConfig, Path]", pipe.recv())
        except EOFError:
            return
        message: Any = None
        try:
            for record in train(run, directory, resume=True):
                pipe.send(record)
        except Exception as error:
            message = str(error) if isinstance(error, UnmaskError) else f"{type(error).__name__}: {error}"
        pipe.send(message)


def _end_with_parent() -> None:
    """A worker without its parent would train on, unseen, and keep its run directory locked."""
    parent = cast(Any, multiprocessing.parent_process())
    connection.wait([parent.sentinel])
    os._exit(1)


def _cause(status: int | None) -> str:
    if status is not None and status < 0:
        name = signal.Signals(-status).name
        return f"{name}, perhaps for lack of memory" if name == "SIGKILL" else name
    return f"exit status {status}"


@contextmanager
def _environment(variables: dict[str, str]) -> Generator[None]:
    """Set environment variables for the processes that are started within."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
