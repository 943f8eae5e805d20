from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

import synthetic_study as synthetic
from unmask.scaling.plan import Plan
from unmask.scaling.study import Progress
from unmask.train import study_progress
from unmask.train.study_progress import StudyProgress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(study_progress.time, "monotonic", lambda: now[0])
    return now


def feed(progress: StudyProgress, plan: Plan, clock: list[float]) -> None:
    """Run 0 was finished before; of run 1 a quarter was; run 2 fails; 30 s for another half of run 1."""

    def tell(state, number: int, error: str = "") -> None:
        progress.on_progress(Progress(state, plan.runs[number], number + 1, len(plan.runs), 0.0, plan.flops, error))

    def record(number: int, **fields: object) -> None:
        run = plan.runs[number]
        progress.on_record(Path(run.name), {"steps": 80, "objective": run.objective, "size": run.size, **fields})

    tell("skipped", 0)
    tell("started", 1)
    tell("started", 2)
    tell("failed", 2, "no memory")
    record(1, kind="start", step=20)
    assert progress.left is None
    clock[0] = 30.0
    record(1, kind="train", step=60, loss=5.4321, tokens_per_second=12345.6)


def test_the_time_left_counts_what_this_session_did_and_costs(clock: list[float]) -> None:
    plan = Plan(synthetic.plan().runs[:4])
    text = io.StringIO()
    costs = dict(zip([run.name for run in plan.runs], (7.0, 4.0, 0.0, 1.0), strict=True))
    with StudyProgress(plan, lambda run: costs[run.name], Console(file=text, width=200)) as progress:
        feed(progress, plan, clock)
        # 4 * 0.5 = 2 were done in 30 s; 4 * 0.25 + 1 = 2 are left
        assert progress.left == pytest.approx(30)
    lines = text.getvalue().splitlines()
    assert lines[0] == f"{plan.runs[2].name} failed: no memory"
    assert lines[1] == f" 83%  2 of 4 done  12,346 tokens/s  30 s left  ({plan.runs[1].name}: loss 5.432)"
    assert len(lines) == 2


def test_a_terminal_shows_a_bar_for_all_and_one_for_each_run_under_way(clock: list[float]) -> None:
    plan = Plan(synthetic.plan().runs[:4])
    text = io.StringIO()
    console = Console(file=text, width=120, force_terminal=True, color_system=None)
    with StudyProgress(plan, lambda run: 1.0, console) as progress:
        feed(progress, plan, clock)
        progress._bar.refresh()
    assert "all runs" in text.getvalue()
    assert "2 of 4 done  12,346 tokens/s" in text.getvalue()
    run = plan.runs[1]
    assert f"{run.objective.upper()} {run.size}" in text.getvalue()
    assert "loss 5.432  12,346 tokens/s" in text.getvalue()
