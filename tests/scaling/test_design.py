from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from unmask import sizes
from unmask.errors import UsageError
from unmask.scaling.design import MINIMUM, Design, bracketing_sizes, expected_size, memory_bytes
from unmask.scaling.law_rows import rows_of_laws
from unmask.scaling.law_sources import paper
from unmask.scaling.plan import Plan
from unmask.scaling.timing import Measured, estimate, read, write

SMALL = ("33K", "131K", "307K")
LAW = (0.8, -0.05)
"""Exponents of the best size and the best loss."""


def law_rows(best, flops=1e12):
    """A law whose best size at a budget is `best`."""
    size = np.array([[math.log(best) - LAW[0] * math.log(flops), LAW[0]]])
    return rows_of_laws(size, np.array([[math.log(20), LAW[1]]]), np.zeros(1))


BASE = Design(budgets=(1e12, 4e12), sizes=SMALL, batch_size=8, length=64)


def test_the_chosen_sizes_bracket_the_minimum_that_the_law_expects():
    design = Design(budgets=(1e19, 1e20), batch_size=256, length=2048)
    runs = design.runs(paper().rows)
    for flops in design.budgets:
        for objective in design.objectives:
            chosen = [run.params for run in runs if (run.flops, run.objective) == (flops, objective)]
            best = expected_size(flops, objective, paper().rows)
            assert len(chosen) == 5
            assert min(chosen) < best / 2
            assert max(chosen) > best * 2
    # the paper's MDM is about half as large
    mdm, arm = (expected_size(1e20, name, paper().rows) for name in ("mdm", "arm"))
    assert mdm / arm == pytest.approx(0.5, abs=0.05)


def test_an_objective_without_a_law_goes_by_that_of_the_mdm():
    rows = paper().rows
    assert expected_size(1e19, "mlm", rows) == expected_size(1e19, "mdm", rows)
    assert expected_size(1e19, "mlm", None) is None


@pytest.mark.parametrize("expected", [1e5, 3e6, 1e9])
def test_bracketing_sizes_are_distinct_and_around_the_expected_one(expected):
    chosen = [sizes.lookup(name).params for name in bracketing_sizes(expected, 5, 4.0)]
    assert len(set(chosen)) == len(chosen) == 5
    assert min(chosen) < expected < max(chosen)


def test_steps_spend_the_budget_as_it_is_counted():
    for convention in ("6nd", "full"):
        design = dataclasses.replace(BASE, convention=convention, objectives=("mdm", "arm", "mlm"), vocab_size=512)
        for run in design.runs():
            per_token = design.flops_per_token(sizes.lookup(run.size), run.objective, 0.15)
            assert run.steps == int(run.flops / (per_token * 8 * 64))
            if convention == "6nd":
                assert per_token == 6 * run.params
            else:
                assert per_token > 6 * run.params


def test_rates_are_an_axis_of_objectives_that_mask_at_a_fixed_rate_alone():
    design = dataclasses.replace(BASE, budgets=(1e12,), objectives=("mdm", "mlm"), mask_rates=(0.15, 0.5))
    runs = design.runs()
    assert sorted({run.series for run in runs}) == ["mdm", "mlm@0.15", "mlm@0.5"]
    assert sum(run.series == "mdm" for run in runs) == 3
    assert {run.settings.get("mask_rate") for run in runs if run.objective == "mlm"} == {0.15, 0.5}


def test_seeds_rates_and_limits_of_data_make_runs_of_their_own_names():
    design = dataclasses.replace(
        BASE, seeds=(0, 1), learning_rates=(1e-3, 2e-3), unique_tokens=(10_000, 50_000), corpus_tokens=60_000
    )
    runs = design.runs()
    assert len(runs) == len({run.name for run in runs}) == 2 * 3 * 2 * 2 * 2 * 2
    assert {run.unique_tokens for run in runs} == {10_000, 50_000}
    assert all(run.settings["unique_tokens"] == run.unique_tokens for run in runs)
    Plan(runs)


