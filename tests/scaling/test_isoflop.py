from __future__ import annotations

import csv
import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

import synthetic_study as synthetic
from unmask.errors import UsageError
from unmask.scaling import fit_isoflop
from unmask.scaling.isoflop import residuals
from unmask.scaling.points import Point

BUDGETS = [1e12, 3e12, 1e13, 3e13, 1e14]
DIGITISED = Path(__file__).parents[2] / "../shared/reference/scaling/smdm_figure2_digitised.csv"


@pytest.fixture(scope="module")
def paper() -> list[Point]:
    if not DIGITISED.exists():
        pytest.skip("the minima read off the paper's figure are in ../shared, which is absent")
    with DIGITISED.open() as file:
        return [
            Point(
                row["family"].lower(),
                flops=float(row["C_flops"]),
                params=1e6 * float(row["N_star_M_digitised"]),
                tokens=1e9 * float(row["D_star_B=C/6N"]),
                loss=float(row["L_star_nats_digitised"]),
            )
            for row in csv.DictReader(file)
        ]


def test_the_papers_minima_give_its_exponents_and_intervals(paper):
    fit = fit_isoflop(paper)
    expected = {"arm": (-0.0642, (-0.068, -0.061), 0.642, 0.358), "mdm": (-0.0625, (-0.065, -0.060), 0.629, 0.371)}
    for name, (loss, loss_ci95, params, tokens) in expected.items():
        found = fit.objectives[name]
        assert found.loss_law is not None
        assert found.params_law is not None
        assert found.tokens_law is not None
        assert found.loss_law.exponent == pytest.approx(loss, abs=0.001)
        assert found.loss_law.exponent_ci95 == pytest.approx(loss_ci95, abs=0.001)
        assert found.params_law.exponent == pytest.approx(params, abs=0.001)
        assert found.tokens_law.exponent == pytest.approx(tokens, abs=0.001)
    assert math.log(fit.objectives["arm"].loss_law.coefficient) == pytest.approx(3.822, abs=0.002)
    assert math.log(fit.objectives["mdm"].loss_law.coefficient) == pytest.approx(3.916, abs=0.002)


def test_the_papers_minima_give_its_compute_gap_and_slopes_that_cannot_be_told_apart(paper):
    gap = fit_isoflop(paper, losses=[3.2, 2.76, 2.5]).compute_gap
    assert gap is not None
    assert (gap.objective, gap.baseline) == ("mdm", "arm")
    assert gap.gaps == pytest.approx([14.6, 15.5, 16.1], rel=0.02)
    for value, ends in zip(gap.gaps, gap.gaps_ci95, strict=True):
        assert ends is not None
        assert ends[0] < value < ends[1] < 1.5 * value
    low, high = gap.exponent_difference_ci95
    assert low < 0 < high
    assert np.mean(gap.params_ratio) == pytest.approx(0.5, abs=0.05)


def test_without_noise_minima_and_exponents_are_exact():
    fit = fit_isoflop(synthetic.points(BUDGETS), losses=[4.5])
    for name, law in synthetic.LAWS.items():
        found = fit.objectives[name]
        for minimum in found.minima:
            assert minimum.params == pytest.approx(law.best_params(minimum.flops), rel=1e-6)
            assert minimum.loss == pytest.approx(law.floor(minimum.flops), rel=1e-9)
            assert 6 * minimum.params * minimum.tokens == pytest.approx(minimum.flops, rel=1e-6)
        assert found.params_law.exponent == pytest.approx(law.params_exponent, abs=1e-7)
        assert found.tokens_law.exponent == pytest.approx(1 - law.params_exponent, abs=1e-7)
        assert found.loss_law.exponent == pytest.approx(law.loss_exponent, abs=1e-9)
        assert found.loss_law.coefficient == pytest.approx(law.loss_coefficient, rel=1e-6)
    at = {n: (4.5 / law.loss_coefficient) ** (1 / law.loss_exponent) for n, law in synthetic.LAWS.items()}
    assert fit.compute_gap.gaps == pytest.approx([at["mdm"] / at["arm"]])


