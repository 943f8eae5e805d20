from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import synthetic_study as synthetic
from unmask.errors import UsageError
from unmask.scaling import launch, runner, submitting
from unmask.scaling.plan import Plan
from unmask.scaling.runner import LocalBackend, log_path, run_plan
from unmask.scaling.study import failure_of
from unmask.scaling.submitting import SubmititBackend, Training

STAND_IN = Path(__file__).with_name("stand_in_train.py")


def stand_in(plan, run, place, *, processes=1):
    numbers = (run.steps, run.batch_size, run.length, run.seed)
    return [sys.executable, str(STAND_IN), str(place), run.objective, run.size, *map(str, numbers)]


@pytest.fixture(autouse=True)
def no_real_training(monkeypatch):
    monkeypatch.setattr(runner, "train_command", stand_in)
    monkeypatch.setattr(submitting, "train_command", stand_in)
    monkeypatch.setattr(runner, "POLL_SECONDS", 0.02)


@pytest.fixture
def plan() -> Plan:
    return Plan(synthetic.plan().runs[:4], data="corpus")


def run_all(plan, directory, *, slots=2, **fields):
    events: list[tuple[str, str]] = []
    study = run_plan(
        plan,
        directory,
        LocalBackend(plan, directory, slots=slots, threads=1),
        on_event=lambda event, _: events.append((event.kind, event.run.name)),
        **fields,
    )
    return study, events


def prepared(plan, directory) -> Plan:
    plan.write(directory)
    return plan


def test_several_runs_go_on_at_once_and_never_more_than_the_slots(plan, tmp_path, monkeypatch):
    monkeypatch.setenv("STAND_IN_PAUSE", "0.1")
    study, events = run_all(prepared(plan, tmp_path), tmp_path, slots=2)
    assert len(study.finished) == 4
    spans = []
    for run in plan.runs:
        place = tmp_path / "runs" / run.name
        spans.append((float((place / "began").read_text().split()[0]), float((place / "ended").read_text())))
    together = [sum(begun <= at < ended for begun, ended in spans) for at, _ in spans]
    assert max(together) == 2
    assert [name for kind, name in events if kind == "started"] == [run.name for run in plan.runs]


def test_finished_runs_are_skipped_and_a_budget_added_later_runs_only_what_is_new(plan, tmp_path):
    run_all(prepared(plan, tmp_path), tmp_path)
    more = Plan(synthetic.plan().runs[:6], data="corpus")
    study, events = run_all(prepared(more, tmp_path), tmp_path)
    assert [kind for kind, _ in events].count("skipped") == 4
    assert {name for kind, name in events if kind == "started"} == {run.name for run in more.runs[4:]}
    assert len(study.finished) == 6


def test_a_failed_run_is_tried_again_after_the_others_and_no_more_than_it_may_fail(plan, tmp_path):
    prepared(plan, tmp_path)
    once, always = (tmp_path / "runs" / plan.runs[number].name for number in (0, 1))
    for place, times in ((once, 1), (always, 99)):
        place.mkdir(parents=True)
        (place / "fails").write_text(str(times))
    study, events = run_all(plan, tmp_path, slots=1, attempts=3)
    assert len(study.finished) == 3
    assert [(each.run, each.attempts, each.error) for each in study.failed] == [
        (plan.runs[1].name, 3, "the loss is not finite")
    ]
    assert failure_of(once) is None
    started = [name for kind, name in events if kind == "started"]
    assert started[:4] == [run.name for run in plan.runs]  # what failed comes after all others
    assert started.count(plan.runs[1].name) == 3
    assert events[-1] == ("given up", plan.runs[1].name)
    # a later call leaves it alone, unless it may fail more often
    _, events = run_all(plan, tmp_path, attempts=3)
    assert ("given up", plan.runs[1].name) in events
    assert not [kind for kind, _ in events if kind == "started"]
    (always / "fails").write_text("0")
    study, _ = run_all(plan, tmp_path, attempts=4)
    assert len(study.finished) == 4


def test_a_broken_run_goes_on_where_it_was(plan, tmp_path):
    place = tmp_path / "runs" / plan.runs[0].name
    place.mkdir(parents=True)
    (place / "metrics.jsonl").write_text('{"kind": "train", "step": 1, "loss": 5}\n' * 3)
    run_all(prepared(plan, tmp_path), tmp_path)
    assert (place / "metrics.jsonl").read_text().count('"train"') == 5


def test_a_signal_lets_the_runs_save_and_ends_the_study_which_then_goes_on(plan, tmp_path, monkeypatch):
    monkeypatch.setenv("STAND_IN_PAUSE", "0.2")
    threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    study, events = run_all(prepared(plan, tmp_path), tmp_path, slots=2)
    assert "interrupted" in {kind for kind, _ in events}
    assert study.pending
    assert not study.failed
    monkeypatch.setenv("STAND_IN_PAUSE", "0")
    study, _ = run_all(plan, tmp_path)
    assert len(study.finished) == 4


