"""Held-out text under models, the temporal experiment and the samples of a study, on two runs of a few steps."""

from __future__ import annotations

import dataclasses

import pytest
from tests.train.runs import tiny_run, write_corpus

import synthetic_study as synthetic
from unmask import records
from unmask.data.source import Corpus
from unmask.evals import held_out
from unmask.evals import study as evals
from unmask.evals.held_out import Windows
from unmask.language_model import load
from unmask.scaling.plan import Plan
from unmask.scaling.study import run_study
from unmask.train.loop import train


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return Corpus.open(write_corpus(tmp_path_factory.mktemp("corpus"), "bpe:300"))


@pytest.fixture(scope="module")
def models(corpus, tmp_path_factory):
    place = tmp_path_factory.mktemp("runs")
    for objective in ("mdm", "arm"):
        for _ in train(tiny_run(corpus.directory, objective=objective), place / objective):
            pass
    return {objective: (load(place / objective, "cpu"), place / objective) for objective in ("mdm", "arm")}


@pytest.mark.parametrize("objective", ["mdm", "arm"])
def test_held_out_text_costs_what_the_validation_of_the_training_says(objective, models, corpus):
    lm, place = models[objective]
    source = corpus.split("valid")
    windows = Windows.of(source, 16, source.split.bytes / source.split.tokens, 10)
    seen = []
    found = held_out.measure(lm, windows, draws=2, on_window=lambda done, total: seen.append((done, total)))
    end = next(record for record in records.read(place / "metrics.jsonl") if record["kind"] == "end")
    for name in ("loss", "standard_error", "bits_per_byte"):
        assert getattr(found, name) == pytest.approx(end[name], rel=1e-5)
    assert found.bound == end["bound"] == (objective == "mdm")
    assert (found.windows, found.tokens) == (10, 160)
    assert seen == [(10, 10)]


def test_the_temporal_experiment_shows_all_models_the_same_windows(models, corpus):
    seen = []
    rows = evals.temporal(
        {f"run-{name}": lm for name, (lm, _) in models.items()},
        corpus,
        {"valid": "in-period", "train": "shifted"},
        length=16,
        windows=20,
        on_window=lambda done, total: seen.append((done, total)),
    )
    assert [(row.objective, row.run, row.split, row.bound) for row in rows] == [
        ("mdm", "run-mdm", "in-period", True),
        ("mdm", "run-mdm", "shifted", True),
        ("arm", "run-arm", "in-period", False),
        ("arm", "run-arm", "shifted", False),
    ]
    assert all(row.tokens == 320 and row.standard_error > 0 for row in rows)
    assert seen[-1] == (80, 80)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_the_best_run_of_each_objective_is_the_lowest_of_its_largest_budget(tmp_path):
    plan = synthetic.plan()
    study = run_study(plan, tmp_path, lambda run, place: synthetic.write_run(place, run))
    best = evals.best_runs(study)
    assert [run.plan.objective for run in best] == ["mdm", "arm"]
    for run in best:
        rivals = [each for each in study.finished if each.plan.objective == run.plan.objective]
        assert run.plan.flops == max(each.plan.flops for each in rivals)
        assert run.end["loss"] == min(each.end["loss"] for each in rivals if each.plan.flops == run.plan.flops)
    only_mdm = Plan(tuple(run for run in plan.runs if run.objective == "mdm"))
    (tmp_path / "one").mkdir()
    assert len(evals.best_runs(run_study(only_mdm, tmp_path / "one", lambda r, p: synthetic.write_run(p, r)))) == 1


def test_a_sample_ends_at_its_first_new_end_of_text_and_marks_what_was_given(models):
    lm, _ = models["mdm"]
    generation = lm.generate("the state", max_new_tokens=6, seed=0)
    given = len(lm.tokenizer.encode("the state"))
    eos_id = lm.tokenizer.eos_id
    tokens = [*generation.tokens[:given], *[token % 200 + 60 for token in generation.tokens[given:]]]
    tokens[given + 3] = eos_id
    ended = dataclasses.replace(generation, tokens=tokens)
    told = {"run": "r", "title": "t", "sampler": "s"}
    shown = evals.sample(lm, ended, kind="generated", **told)
    assert len(shown.tokens) == given + 3
    assert [token.step for token in shown.tokens[:given]] == [None] * given
    assert [token.step for token in shown.tokens[given:]] == generation.reveal_steps[given : given + 3]
    assert "".join(token.text for token in shown.tokens) == lm.tokenizer.decode(tokens[: given + 3])
    whole = evals.sample(lm, ended, kind="infilled", **told)
    assert len(whole.tokens) == len(tokens)
