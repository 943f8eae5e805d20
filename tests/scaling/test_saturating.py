from __future__ import annotations

import numpy as np
import pytest

import synthetic_study as synthetic
from unmask.scaling import fit_isoflop
from unmask.scaling.isoflop import residuals
from unmask.scaling.saturating import fit_saturating_law

FLOPS = np.geomspace(1e18, 1e22, 6)


@pytest.mark.parametrize(("floor", "scale", "exponent"), [(1.7, 2.0, -0.15), (0.0, 3.0, -0.06), (2e6, 1e8, 0.5)])
def test_without_noise_the_law_is_found_exactly(floor, scale, exponent):
    values = floor + scale * (FLOPS / 1e20) ** exponent
    law = fit_saturating_law(FLOPS, values, None, 1 if exponent > 0 else -1)
    assert law.exponent == pytest.approx(exponent, rel=1e-3)
    assert law.irreducible == pytest.approx(floor, rel=1e-3, abs=1e-3)
    assert law.predict(FLOPS) == pytest.approx(values, rel=1e-6)
    assert law.inverse(values) == pytest.approx(FLOPS, rel=1e-3)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    truth = 1.7 + 2.0 * (FLOPS / 1e20) ** -0.15
    studies, inside = 200, np.zeros(2)
    for _ in range(studies):
        seen = truth * np.exp(0.002 * rng.standard_normal(6))
        draws = seen * np.exp(0.002 * rng.standard_normal((200, 6)))
        law = fit_saturating_law(FLOPS, seen, draws, -1)
        for k, (interval, value) in enumerate(((law.exponent_ci95, -0.15), (law.irreducible_ci95, 1.7))):
            inside[k] += interval[0] <= value <= interval[1]
    # of 200 draws of a 95% interval, three standard errors are 4.6 points
    assert (inside / studies > 0.90).all(), inside / studies


def test_three_budgets_cannot_have_an_irreducible_term():
    assert fit_saturating_law(FLOPS[:3], FLOPS[:3] ** -0.1, None, -1) is None
    found = fit_isoflop(synthetic.points([1e12, 4e12, 1.6e13], noise=0.01)).objectives["mdm"]
    assert found.loss_law_irreducible is None
    assert len(found.left_out) == 3
    assert all(each.loss_error_irreducible is None for each in found.left_out)


def test_a_resample_far_out_of_scale_gets_no_floor_and_no_overflow():
    flops = np.geomspace(1e12, 1e16, 5)
    values = 2 + 30 * flops**-0.1
    wild = np.array([1e-9, 1e30, 1e31, 1e32, 1e33])
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        law = fit_saturating_law(flops, values, np.stack([values] * 30 + [wild]), -1)
    assert law.irreducible == pytest.approx(2, rel=1e-3)
    assert law.irreducible_draws_R[:-1] == pytest.approx(2, rel=1e-3)
    assert law.irreducible_draws_R[-1] < 1


def test_left_out_budgets_of_a_plain_power_law_are_predicted_exactly():
    for each in fit_isoflop(synthetic.points(list(FLOPS[:5] / 1e6))).objectives["arm"].left_out:
        assert each.loss_error == pytest.approx(0, abs=1e-6)
        assert each.params_error == pytest.approx(0, abs=1e-6)
        assert each.loss_error_irreducible == pytest.approx(0, abs=1e-4)


def test_of_a_law_with_a_floor_the_plain_one_underestimates_the_largest_budget():
    law = synthetic.Law(30.0, -0.08, 1.0, 0.6)
    points = [
        type(p)(p.objective, p.flops, p.params, p.tokens, p.loss + 2.0)
        for p in synthetic.points([1e12, 1e13, 1e14, 1e15, 1e16], laws={"arm": law})
    ]
    found = fit_isoflop(points).objectives["arm"]
    assert found.left_out[-1].loss_error < -0.005
    assert abs(found.left_out[-1].loss_error_irreducible) < 1e-3
    assert found.loss_law_irreducible.irreducible == pytest.approx(2.0, rel=0.01)


def test_residuals_are_the_noise_of_the_runs():
    points = synthetic.points([1e12, 4e12, 1.6e13], sizes=9, noise=0.01)
    fit = fit_isoflop(points)
    found = residuals(points, fit)
    assert {point for point, _ in found} == set(points)
    assert np.std([value for _, value in found]) == pytest.approx(
        0.01 * (6 / 9) ** 0.5, rel=0.3
    )  # three of nine are spent on the parabola
    assert residuals(synthetic.points([1e12, 4e12, 1.6e13]), fit_isoflop(synthetic.points([1e12, 4e12, 1.6e13])))[0][
        1
    ] == pytest.approx(0, abs=1e-9)


def test_sizes_that_do_not_bracket_well_are_said_to_support_no_exponent_of_size():
    flat = {"mdm": synthetic.Law(5.6 * 1e12**0.0625, -0.0625, 1.5e5 / 1e12**0.629, 0.629, curvature=0.0004)}
    points = synthetic.points([1e12, 3e12, 1e13], noise=0.01, laws=flat, seed=1)
    notes = " ".join(fit_isoflop(points, edge="keep").objectives["mdm"].notes)
    assert "do not support an exponent of the best size" in notes or "usable" in notes
