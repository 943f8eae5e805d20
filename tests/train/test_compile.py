"""torch.compile: not once a step, and not needed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.train.runs import losses
from torch._dynamo.testing import CompileCounter

from unmask.config import RunConfig
from unmask.records import Record
from unmask.train import parallel
from unmask.train.loop import train

Tiny = Callable[..., RunConfig]


@pytest.mark.parametrize("objective", ["mdm", "arm"])
def test_shapes_that_change_do_not_compile_again_in_each_step(
    objective: str, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = CompileCounter()
    monkeypatch.setattr(parallel, "COMPILE_BACKEND", counter)
    torch._dynamo.reset()
    run = tiny(objective=objective, size="131K", steps=12, short_share=0.6, validation_windows=0)
    plain = losses(train(run, tmp_path / "plain"))
    assert losses(train(tiny(**{**vars(run), "compile": True}), tmp_path / "compiled")) == pytest.approx(
        plain, rel=1e-5
    )
    assert 1 < counter.frame_count <= 4  # the trial, whole sequences, other lengths


def test_without_a_compiler_the_run_goes_on_and_says_so(
    tiny: Tiny, finished: tuple[Path, list[Record]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("no C++ compiler found\nlong story")

    monkeypatch.setattr(parallel, "COMPILE_BACKEND", broken)
    torch._dynamo.reset()
    records = list(train(tiny(compile=True), tmp_path / "run"))
    (warning,) = (record for record in records if record["kind"] == "warning")
    assert "torch.compile does not work here" in warning["message"]
    assert "no C++ compiler found" in warning["message"]
    assert "\n" not in warning["message"]
    assert losses(records) == losses(finished[1])
