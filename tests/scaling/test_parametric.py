from __future__ import annotations

import csv
import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

from synthetic_law import BUDGETS, Law
from unmask.errors import UsageError
from unmask.scaling import fit_parametric
from unmask.scaling.bootstrap import in_chunks, resample_weights
from unmask.scaling.huber import LogHuber
from unmask.scaling.parametric_law import optimum_laws
from unmask.scaling.points import Point
from unmask.scaling.varpro import VariableProjection

CHINCHILLA = Path(__file__).parents[2] / "../shared/reference/scaling/chinchilla.csv"
PUBLISHED_CI95 = {  # Besiroglu et al. (2024)
    "A": (285, 744),
    "B": (1042, 5810),
    "E": (1.769, 1.871),
    "alpha": (0.317, 0.373),
    "beta": (0.331, 0.415),
}
LAW = Law()


@pytest.fixture(scope="module")
def chinchilla() -> list[Point]:
    if not CHINCHILLA.exists():
        pytest.skip("the runs read off the figures of Hoffmann et al. are in ../shared, which is absent")
    with CHINCHILLA.open() as file:
        rows = sorted(csv.DictReader(file), key=lambda row: float(row["loss"]))
    points: list[Point] = []
    for row in rows[:-5]:  # the five highest losses are left out, as in the replication
        flops, params = float(row["Training FLOP"]), float(row["Model Size"])
        points.append(Point("arm", flops, params, flops / (6 * params), float(row["loss"])))
    assert len(points) == 240
    return points


@pytest.fixture(scope="module")
def replication(chinchilla):
    return fit_parametric(chinchilla, bootstrap=1000).objectives["arm"]


def test_the_published_replication_is_matched_in_objective_parameters_and_intervals(replication):
    assert replication.value <= 0.0010185
    for name, (low, high) in PUBLISHED_CI95.items():
        assert low < getattr(replication, name) < high
        mine = replication.ci95[name]
        assert mine is not None
        shared = min(mine[1], high) - max(mine[0], low)
        assert shared > 0.8 * (high - low), (name, mine)
    assert not replication.notes


def test_the_original_papers_parameters_score_what_the_replication_says(chinchilla):
    problem = LogHuber(chinchilla)
    original = problem.centred(math.exp(0.5267228), math.exp(6.0073404), 0.33917084, math.exp(6.0179186), 0.2849083)
    assert problem.value(original[None])[0] == pytest.approx(0.00123126, rel=0.01)


def test_variable_projection_agrees_with_the_published_replication(chinchilla, replication):
    projected = fit_parametric(chinchilla, bootstrap=200, solver="varpro").objectives["arm"]
    for name, (low, high) in PUBLISHED_CI95.items():
        ours = projected.ci95[name]
        assert ours is not None
        assert ours[0] < getattr(replication, name) < ours[1]
        assert low < getattr(projected, name) < high
        assert replication.cross_check[name] == pytest.approx(getattr(projected, name), rel=1e-3)
        assert projected.cross_check[name] == pytest.approx(getattr(replication, name), rel=1e-3)


@pytest.mark.parametrize("solver", ["huber", "varpro"])
def test_without_noise_the_law_is_found_exactly(solver):
    fit = fit_parametric(LAW.points(), bootstrap=0, solver=solver)
    found = fit.objectives["arm"]
    for name, value in dataclasses.asdict(LAW).items():
        assert getattr(found, name) == pytest.approx(value, rel=1e-3)
    for flops in BUDGETS:
        best = LAW.best_params(flops)
        assert found.params_law.predict(flops) == pytest.approx(best, rel=1e-3)
        assert found.tokens_law.predict(flops) == pytest.approx(flops / (6 * best), rel=1e-3)
        assert found.loss_law.predict(flops) == pytest.approx(LAW.loss(best, flops / (6 * best)), rel=1e-4)
    assert found.left_out_error < 1e-4


