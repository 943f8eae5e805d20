"""Whole studies from the command line, with real trainings of some steps."""

from __future__ import annotations

import dataclasses
import json

import pytest

from packed_files import lit_gpt
from train.runs import write_corpus
from unmask import cli, machine
from unmask.data.source import Corpus
from unmask.errors import UnmaskError
from unmask.scaling import timing
from unmask.scaling.plan import Plan
from unmask.scaling.study import Study
from unmask.train.loop import train

SHAPE = ["--batch-size", "4", "--length", "16", "--no-measure"]
QUICK = ["--set", "validation_windows=8", "learning_rate=0.003", "tensorboard=false"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("study"))


def planned(study, corpus, *arguments, budgets=("1.4e8",), sizes=("8K", "16K", "33K"), objectives=("mdm",)):
    words = ["scaling", "plan", str(study), "--data", str(corpus), "--flops", *budgets, "--sizes", *sizes]
    return cli.main([*words, "--objectives", *objectives, *SHAPE, *arguments])


def test_a_study_is_planned_run_extended_fitted_and_reported(corpus, tmp_path, capsys):
    study = tmp_path / "study"
    assert planned(study, corpus, *QUICK) == 0
    table = capsys.readouterr().out
    assert "mdm-1.4e08-33K" in table
    assert "3 runs, 4.2e+08 FLOPs." in table
    assert f"Next: unmask scaling run {study}" in table

    assert cli.main(["scaling", "run", str(study)]) == 0
    shown = capsys.readouterr()
    assert shown.out == f"3 finished, 0 failed, 0 to go. Next: unmask scaling report {study}\n"
    assert shown.err.count("started") == 3
    assert "[3/3]" in shown.err

    # a budget later runs only what is new, and of that what was not trained by other means
    assert planned(study, corpus, *QUICK, budgets=("1.4e8", "2.8e8")) == 0
    table = capsys.readouterr().out
    assert "mdm-1.4e08-33K" not in table
    assert "3 runs more, which stay as they are" in table
    plan = Plan.read(study)
    for run in plan.runs[4:]:
        assert list(train(run.run_config(plan.data), study / "runs" / run.name))[-1]["kind"] == "end"
    assert len(Study.open(study).finished) == 5
    assert cli.main(["scaling", "run", str(study), "--json"]) == 0
    outcome = json.loads(capsys.readouterr().out)
    assert len(outcome["finished"]) == 6
    assert outcome["failed"] == outcome["pending"] == []
    assert "6 finished" in run_again(study, capsys)

    assert cli.main(["scaling", "fit", str(study), "--bootstrap", "20", "--json", "-"]) == 0
    fitted = json.loads(capsys.readouterr().out)
    assert fitted["points"] == 6
    assert fitted["flop_convention"] == "6nd"
    assert cli.main(["scaling", "report", str(study), "--bootstrap", "20"]) == 0
    page = (study / "report" / "index.html").read_text()
    assert f"unmask scaling run {study}" in page
    lines = (study / "report" / "tables" / "runs.csv").read_text().splitlines()
    assert len(lines) == 7


def test_a_study_on_token_files_is_that_on_the_prepared_corpus(corpus, tmp_path, capsys):
    files = tmp_path / "files"
    for split in ("train", "valid"):
        lit_gpt(files / f"{split}_0.bin", Corpus.open(corpus).split(split)[:].tolist())
    assert planned(tmp_path / "none", files) == 2
    assert f"{files}: token files do not bring their tokenizer: give --tokenizer" in capsys.readouterr().err
    assert planned(tmp_path / "files", files, *QUICK, "--tokenizer", "bytes") == 0
    plan = Plan.read(tmp_path / "files")
    Plan(plan.runs[:1], data=plan.data).write(tmp_path / "files")
    assert cli.main(["scaling", "run", str(tmp_path / "files")]) == 0
    (found,) = Study.open(tmp_path / "files").finished
    expected = dataclasses.replace(plan.runs[0].run_config(str(corpus)), tokenizer="")
    assert found.end["loss"] == pytest.approx(list(train(expected, tmp_path / "prepared"))[-1]["loss"], rel=1e-6)
    # what is added is in the same tokens
    assert (
        planned(
            tmp_path / "files",
            files,
            *QUICK,
        )
        == 0
    )
    assert [run.settings["tokenizer"] for run in Plan.read(tmp_path / "files").runs] == ["bytes"] * 3
    capsys.readouterr()
    assert planned(tmp_path / "files", files, "--tokenizer", "mistral") == 2
    assert "--tokenizer mistral: " in capsys.readouterr().err
    assert planned(tmp_path / "other", corpus, "--tokenizer", "bytes") == 2
    assert f"tokenizer 'bytes': {corpus} has its own: leave it out" in capsys.readouterr().err
    (files / "valid_0.bin").unlink()
    assert planned(tmp_path / "short", files, "--tokenizer", "bytes", "--length", "256") == 2
    assert "'valid' has 1" in capsys.readouterr().err
    lit_gpt(files / "train_0.bin", [1] * 99)
    assert planned(tmp_path / "short", files, "--tokenizer", "bytes") == 2
    assert f"--data {files}: holds no text out as 'valid': add files called valid_..." in capsys.readouterr().err