def test_a_run_is_called_the_same_whatever_else_is_planned_with_it():
    both = {run.name for run in dataclasses.replace(BASE, seeds=(0, 1)).runs()}
    apart = {run.name for seed in (0, 1) for run in dataclasses.replace(BASE, seeds=(seed,)).runs()}
    assert both == apart
    assert {"mdm-1e12-33K", "mdm-1e12-33K-seed1"} < both


def test_sizes_that_a_study_has_already_count_for_a_budget():
    design = dataclasses.replace(BASE, objectives=("mdm",), planned=BASE.runs())
    (run,) = dataclasses.replace(design, budgets=(1e12,), sizes=("56K",)).runs()
    assert run.name == "mdm-1e12-56K"
    with pytest.raises(UsageError, match=r"mdm at 2e\+12 FLOPs: sizes 56K must be at least 3 different ones"):
        dataclasses.replace(design, budgets=(2e12,), sizes=("56K",)).runs()
    # what is trained on repeated tokens is no point of a parabola
    (run,) = dataclasses.replace(design, budgets=(2e12,), sizes=("56K",), unique_tokens=(50_000,)).runs()
    assert run.name == "mdm-2e12-56K-u50000"


def test_the_runs_nearest_to_the_minima_are_made_again_with_their_settings():
    settings = {"weight_decay": 0.3, "learning_rate": 0.01}
    made = dataclasses.replace(BASE, objectives=("arm", "mlm"), mask_rates=(0.5,), settings=settings).runs()
    # best N of 1e5 at 1e12 and 3e5 at 4e12 for the ARM, half of it for the MLM
    rows = {"arm": law_rows(1e5), "mlm@0.5": law_rows(5e4)}
    again = Design(
        budgets=(1e12, 4e12), objectives=("arm", "mlm"), mask_rates=(0.5,), sizes=(MINIMUM,), seeds=(1, 2), planned=made
    )
    runs = again.runs(rows)
    assert [run.name for run in runs if run.seed == 1] == [
        "arm-1e12-131K-seed1", "mlm@0.5-1e12-33K-seed1", "arm-4e12-307K-seed1", "mlm@0.5-4e12-131K-seed1",
    ]  # fmt: skip
    before = {run.name: run for run in made}
    for run in runs:
        assert dataclasses.replace(run, name="", seed=0) == dataclasses.replace(before[run.name[:-6]], name="")
    (run,) = dataclasses.replace(again, budgets=(1e12,), objectives=("arm",), seeds=(0,), unique_tokens=(70_000,)).runs(
        rows
    )
    assert run.settings == {**settings, "unique_tokens": 70_000}


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"objectives": ("mdm",)}, r"mdm at 1e\+12 FLOPs: the study has no runs of it: make such runs before --sizes"),
        ({"budgets": (3e12,)}, r"arm at 3e\+12 FLOPs: the study has no runs of it"),
        ({"sizes": (MINIMUM, "33K")}, "minimum stands alone"),
    ],
)
def test_runs_at_minima_that_a_study_does_not_have_are_refused(fields, told):
    made = dataclasses.replace(BASE, objectives=("arm",)).runs()
    again = dataclasses.replace(BASE, budgets=(1e12,), objectives=("arm",), sizes=(MINIMUM,), planned=made)
    with pytest.raises(UsageError, match=told):
        dataclasses.replace(again, **fields).runs({"arm": law_rows(1e5)})
    with pytest.raises(UsageError, match="the study has no fit of it"):
        again.runs({})