def test_the_gradient_and_the_hessian_are_those_of_the_objective():
    problem = LogHuber(LAW.points(noise=0.003))
    weights = np.random.default_rng(0).random((1, len(problem.y_P)))
    theta = problem.centred(1.7, 500, 0.36, 2000, 0.36)
    _, gradient, hessian = problem.evaluate(theta[None], weights)
    for k in range(5):
        shift = np.zeros(5)
        shift[k] = 1e-6
        above, below = (problem.evaluate((theta + sign * shift)[None], weights) for sign in (1, -1))
        assert (above[0] - below[0]) / 2e-6 == pytest.approx(gradient[:, k], rel=1e-4)
        assert (above[1] - below[1]) / 2e-6 == pytest.approx(hessian[:, k], rel=1e-3, abs=1e-7)


def test_the_projected_gradient_is_that_of_the_projected_objective():
    projection = VariableProjection(LogHuber(LAW.points(noise=0.003)))
    weights = np.random.default_rng(0).random((1, len(projection.inverse_P)))
    exponents = np.array([0.3, 0.4])
    _, gradient, _ = projection._project(exponents[None], weights)
    for k in range(2):
        shift = np.zeros(2)
        shift[k] = 1e-5
        above, below = (projection._project((exponents + sign * shift)[None], weights)[0] for sign in (1, -1))
        assert (above - below) / 2e-5 == pytest.approx(gradient[:, k], rel=1e-3)


def test_resamples_solved_at_once_from_the_full_fit_end_where_a_search_from_the_grid_ends():
    points = LAW.points(noise=0.005)
    problem = LogHuber(points)
    best, _ = problem.fit()
    weights = resample_weights(len(points), 5, np.random.default_rng(1))
    together = problem.refine(np.repeat(best[None], 5, axis=0), weights)
    for row in range(5):
        drawn = [point for point, times in zip(points, weights[row], strict=True) for _ in range(int(times))]
        alone = LogHuber(drawn)
        _, value = alone.fit()
        assert together.objective_R[row] == pytest.approx(value, rel=1e-6)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    studies, resamples = 120, 200
    truth = np.array([LAW.E, math.log(LAW.A), LAW.alpha, math.log(LAW.B), LAW.beta])
    inside = np.zeros(8)
    for seed in range(studies):
        points = LAW.points(noise=0.005, seed=seed)
        problem = LogHuber(points)
        start = problem.centred(LAW.E, LAW.A, LAW.alpha, LAW.B, LAW.beta)
        best = problem.refine(start[None], np.ones((1, len(points)))).theta_RK
        weights = resample_weights(len(points), resamples, np.random.default_rng(seed))
        draws = problem.natural(problem.refine(np.repeat(best, resamples, axis=0), weights).theta_RK)
        laws = optimum_laws(draws)
        exponents = [laws[what][:, 1] for what in ("params", "tokens", "loss")]
        low, high = np.percentile(np.column_stack([draws, *exponents]), [2.5, 97.5], axis=0)
        truths = np.array([*truth, LAW.size_exponent, 1 - LAW.size_exponent, LAW.loss_exponent])
        inside += (low <= truths) & (truths <= high)
    # of 120 draws of a 95% interval, three standard errors are 6 points
    assert (inside / studies > 0.89).all(), inside / studies
    assert (inside / studies).mean() < 0.995