def run_again(study, capsys):
    assert cli.main(["scaling", "run", str(study)]) == 0
    shown = capsys.readouterr()
    assert "started" not in shown.err
    return shown.out


def test_runs_that_fail_are_named_with_their_reason_and_left_alone_when_they_have_failed_often_enough(
    corpus, tmp_path, capsys
):
    study = tmp_path / "study"
    # two steps in a row with a rate like this are not finite
    assert planned(study, corpus, "--set", "validation_windows=8", "learning_rate=1e38", "tensorboard=false") == 0
    plan = Plan.read(study)
    Plan(plan.runs[2:], data=plan.data).write(study)
    assert cli.main(["scaling", "run", str(study), "--attempts", "1"]) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert f"{study}: 1 of 1 runs failed, first mdm-1.4e08-33K: " in told
    assert "lower the rate" in told or "not finite" in told or "lower --learning-rate" in told
    assert cli.main(["scaling", "run", str(study), "--attempts", "1"]) == 1
    assert "started" not in capsys.readouterr().err


def test_a_dry_run_prints_and_writes_nothing(corpus, tmp_path, capsys):
    assert planned(tmp_path / "study", corpus, "--dry-run", objectives=("mdm", "mlm")) == 0
    assert "Nothing was written" in capsys.readouterr().out
    assert not (tmp_path / "study").exists()
    assert planned(tmp_path / "study", corpus, "--dry-run", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["runs"]) == 3


def test_rates_of_a_study_follow_width_and_depth_unless_it_says_otherwise(corpus, tmp_path, capsys):
    def settings(study):
        return [dict(run.settings) for run in Plan.read(study).runs]

    completep = {"parametrization": "completep", "base_size": "33K", "learning_rate": 0.004}
    assert planned(tmp_path / "plain", corpus) == 0
    assert settings(tmp_path / "plain") == [completep] * 3
    assert "follow width and depth from 0.004 at 33K" in capsys.readouterr().out
    assert planned(tmp_path / "both", corpus, objectives=("mdm", "arm")) == 0
    assert {run.objective: run.settings["learning_rate"] for run in Plan.read(tmp_path / "both").runs} == {
        "mdm": 0.004,
        "arm": 0.016,
    }
    assert "from 0.004 (MDM) and 0.016 (ARM) at 33K" in capsys.readouterr().out
    assert planned(tmp_path / "rate", corpus, "--learning-rates", "0.02") == 0
    assert settings(tmp_path / "rate") == [{**completep, "learning_rate": 0.02}] * 3
    assert planned(tmp_path / "one", corpus, "--set", "parametrization=standard") == 0
    assert settings(tmp_path / "one") == [{"parametrization": "standard"}] * 3
    assert "One learning rate for all sizes: the recipe's." in capsys.readouterr().out
    # a head that is tied cannot scale apart from the embedding
    assert planned(tmp_path / "tied", corpus, "--set", "tied_embeddings=true") == 0
    assert settings(tmp_path / "tied") == [{"tied_embeddings": True}] * 3


def test_what_is_added_to_a_study_has_the_rates_of_its_runs(corpus, tmp_path, capsys):
    own = ("--set", "parametrization=completep", "base_size=16K", "learning_rate=0.004")
    for name, arguments in (("own", own), ("before", ("--set", "parametrization=standard"))):
        study = tmp_path / name
        assert planned(study, corpus, *arguments) == 0
        assert planned(study, corpus, budgets=("2.8e8",)) == 0
        first, *others = Plan.read(study).runs
        assert len(others) == 5
        assert all(run.settings == first.settings for run in others)


