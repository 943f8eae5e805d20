from __future__ import annotations

import dataclasses
import threading

import pytest

import synthetic_study as synthetic
from unmask import sizes
from unmask.errors import UnmaskError, UsageError
from unmask.scaling.plan import Plan, grid
from unmask.scaling.study import Study, points_of_runs, run_study


def run_one(run, place):
    synthetic.write_run(place, run)


def test_a_grid_spends_each_budget_by_the_papers_rule():
    runs = grid([1e13, 1e12], ["131K", "307K"], ["mdm", "arm"], batch_size=8, length=64, seeds=[0, 1])
    assert len(runs) == 2 * 2 * 2 * 2
    assert [run.flops for run in runs] == sorted(run.flops for run in runs)
    for run in runs:
        params = sizes.lookup(run.size).params
        assert run.steps == int(run.flops / (6 * params * 8 * 64))
        assert run.tokens == run.steps * 8 * 64
        assert 6 * params * run.tokens <= run.flops


def test_a_budget_below_one_step_is_refused():
    with pytest.raises(UsageError, match="less than one step"):
        grid([1e6], ["131K"], ["mdm"], batch_size=8, length=64)


def test_a_plan_survives_study_json(tmp_path):
    plan = synthetic.plan(title="A title", command="unmask demo")
    plan.write(tmp_path)
    assert Plan.read(tmp_path) == plan


def test_a_plan_of_another_version_is_refused(tmp_path):
    (tmp_path / "study.json").write_text('{"format": "unmask-study-99", "runs": []}')
    with pytest.raises(UnmaskError, match=r"study\.json: format 'unmask-study-99' is not 'unmask-study-1'"):
        Plan.read(tmp_path)


def test_a_plan_that_changes_a_run_is_refused_and_one_that_adds_runs_is_not(tmp_path):
    plan = synthetic.plan()
    plan.write(tmp_path)
    changed = dataclasses.replace(plan.runs[0], seed=9)
    with pytest.raises(UsageError, match="was planned otherwise"):
        Plan((changed,)).write(tmp_path)
    assert Plan.read(tmp_path) == plan
    added = dataclasses.replace(changed, name="another")
    Plan((*plan.runs, added)).write(tmp_path)
    assert len(Plan.read(tmp_path).runs) == len(plan.runs) + 1


def test_a_study_runs_in_order_and_skips_what_is_finished(tmp_path):
    plan = synthetic.plan()
    made: list[str] = []

    def record(run, place):
        made.append(run.name)
        run_one(run, place)

    first = run_study(Plan(plan.runs[:5]), tmp_path, record)
    assert [run.plan.name for run in first.finished] == made == [run.name for run in plan.runs[:5]]
    states: list[str] = []
    study = run_study(plan, tmp_path, record, on_progress=lambda progress: states.append(progress.state))
    assert made == [run.name for run in plan.runs]
    assert states[:5] == ["skipped"] * 5
    assert states[5:7] == ["started", "finished"]
    assert not study.failed
    assert not study.pending
    assert len(study.points) == len(plan.runs)
    assert points_of_runs(tmp_path) == study.points


def test_a_failed_run_is_recorded_and_tried_again_up_to_a_number_of_times(tmp_path):
    plan = Plan(synthetic.plan().runs[:3])
    tries: list[str] = []

    def fails_second(run, place):
        tries.append(run.name)
        if run == plan.runs[1]:
            raise RuntimeError("not enough memory\nmore lines")
        run_one(run, place)

    for _ in range(4):
        study = run_study(plan, tmp_path, fails_second, attempts=2)
    assert tries.count(plan.runs[1].name) == 2
    assert tries.count(plan.runs[2].name) == 1
    assert [(each.error, each.attempts) for each in study.failed] == [("RuntimeError: not enough memory", 2)]
    assert len(study.finished) == 2
    mended = run_study(plan, tmp_path, run_one, attempts=3)
    assert not mended.failed
    assert len(mended.finished) == 3


def test_a_run_that_returns_unfinished_stops_the_study_which_then_goes_on_there(tmp_path):
    plan = Plan(synthetic.plan().runs[:4])
    states: list[str] = []

    def stops_at_second(run, place):
        place.mkdir(parents=True, exist_ok=True)
        if run == plan.runs[1] and not (place / "metrics.jsonl").exists():
            (place / "metrics.jsonl").write_text('{"kind": "train", "step": 10, "loss": 6.0}\n{"kind": "tr')
            return
        run_one(run, place)

    study = run_study(plan, tmp_path, stops_at_second, on_progress=lambda progress: states.append(progress.state))
    assert states == ["started", "finished", "started", "interrupted"]
    assert list(study.pending) == [run.name for run in plan.runs[1:]]
    assert not run_study(plan, tmp_path, stops_at_second).pending


def test_several_runs_at_a_time_are_all_made_once_and_counted_once(tmp_path):
    plan = Plan(synthetic.plan().runs[:7])
    under_way: set[str] = set()
    together: list[int] = []
    lock = threading.Lock()
    meeting = threading.Barrier(3)

    def waits_for_two_others(run, place):
        with lock:
            under_way.add(run.name)
            together.append(len(under_way))
        if run in plan.runs[:3]:
            meeting.wait(timeout=60)
        run_one(run, place)
        with lock:
            under_way.discard(run.name)

    told = []
    study = run_study(plan, tmp_path, waits_for_two_others, on_progress=told.append, jobs=3)
    assert len(study.finished) == 7
    assert max(together) == 3
    assert sorted(each.number for each in told if each.state == "finished") == list(range(1, 8))
    assert max(each.flops_done for each in told) == pytest.approx(plan.flops)
    assert [session.jobs for session in study.sessions] == [3]


