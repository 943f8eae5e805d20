"""What a person sees of a run."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from unmask.records import Record
from unmask.train import progress
from unmask.train.progress import TrainingProgress


def shown(records: list[Record], *, terminal: bool = False) -> str:
    out = io.StringIO()
    with TrainingProgress(Console(file=out, force_terminal=terminal, width=120, highlight=False)) as display:
        for record in records:
            display.show(record)
    return out.getvalue()


def test_without_a_terminal_there_are_plain_lines(finished: tuple[Path, list[Record]]) -> None:
    lines = shown(finished[1]).splitlines()
    assert lines[0] == "mdm 33K: 32,928 parameters, 8 steps of 128 tokens, 2.02e+08 FLOPs"
    assert lines[1].startswith(f"step 1/8  loss {finished[1][1]['loss']:.4f}  ")
    assert "tokens/s  left 0:00:" in lines[1]
    assert lines[2].startswith("step 8/8  loss ")  # those between came too soon after another
    assert lines[3].startswith("step 8: valid ")
    assert "nats per token (a bound), " in lines[3]
    assert lines[3].endswith(" bits per byte")
    assert len(lines) == 4


def test_a_line_now_and_then(finished: tuple[Path, list[Record]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    assert len(shown(finished[1]).splitlines()) == 10


def test_in_a_terminal_there_is_a_bar_with_loss_speed_and_time_left(finished: tuple[Path, list[Record]]) -> None:
    out = shown(finished[1][:5], terminal=True)
    assert "━" in out
    assert "4/8" in out
    assert f"loss {finished[1][4]['loss']:.4f}" in out
    assert "tokens/s" in out
    assert "left 0:00:" in out


def test_what_went_wrong_is_told() -> None:
    start = {"kind": "start", "objective": "arm", "size": "33K", "params": 5, "steps": 90, "step": 30, "flops": 1.0}
    start |= {"tokens": 90 * 16}
    failed = {"kind": "train", "step": 31, "tokens": 31 * 16, "loss": None, "tokens_per_second": 16.0}
    skip = {"kind": "skip", "step": 31, "reason": "loss nan, gradient norm inf"}
    out = shown([start, {"kind": "warning", "message": "checkpoint step-40 is damaged [half]"}, skip, failed])
    assert out.splitlines() == [
        "arm 33K: 5 parameters, 90 steps of 16 tokens, 1 FLOPs, from step 30",
        "warning: checkpoint step-40 is damaged [half]",
        "step 31 skipped: loss nan, gradient norm inf",
        "step 31/90  loss not finite  16 tokens/s  left 0:00:59",
    ]
