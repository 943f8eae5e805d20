"""Runs in processes of their own: the same results for any number of them, polite stops, deaths."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.train.runs import losses

from unmask.config import RunConfig
from unmask.errors import UnmaskError
from unmask.records import Record, read
from unmask.train.workers import Workers

Tiny = Callable[..., RunConfig]


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_two_workers_give_what_this_process_gives_and_report_every_record(
    tiny: Tiny, finished: tuple[Path, list[Record]], tmp_path: Path
) -> None:
    told: dict[str, list[Record]] = {"a": [], "b": [], "c": []}
    with (
        Workers(2, lambda directory, record: told[directory.name].append(record)) as workers,
        ThreadPoolExecutor(3) as threads,
    ):
        runs = {"a": tiny(), "b": tiny(seed=1), "c": tiny()}
        for future in [threads.submit(workers.train, run, tmp_path / name) for name, run in runs.items()]:
            future.result()
        # an error of a run comes back in one line, and the worker lives on
        with pytest.raises(UnmaskError, match=r"a: holds another run \(seed 0 instead of 5\)"):
            workers.train(tiny(seed=5), tmp_path / "a")
        workers.train(tiny(), tmp_path / "a")  # has ended: tells its end again
    expected = losses(finished[1])
    assert losses(told["a"]) == losses(told["c"]) == pytest.approx(expected, rel=1e-5)
    assert losses(told["a"]) == losses(told["c"])
    assert losses(told["b"]) != losses(told["a"])
    assert read(tmp_path / "b" / "metrics.jsonl") == told["b"]
    assert [record["kind"] for record in told["a"]][-2:] == ["end", "end"]


def test_a_stop_saves_what_is_under_way_and_a_killed_worker_is_replaced(tiny: Tiny, tmp_path: Path) -> None:
    reached = threading.Event()
    told: list[Record] = []

    def on_record(directory: Path, record: Record) -> None:
        told.append(record)
        if record["kind"] == "train":
            reached.set()

    run = tiny(steps=100_000, checkpoint_every=100_000)
    with Workers(1, on_record) as workers, ThreadPoolExecutor(1) as threads:
        future = threads.submit(workers.train, run, tmp_path / "killed")
        assert reached.wait(120)
        os.kill(workers.processes[0], signal.SIGKILL)
        with pytest.raises(UnmaskError, match=r"killed: the process that trained it died \(SIGKILL, perhaps for lack"):
            future.result()

        reached.clear()
        future = threads.submit(workers.train, run, tmp_path / "stopped")
        assert reached.wait(120)
        workers.stop()
        future.result()
        assert told[-1]["kind"] == "stop"
        assert told[-1]["signal"] == "SIGTERM"
        before = len(told)
        workers.train(run, tmp_path / "never")
        assert len(told) == before
    assert (tmp_path / "stopped" / "checkpoints" / f"step-{told[-1]['step']:08}").is_dir()
    assert not (tmp_path / "never").exists()


def test_workers_end_with_the_process_that_started_them(tiny: Tiny, tmp_path: Path) -> None:
    """As after kill -9."""
    run = tiny(steps=100_000)
    child = os.fork()
    if child == 0:  # pragma: no cover

        def note(directory: Path, record: Record) -> None:
            (tmp_path / "worker").write_text(str(workers.processes[0]))

        with Workers(1, note) as workers:
            workers.train(run, tmp_path / "run")
        os._exit(0)
    wait_until(lambda: (tmp_path / "worker").exists() and (tmp_path / "run" / "metrics.jsonl").exists())
    worker = int((tmp_path / "worker").read_text())
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)

    def gone() -> bool:
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return True
        # its new parent may not have reaped it yet
        return Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[0] == "Z"

    wait_until(gone, 20)