def test_a_second_runner_is_refused_while_the_first_is_at_work(plan, tmp_path):
    with (
        runner._held(tmp_path),
        pytest.raises(UsageError, match="another unmask scaling run is at work on this study"),
    ):
        run_all(prepared(plan, tmp_path), tmp_path)
    run_all(plan, tmp_path)


def test_a_training_that_outlived_its_runner_is_waited_for_and_not_started_twice(plan, tmp_path, monkeypatch):
    prepared(plan, tmp_path)
    run = plan.runs[0]
    place = tmp_path / "runs" / run.name
    left = subprocess.Popen(stand_in(plan, run, place), env={**os.environ, "STAND_IN_PAUSE": "0.2"})
    while not (place / "began").exists():
        time.sleep(0.01)
    study, events = run_all(plan, tmp_path, slots=4)
    left.wait()
    assert ("waiting", run.name) in events
    assert len(study.finished) == 4
    # when it was looked at again it had ended, and a process that finds it ended does nothing more
    assert len((place / "metrics.jsonl").read_text().splitlines()) >= 6


def test_each_run_has_its_share_of_the_cores_and_gpus_of_its_own(plan, tmp_path):
    prepared(plan, tmp_path)
    backend = LocalBackend(plan, tmp_path, slots=2, threads=3, gpus=["0", "1"])
    run_plan(plan, tmp_path, backend)
    places = [tmp_path / "runs" / run.name for run in plan.runs]
    assert {(place / "threads").read_text() for place in places} == {"3"}
    assert {(place / "gpus").read_text() for place in places} == {"0", "1"}


def test_the_overview_counts_what_is_done_and_says_how_long_it_takes(plan, tmp_path, monkeypatch):
    monkeypatch.setenv("STAND_IN_PAUSE", "0.05")
    shares, left = [], []

    def tick(overview):
        shares.append(overview.done)
        left.append(overview.seconds_left)

    prepared(plan, tmp_path)
    run_plan(plan, tmp_path, LocalBackend(plan, tmp_path, slots=2, threads=1), on_tick=tick)
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)
    assert any(each is not None and each > 0 for each in left)
    assert left[-1] == pytest.approx(0, abs=1e-6)


def test_what_a_run_said_is_kept_in_its_log(plan, tmp_path):
    place = tmp_path / "runs" / plan.runs[0].name
    place.mkdir(parents=True)
    (place / "fails").write_text("1")
    run_all(prepared(plan, tmp_path), tmp_path)
    assert "the loss is not finite" in log_path(tmp_path, plan.runs[0]).read_text()


def test_the_command_of_a_run_is_unmask_train_with_every_field(plan, tmp_path):
    run = synthetic.plan().runs[0]
    run = type(run)(**{**run.__dict__, "settings": {"learning_rate": 1e-3, "tensorboard": False, "compile": True}})
    command = launch.train_command(Plan((run,), data="corpus"), run, tmp_path, processes=2)
    words = " ".join(command)
    assert "torch.distributed.run --standalone --nproc-per-node 2 -m unmask train pretrain" in words
    assert "--resume" in command
    for option in ("--learning-rate 0.001", "--no-tensorboard", "--compile", f"--steps {run.steps}", "--data corpus"):
        assert option in words


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("lots\nunmask: error: data: no such thing\n", "data: no such thing"),
        ("Traceback\nValueError: x\n", "ValueError: x"),
        ("", "it ended without a word"),
    ],
)
def test_the_last_error_of_a_command_is_found(text, told):
    assert launch.last_error(text) == told


def test_submitit_runs_the_study_by_its_local_executor(plan, tmp_path):
    pytest.importorskip("submitit")
    plan = prepared(Plan(plan.runs[:2], data="corpus"), tmp_path)
    place = tmp_path / "runs" / plan.runs[1].name
    place.mkdir(parents=True)
    (place / "fails").write_text("1")
    backend = SubmititBackend(plan, tmp_path, "local", slots=2, parameters={"timeout_min": 5}, threads=2)
    events: list[str] = []
    study = run_plan(plan, tmp_path, backend, on_event=lambda event, _: events.append(event.kind))
    assert len(study.finished) == 2
    assert "failed" in events
    assert (place / "threads").read_text() == "2"
    assert (tmp_path / "jobs" / "submitted.json").exists()


def test_a_job_that_is_preempted_saves_and_asks_to_go_on(plan, tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setenv("STAND_IN_PAUSE", "0.3")
    run = plan.runs[0]
    place = tmp_path / "run"
    training = Training(stand_in(plan, run, place), tmp_path / "log", {})
    outcome: list[str] = []
    thread = threading.Thread(target=lambda: outcome.append(training()))
    thread.start()
    while not (place / "metrics.jsonl").exists():
        time.sleep(0.01)
    again = training.checkpoint()
    thread.join()
    assert not (place / "ended").exists()
    monkeypatch.setenv("STAND_IN_PAUSE", "0")
    assert again.function() == ""
    assert (place / "ended").exists()


def test_slurm_that_is_not_there_is_one_line(plan, tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UsageError, match="--executor slurm: submitit says: "):
        SubmititBackend(plan, tmp_path, "slurm", slots=2)