def test_the_same_seed_gives_the_same_intervals_with_any_number_of_workers_and_whatever_is_fitted_beside():
    points = [*LAW.points("mdm", noise=0.005, seed=1), *LAW.points("arm", noise=0.005, seed=2)]
    first = fit_parametric(points, bootstrap=250, seed=3, workers=1).to_dict()
    assert first == fit_parametric(points, bootstrap=250, seed=3, workers=3).to_dict()
    alone = fit_parametric(points[: len(points) // 2], bootstrap=250, seed=3).to_dict()
    assert alone["objectives"]["mdm"] == first["objectives"]["mdm"]
    assert fit_parametric(points, bootstrap=250, seed=4).to_dict() != first


def test_chunks_come_back_in_order():
    weights = np.arange(450.0)[:, None]
    assert np.concatenate(in_chunks(lambda chunk: chunk[:, 0], weights, workers=4)).tolist() == list(range(450))


def test_two_laws_have_a_gap_a_ratio_of_sizes_and_tests_of_their_exponents():
    slower = dataclasses.replace(LAW, A=LAW.A * 1.3, B=LAW.B * 1.3)
    points = [*slower.points("mdm", noise=0.003, seed=1), *LAW.points("arm", noise=0.003, seed=2)]
    fit = fit_parametric(points, bootstrap=300, losses=[2.4])
    gap = fit.compute_gap
    assert gap is not None
    # at equal loss both terms must shrink by 1.3
    expected = 1.3 ** (-1 / LAW.loss_exponent)
    assert gap.gaps[0] == pytest.approx(expected, rel=0.1)
    assert gap.gaps_ci95[0] is not None
    assert gap.gaps_ci95[0][0] < expected < gap.gaps_ci95[0][1]
    assert gap.params_ratio == pytest.approx([1, 1], abs=0.2)
    assert [test.law for test in fit.tests] == ["params", "tokens", "loss"]
    assert not any(test.differ for test in fit.tests)


def test_exponents_that_differ_are_told_apart():
    steeper = dataclasses.replace(LAW, alpha=0.5, A=LAW.A * 20)
    points = [*steeper.points("mdm", noise=0.002), *LAW.points("arm", noise=0.002, seed=1)]
    tests = {test.law: test for test in fit_parametric(points, bootstrap=300).tests}
    assert tests["params"].differ
    assert tests["params"].p_value < 0.02
    assert tests["params"].difference < 0


def test_noise_without_a_trend_is_said_to_support_nothing():
    rng = np.random.default_rng(0)
    points = [dataclasses.replace(p, loss=3 * math.exp(0.05 * rng.standard_normal())) for p in LAW.points()]
    notes = " ".join(fit_parametric(points, bootstrap=200).objectives["arm"].notes)
    assert "do not support an exponent" in notes


def test_the_result_is_plain_json_with_the_agreed_names():
    fit = fit_parametric(LAW.points(noise=0.005), bootstrap=100)
    found = json.loads(json.dumps(fit.to_dict(), allow_nan=False))
    law = found["objectives"]["arm"]
    for name in ("E", "A", "alpha", "B", "beta"):
        assert law[name]["ci95"][0] < law[name]["value"] < law[name]["ci95"][1]
    assert law["objective"] == fit.objectives["arm"].value


@pytest.mark.parametrize(
    ("points", "told"),
    [
        (LAW.points(budgets=[1e18], sizes=5), "arm has 5 runs: five parameters take at least 6"),
        (LAW.points(sizes=2, budgets=[1e18] * 3), "repeats"),
        (
            [Point("arm", 6e15 * k, 1e6 * (1 + k % 2), 1e9 * k / (1 + k % 2), 3 + 0.01 * k) for k in range(1, 9)],
            "arm has 2 different sizes",
        ),
    ],
)
def test_too_few_runs_are_refused(points, told):
    with pytest.raises(UsageError, match=told):
        fit_parametric(points)


def test_an_objective_with_too_few_runs_is_named_and_the_others_are_fitted():
    few = [dataclasses.replace(point, objective="mdm") for point in LAW.points()[:3]]
    fit = fit_parametric([*LAW.points(), *few], bootstrap=0)
    assert list(fit.objectives) == ["arm"]
    assert fit.points == len(LAW.points())
    assert fit.unfit == {"mdm": "mdm has 3 runs: five parameters take at least 6; add runs"}
    assert fit.to_dict()["unfit"] == fit.unfit


def test_runs_that_repeat_their_data_are_left_to_the_law_of_repeats():
    points = LAW.points()
    worn = [dataclasses.replace(point, loss=point.loss + 5, unique_tokens=point.tokens / 50) for point in points[:4]]
    fit, alone = fit_parametric([*points, *worn], bootstrap=0), fit_parametric(points, bootstrap=0)
    law = fit.objectives["arm"]
    assert (law.E, law.A, law.B) == (alone.objectives["arm"].E, alone.objectives["arm"].A, alone.objectives["arm"].B)
    assert "4 runs that repeat their data are left out: --method repeated is for those." in law.notes
