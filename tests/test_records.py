"""Reading `metrics.jsonl`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unmask import records
from unmask.errors import UnmaskError

LINES = [
    {"kind": "train", "step": 10, "loss": 5.0},
    {"kind": "train", "step": 20, "loss": 4.0},
    {"kind": "valid", "step": 20, "split": "valid", "loss": 4.2},
    {"kind": "valid", "step": 20, "split": "shifted", "loss": 4.4},
    {"kind": "train", "step": 10, "loss": 5.5},
]


def write(path: Path, text: str = "") -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES) + text)
    return path


def test_of_records_written_again_after_a_resume_the_last_is_kept(tmp_path: Path) -> None:
    assert records.read(write(tmp_path / "metrics.jsonl")) == LINES[1:]


@pytest.mark.parametrize("end", ['{"kind": "tra', "4", '{"step": 3}'])
def test_a_last_line_that_a_kill_cut_short_is_left_out(end: str, tmp_path: Path) -> None:
    assert records.read(write(tmp_path / "metrics.jsonl", end)) == LINES[1:]


def test_any_other_line_that_is_no_record_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "metrics.jsonl")
    path.write_text("garbage\n" + path.read_text())
    with pytest.raises(UnmaskError, match="line 1 is not a record"):
        records.read(path)


def test_no_file_has_no_records(tmp_path: Path) -> None:
    assert records.read(tmp_path / "metrics.jsonl") == []