@pytest.mark.parametrize(("sizes", "repeats", "noise_from"), [(5, 1, "residuals"), (4, 2, "repeats")])
def test_intervals_cover_the_truth_about_as_often_as_they_say(sizes, repeats, noise_from):
    studies, inside, total = 120, np.zeros(4), 0
    for seed in range(studies):
        points = synthetic.points(BUDGETS, sizes=sizes, repeats=repeats, noise=0.01, seed=seed)
        fit = fit_isoflop(points, bootstrap=300, seed=seed)
        for name, law in synthetic.LAWS.items():
            found = fit.objectives[name]
            assert found.noise == noise_from
            truths = [
                (found.params_law.exponent_ci95, law.params_exponent),
                (found.loss_law.exponent_ci95, law.loss_exponent),
                (found.params_law.exponent_ci95_t, law.params_exponent),
                (found.loss_law.exponent_ci95_t, law.loss_exponent),
            ]
            inside += [low <= truth <= high for (low, high), truth in truths]
            total += 1
    # 240 draws of a 95% interval: three standard errors are 4.2 points
    assert (inside / total > 0.905).all(), inside / total
    assert (inside / total < 0.995).all(), inside / total


def test_a_study_as_small_as_the_demo_says_how_little_it_knows():
    fit = fit_isoflop(synthetic.points([1e12, 4e12, 1.6e13], sizes=4, noise=0.01))
    found = fit.objectives["mdm"]
    assert found.loss_law.degrees_of_freedom == 1
    assert found.noise_degrees_of_freedom == 3
    assert any("1 degree of freedom" in note for note in found.notes)
    low, high = found.loss_law.exponent_ci95_t
    assert high - low > 0.01


def test_two_budgets_have_no_t_interval_and_are_called_unsupported():
    found = fit_isoflop(synthetic.points([1e12, 1e13], noise=0.01)).objectives["arm"]
    assert found.loss_law.exponent_ci95_t is None
    assert found.loss_law.exponent_ci95 is not None
    assert any("not supported" in note for note in found.notes)


def test_three_sizes_a_budget_say_nothing_of_the_noise():
    found = fit_isoflop(synthetic.points(BUDGETS, sizes=3, noise=0.01)).objectives["mdm"]
    assert found.noise is None
    assert all(minimum.params_ci95 is None for minimum in found.minima)
    assert found.loss_law.interval == "t"
    assert any("nothing is known of the noise" in note for note in found.notes)


def test_a_minimum_outside_the_sizes_is_flagged_and_left_out_unless_asked_for():
    law = synthetic.LAWS["mdm"]
    kept = [
        point
        for point in synthetic.points(BUDGETS, sizes=9, laws={"mdm": law})
        if point.flops != 1e13 or point.params > 1.3 * law.best_params(1e13)
    ]
    found = fit_isoflop(kept).objectives["mdm"]
    assert [minimum.flag for minimum in found.minima] == [None, None, "outside", None, None]
    assert found.loss_law.degrees_of_freedom == 2
    assert any("outside the sizes" in note for note in found.notes)
    assert fit_isoflop(kept, edge="keep").objectives["mdm"].loss_law.degrees_of_freedom == 3


def test_a_parabola_that_opens_downward_has_no_minimum():
    points = [
        dataclasses.replace(point, loss=10 - point.loss) if point.flops == 1e12 else point
        for point in synthetic.points(BUDGETS)
    ]
    minimum = fit_isoflop(points).objectives["mdm"].minima[0]
    assert (minimum.flag, minimum.params, minimum.loss) == ("no minimum", None, None)


def test_one_budget_is_refused():
    with pytest.raises(UsageError, match=r"points: only one budget \(1e\+12 FLOPs\)"):
        fit_isoflop(synthetic.points([1e12]))


def test_two_sizes_are_refused():
    with pytest.raises(UsageError, match="no budget has three sizes"):
        fit_isoflop(synthetic.points(BUDGETS, sizes=2))