def test_a_run_of_two_processes_is_made_by_torchrun_and_ends_as_with_one(corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(machine, "usable_cores", lambda: 2)
    study = tmp_path / "study"
    assert planned(study, corpus, *QUICK, objectives=("arm",)) == 0
    plan = Plan.read(study)
    Plan(plan.runs[:1], data=plan.data).write(study)
    assert cli.main(["scaling", "run", str(study), "--processes", "2"]) == 0
    assert "1 finished, 0 failed" in capsys.readouterr().out
    (run,) = Study.open(study).finished
    assert run.start["processes"] == 2
    (*_, alone) = train(plan.runs[0].run_config(plan.data), tmp_path / "alone")
    assert run.end["loss"] == pytest.approx(alone["loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--set", "validation_windows=0"], "--set validation_windows=0: a study needs the held-out loss"),
        (["--set", "size=8K"], "--set size=8K: must be a field and its value, such as weight_decay=0.1"),
        (["--set", "weight_dcay=1"], "unknown field of --set 'weight_dcay': did you mean 'weight_decay'?"),
        (["--set", "clip=much"], "--set clip=much: 'much' is no value for clip (default 1.0)"),
        (["--set", "validation_split=test"], "holds no text out as 'test'"),
        (["--unique-tokens", "99999999"], "unique_tokens 99999999 are more than the"),
        (["--flops", "1e6"], "0 steps are too few"),
        (["--law", "absent.json"], "absent.json: cannot be read"),
    ],
)
def test_a_plan_that_cannot_be_is_one_line(corpus, tmp_path, capsys, arguments, told):
    assert planned(tmp_path / "study", corpus, *arguments) == 2
    err = capsys.readouterr().err
    assert told in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "study").exists()


def test_planning_otherwise_what_is_there_already_is_refused(corpus, tmp_path, capsys):
    study = tmp_path / "study"
    assert planned(study, corpus, budgets=("5e8",)) == 0
    for arguments, told in (
        (["--convention", "full"], "counts FLOPs as 6nd: keep to it"),
        (["--set", "clip=0.5"], "was planned otherwise: keep to it"),
    ):
        assert planned(study, corpus, *arguments, budgets=("5e8",)) == 2
        assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--jobs", "-1"], "--jobs -1 must be at least 0"),
        (["--attempts", "0"], "--attempts 0 must be at least 1"),
        (["--processes", "999"], "with 999 processes each are more than the"),
        (["--gpus", "0", "--processes", "2"], "--processes 2 are more than the 1 GPUs"),
        (["--executor", "submitit", "--slurm", "timeout"], "--slurm timeout: must be a name and a value"),
    ],
)
def test_a_run_that_cannot_be_is_one_line(corpus, tmp_path, capsys, arguments, told):
    study = tmp_path / "study"
    assert planned(study, corpus) == 0
    capsys.readouterr()
    assert cli.main(["scaling", "run", str(study), *arguments]) == 2
    err = capsys.readouterr().err
    assert told in err
    assert len(err.splitlines()) == 1


def test_a_study_of_another_version_is_one_line(corpus, tmp_path, capsys):
    study = tmp_path / "study"
    assert planned(study, corpus) == 0
    path = study / "study.json"
    path.write_text(path.read_text().replace("unmask-study-1", "unmask-study-9"))
    for command in ("run", "report", "fit"):
        capsys.readouterr()
        assert cli.main(["scaling", command, str(study)]) == 1
        assert "format 'unmask-study-9' is not 'unmask-study-1'" in capsys.readouterr().err


def test_a_step_is_measured_by_a_short_training(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(timing, "MEASURED_STEPS", 9)
    monkeypatch.setattr(timing, "WARM_STEPS", 2)
    assert planned(tmp_path, corpus) == 0
    plan = Plan.read(tmp_path)
    begun = []
    (measured,) = timing.measure(Plan(plan.runs[:1], data=plan.data), begun.append)
    assert begun == [plan.runs[0]]
    assert (measured.objective, measured.size, measured.length) == ("mdm", "8K", 16)
    assert 0 < measured.seconds_per_step < measured.start_seconds


def test_a_step_that_cannot_be_measured_says_why(corpus, tmp_path):
    assert planned(tmp_path, corpus) == 0
    plan = Plan.read(tmp_path)
    with pytest.raises(UnmaskError, match=r"measuring 8K mdm: absent.*--no-measure"):
        timing.measure(Plan(plan.runs[:1], data="absent"))