def test_of_several_runs_at_a_time_the_costly_ones_begin_first(tmp_path):
    plan = Plan(synthetic.plan().runs[:6])
    begun: list[str] = []
    both = threading.Barrier(2)

    def note(run, place):
        begun.append(run.name)
        if len(begun) <= 2:
            both.wait(timeout=60)
        run_one(run, place)

    costs = {run.name: cost for run, cost in zip(plan.runs, (1, 2, 3, 40, 50, 6), strict=True)}
    study = run_study(plan, tmp_path, note, jobs=2, cost=lambda run: costs[run.name])
    assert set(begun[:2]) == {plan.runs[4].name, plan.runs[3].name}
    assert [run.plan for run in study.finished] == list(plan.runs)


def test_of_several_runs_at_a_time_those_that_are_finished_are_told_before_another_begins(tmp_path):
    plan = Plan(synthetic.plan().runs[:6])
    run_study(Plan(plan.runs[:4]), tmp_path, run_one)
    told: list[str] = []
    costs = {run.name: cost for cost, run in enumerate(plan.runs)}
    run_study(
        plan,
        tmp_path,
        run_one,
        jobs=2,
        cost=lambda run: costs[run.name],
        on_progress=lambda progress: told.append(progress.state),
    )
    assert told.count("skipped") == 4
    assert told.index("started") >= 3  # the last one may be told by the other thread at the same moment


def test_of_several_runs_at_a_time_one_that_is_interrupted_keeps_others_from_beginning(tmp_path):
    plan = Plan(synthetic.plan().runs[:8])
    begun: list[str] = []

    def stopped(run, place):
        begun.append(run.name)

    study = run_study(plan, tmp_path, stopped, jobs=2)
    assert len(begun) <= 2
    assert len(study.pending) == 8


def test_of_several_runs_at_a_time_one_that_fails_leaves_the_others_alone(tmp_path):
    plan = Plan(synthetic.plan().runs[:4])

    def fails_first(run, place):
        if run == plan.runs[0]:
            raise RuntimeError("no memory")
        run_one(run, place)

    study = run_study(plan, tmp_path, fails_first, jobs=2)
    assert [each.run for each in study.failed] == [plan.runs[0].name]
    assert len(study.finished) == 3


def test_each_session_of_work_is_on_record_and_damage_to_the_record_is_harmless(tmp_path):
    plan = synthetic.plan()
    run_study(Plan(plan.runs[:2]), tmp_path, run_one)
    study = run_study(Plan(plan.runs[:3]), tmp_path, run_one, jobs=2)
    assert [session.jobs for session in study.sessions] == [1, 2]
    assert all(session.seconds > 0 for session in study.sessions)
    run_study(Plan(plan.runs[:3]), tmp_path, run_one)  # nothing left to do
    assert Study.open(tmp_path).sessions == study.sessions
    (tmp_path / "sessions.json").write_text("[{")
    assert Study.open(tmp_path).sessions == ()


def test_a_planned_run_gives_the_config_that_trains_it():
    run = dataclasses.replace(synthetic.plan().runs[0], settings={"learning_rate": 0.002}, seed=3)
    config = run.run_config("corpus")
    assert (config.data, config.steps, config.seed, config.learning_rate) == ("corpus", run.steps, 3, 0.002)
    assert (config.objective, config.size) == (run.objective, run.size)
    assert config.total_steps(run.params) == run.steps
    with pytest.raises(UsageError, match=rf"run {run.name}: unknown field 'lr'"):
        dataclasses.replace(run, settings={"lr": 1}).run_config("corpus")


def test_a_directory_with_another_run_of_the_same_name_is_refused(tmp_path):
    plan = Plan(synthetic.plan().runs[:1])
    run = plan.runs[0]
    synthetic.write_run(tmp_path / "runs" / run.name, dataclasses.replace(run, seed=5))
    with pytest.raises(UsageError, match=r"holds another run \(seed 5 instead of 0\)"):
        run_study(plan, tmp_path, run_one)


def test_interrupting_a_study_from_the_keyboard_is_no_failure(tmp_path):
    def interrupted(run, place):
        raise KeyboardInterrupt

    plan = Plan(synthetic.plan().runs[:2])
    with pytest.raises(KeyboardInterrupt):
        run_study(plan, tmp_path, interrupted)
    study = Study.open(tmp_path)
    assert not study.failed
    assert len(study.pending) == 2


def test_runs_without_a_plan_are_read_with_what_they_really_spent(tmp_path):
    runs = synthetic.plan().runs
    for run in runs:
        synthetic.write_run(tmp_path / "runs" / run.name, run)
    found = {point.name: point for point in points_of_runs(tmp_path)}
    assert len(found) == len(runs)
    assert all(found[run.name].flops == 6 * run.params * run.tokens for run in runs)


def test_a_directory_with_nothing_finished_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no finished run"):
        points_of_runs(tmp_path)
