"""Writing metrics.jsonl and TensorBoard's event files."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest
from tests.train.runs import files_of_at_most

from unmask import records
from unmask.errors import UnmaskError
from unmask.train.metrics import MetricsWriter, finite

LINES = [
    {"kind": "start", "step": 0, "params": 5},
    {"kind": "train", "step": 1, "loss": 2.5, "seconds": 1.0},
    {"kind": "train", "step": 2, "loss": None, "seconds": 2.0},
    {"kind": "valid", "step": 2, "split": "valid", "loss": 2.25, "bound": True},
]


def write(directory: Path, lines: list[dict[str, object]], **arguments: object) -> None:
    with closing(MetricsWriter(directory, **{"tensorboard": False, **arguments})) as metrics:
        for line in lines:
            assert metrics.write(line) is line


def test_records_are_lines_that_are_there_at_once(tmp_path: Path) -> None:
    metrics = MetricsWriter(tmp_path, tensorboard=False)
    for number, line in enumerate(LINES, 1):
        metrics.write(line)
        assert [json.loads(text) for text in (tmp_path / "metrics.jsonl").read_text().splitlines()] == LINES[:number]
    metrics.close()


def test_a_line_cut_short_by_a_kill_is_ended_before_the_next(tmp_path: Path) -> None:
    write(tmp_path, LINES[:2])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "tr')
    write(tmp_path, LINES[2:])
    assert records.read(tmp_path / "metrics.jsonl") == LINES


def test_only_the_main_process_writes(tmp_path: Path) -> None:
    write(tmp_path, LINES, tensorboard=True, main=False)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_in_one_line(tmp_path: Path) -> None:
    told = r"metrics cannot be written \(File too large\): make room"
    with files_of_at_most(60), pytest.raises(UnmaskError, match=told) as caught:
        write(tmp_path, LINES)
    assert str(tmp_path) in str(caught.value)
    write(tmp_path, LINES)  # and it goes on behind the line that was cut short
    assert records.read(tmp_path / "metrics.jsonl") == LINES


def test_numbers_that_json_does_not_know_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write(tmp_path, [{"kind": "train", "step": 1, "loss": float("nan")}])
    assert finite(float("nan")) is finite(float("inf")) is None
    assert finite(2.5) == 2.5


def test_tensorboard_has_the_same_figures_without_those_that_a_resumed_run_takes_back(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    more = [{"kind": "train", "step": step, "loss": float(step)} for step in (3, 4)]
    write(tmp_path, [*LINES, *more], tensorboard=True)
    write(tmp_path, [{"kind": "train", "step": 4, "loss": 8.0}], tensorboard=True, first_step=3)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert sorted(events.Tags()["scalars"]) == ["train/loss", "valid/valid/loss"]
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(1, 2.5), (3, 3.0), (4, 8.0)]
    assert [(event.step, event.value) for event in events.Scalars("valid/valid/loss")] == [(2, 2.25)]