def test_the_same_seed_gives_the_same_intervals_whatever_is_fitted_beside():
    points = synthetic.points(BUDGETS, noise=0.01)
    first = fit_isoflop(points, seed=3).to_dict()
    assert first == fit_isoflop(points, seed=3).to_dict()
    assert first != fit_isoflop(points, seed=4).to_dict()
    alone = fit_isoflop([point for point in points if point.objective == "arm"], seed=3).to_dict()
    assert alone["objectives"]["arm"] == first["objectives"]["arm"]
    assert alone["compute_gap"] is None


def test_the_result_is_plain_json_with_the_agreed_names():
    found = json.loads(json.dumps(fit_isoflop(synthetic.points(BUDGETS, noise=0.01)).to_dict(), allow_nan=False))
    for each in found["objectives"].values():
        assert {"flops", "params", "params_ci95", "tokens", "loss"} <= each["minima"][0].keys()
        for law in ("params_law", "tokens_law", "loss_law"):
            assert {"coefficient", "exponent", "exponent_ci95"} <= each[law].keys()
    assert {"loss", "gap", "gap_ci95"} == found["compute_gap"]["curve"][0].keys()


def test_a_loss_that_does_not_fall_has_no_gap():
    rising = {name: dataclasses.replace(law, loss_exponent=0.01) for name, law in synthetic.LAWS.items()}
    fit = fit_isoflop(synthetic.points(BUDGETS, laws=rising, noise=0.001))
    assert fit.compute_gap is None
    json.dumps(fit.to_dict(), allow_nan=False)


def test_without_resamples_the_t_intervals_remain():
    found = fit_isoflop(synthetic.points(BUDGETS, noise=0.01), bootstrap=0).objectives["mdm"]
    assert found.loss_law.exponent_ci95 == found.loss_law.exponent_ci95_t
    assert found.minima[0].params_ci95 is None


def test_each_amount_of_data_has_laws_of_its_own_compared_on_the_same_amount():
    points = synthetic.points(BUDGETS, noise=0.005)
    scarce = [
        dataclasses.replace(point, loss=point.loss + 0.2, unique_tokens=1e5)
        for point in synthetic.points(BUDGETS, noise=0.005, seed=1)
    ]
    whole = [dataclasses.replace(point, unique_tokens=1e12) for point in points]
    fit = fit_isoflop([*whole, *scarce], bootstrap=100)
    assert list(fit.objectives) == [
        "mdm",
        "arm",
        "mdm@u100000",
        "arm@u100000",
    ]
    assert [(gap.objective, gap.baseline) for gap in fit.gaps] == [
        ("mdm", "arm"),
        ("mdm@u100000", "arm@u100000"),
    ]
    # the laws of one amount are those of its points alone
    alone = fit_isoflop(points, bootstrap=0).objectives["mdm"]
    assert fit.objectives["mdm"].loss_law.exponent == pytest.approx(alone.loss_law.exponent)
    assert {point.objective for point, _ in residuals([*whole, *scarce], fit)} == set(fit.objectives)


def test_some_runs_on_limited_data_do_not_touch_the_laws_of_new_data():
    whole = [dataclasses.replace(point, unique_tokens=1e12) for point in synthetic.points(BUDGETS, noise=0.005)]
    some = [dataclasses.replace(point, loss=point.loss + 0.2, unique_tokens=1e5) for point in whole[:2]]
    assert fit_isoflop([*whole, *some], bootstrap=50).objectives == fit_isoflop(whole, bootstrap=50).objectives


def test_many_budgets_that_are_left_out_are_counted_and_not_listed():
    budgets = [1e12 * 2**step for step in range(12)]
    fit = fit_isoflop([*synthetic.points([1e10, 1e11, 4e11], sizes=5), *synthetic.points(budgets, sizes=2)])
    notes = fit.objectives["mdm"].notes
    assert "12 budgets from 1e+12 to 2.05e+15 FLOPs are left out of the laws: fewer than three sizes." in notes