def test_the_whole_corpus_is_repeated_only_where_the_plan_says_so():
    with pytest.raises(UsageError, match=r"tokens are more than the 100000 of the corpus: allow repeats"):
        dataclasses.replace(BASE, corpus_tokens=100_000).runs()
    runs = dataclasses.replace(BASE, corpus_tokens=100_000, allow_repeats=True).runs()
    assert {run.unique_tokens for run in runs} == {100_000}
    assert max(run.tokens for run in runs) > 100_000


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"sizes": ("33K", "131K")}, "sizes 33K 131K must be at least 3 different ones"),
        ({"sizes": (), "sizes_per_budget": 2}, "sizes_per_budget 2 must be at least 3"),
        ({"sizes": ()}, "mdm at 1e.12 FLOPs: the best size is expected near .* named sizes lie below it"),
        ({"budgets": (1e6,)}, "0 steps are too few"),
        ({"settings": {"warmup_steps": 10**6}}, "no more than the warm-up of 1000000"),
        ({"objectives": ("mdn",)}, "unknown objective 'mdn': did you mean 'mdm'"),
        ({"budgets": ()}, "budgets .* must be positive"),
        ({"budgets": (1e12, 1e12)}, "must differ"),
        ({"convention": "7nd"}, "unknown FLOP convention '7nd'"),
        ({"span": 1.0}, "span 1.0 must be above 1"),
        ({"seeds": ()}, "no seed"),
        ({"mask_rates": (1.5,)}, "mask_rates"),
        ({"sizes": ("33K", "131K", "99Q")}, "unknown size '99Q'"),
        ({"unique_tokens": (10,)}, "unique_tokens 10 must hold a sequence of 64"),
        ({"unique_tokens": (1000,), "corpus_tokens": 500}, "are more than the 500 of the corpus"),
        ({"batch_size": 0, "settings": {}}, "batch_size"),
    ],
)
def test_a_plan_that_cannot_show_what_it_is_for_is_refused_in_one_line(fields, told):
    with pytest.raises(UsageError, match=told) as error:
        dataclasses.replace(BASE, **fields).runs(paper().rows)
    assert "\n" not in str(error.value)


def test_memory_grows_with_the_size_the_batch_and_the_vocabulary():
    size = sizes.lookup("170M")
    base = memory_bytes(size, vocab_size=32000, length=2048, rows=1)
    assert base > 16 * (size.params + 2 * 32000 * 768)
    assert memory_bytes(size, vocab_size=32000, length=2048, rows=8) > base
    assert memory_bytes(size, vocab_size=64000, length=2048, rows=1) > base


def test_times_follow_the_flops_between_what_was_measured(tmp_path):
    design = dataclasses.replace(BASE, objectives=("mdm",), settings={"validation_windows": 0})
    runs = design.runs()
    measured = [Measured("mdm", "33K", 8, 64, 0.01, 2.0), Measured("mdm", "307K", 8, 64, 0.05, 4.0)]
    seconds = estimate(runs, measured, 512)
    for run in runs:
        per_step = (seconds[run.name] - 3) / run.steps
        expected = {"33K": 0.01, "307K": 0.05}.get(run.size)
        assert expected is None or per_step == pytest.approx(expected)
        assert 0.00999 < per_step < 0.05001
    write(tmp_path, measured)
    assert read(tmp_path) == measured
    (tmp_path / "timing.json").write_text('{"machine": "another"}')
    assert read(tmp_path) == []
    assert estimate(runs, [Measured("arm", "33K", 8, 64, 0.01, 2.0)], 512) == {}


def test_a_measurement_in_which_the_larger_size_was_no_slower_gives_no_larger_size_less_time():
    runs = dataclasses.replace(BASE, objectives=("mdm",), budgets=(1e12,), settings={"validation_windows": 0}).runs()
    seconds = estimate(runs, [Measured("mdm", "33K", 8, 64, 0.02, 0), Measured("mdm", "307K", 8, 64, 0.01, 0)], 512)
    assert [seconds[run.name] / run.steps for run in runs] == pytest.approx([0.02] * 3)


def test_the_time_of_a_run_has_its_validation():
    with_it, without = (
        dataclasses.replace(BASE, objectives=("mdm",), settings=fields).runs()[0]
        for fields in ({"validation_windows": 48, "validation_draws": 2}, {"validation_windows": 0})
    )
    measured = [Measured("mdm", "33K", 8, 64, 0.02, 0)]
    extra = estimate([with_it], measured, 512)[with_it.name] - estimate([without], measured, 512)[without.name]
    assert extra == pytest.approx(48 * 2 / 8 / 3 * 0.02)
