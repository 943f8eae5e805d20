"""Intervals over seeds and items."""

import numpy as np
import pytest

from unmask.evals import resampling


def test_wilson_is_that_of_scipy():
    from scipy import stats

    for right, items in ((0, 40), (7, 30), (30, 30)):
        expected = stats.binomtest(right, items).proportion_ci(method="wilson")
        assert resampling.wilson(right / items, items) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_independent_items_of_one_run_have_wilsons_interval():
    right = [number % 4 == 0 for number in range(400)]
    found = resampling.share([right], [range(400)], shared=True)
    assert (found.value, found.of_runs) == (0.25, [0.25])
    assert found.ci95 == pytest.approx(resampling.wilson(0.25, 400), abs=5e-3)


def test_items_that_go_together_count_as_one():
    right = [person % 2 == 0 for person in range(20) for _ in range(10)]
    people = [person for person in range(20) for _ in range(10)]
    found = resampling.share([right], [people], shared=True)
    assert found.ci95 == pytest.approx(resampling.wilson(0.5, 20), abs=0.02)


@pytest.mark.parametrize(("shared", "people"), [(True, 10), (False, 30)])
def test_none_right_is_told_as_none_of_so_many_people(shared, people):
    clusters = [[person for person in range(10) for _ in range(4)]] * 3
    found = resampling.share([[False] * 40] * 3, clusters, shared=shared)
    assert found.ci95 == pytest.approx(resampling.wilson(0, people))


def test_what_differs_between_runs_widens_the_interval():
    same = resampling.share([[True, False] * 50] * 4, [range(100)] * 4, shared=False)
    differing = resampling.share([[True] * 100, [False] * 100] * 2, [range(100)] * 4, shared=False)
    assert same.value == differing.value == 0.5
    assert differing.ci95[1] - differing.ci95[0] > 3 * (same.ci95[1] - same.ci95[0])


def test_runs_that_were_asked_the_same_items_share_the_draw():
    # items differ, runs do not: more runs of the same items tell nothing more
    right = [[number < 5 for number in range(10)]] * 8
    clusters = [range(10)] * 8
    widths = [np.ptp(resampling.share(right, clusters, shared=shared).ci95) for shared in (True, False)]
    assert widths[0] > 2 * widths[1]


def test_a_figure_of_sums_has_the_bootstraps_interval():
    sums = [resampling.by_cluster([[value, 1.0] for value in (0, 1, 2, 3)], "aabb")] * 2
    assert sums[0].tolist() == [[1, 2], [5, 2]]
    found = resampling.figure(sums, lambda sums_F: float(sums_F[0] / sums_F[1]), shared=False)
    assert found.value == 1.5
    assert (found.ci95[0], found.ci95[1]) == (0.5, 2.5)
    assert found == resampling.figure(sums, lambda sums_F: float(sums_F[0] / sums_F[1]), shared=False)


def test_draws_are_the_same_for_all_figures_so_that_differences_are_paired():
    rng = np.random.default_rng(0)
    theirs = np.stack([rng.normal(size=40), np.ones(40)], axis=1)
    ours = theirs + np.array([0.5, 0.0])
    draws = resampling.Draws(40, seed=3, resamples=500)
    values = [over / under for over, under in (draws.sums(each).T for each in (ours, theirs))]
    assert values[0][0] == pytest.approx(ours[:, 0].mean())
    assert values[0] - values[1] == pytest.approx(0.5)
    low, high = draws.interval(values[1])
    assert low < theirs[:, 0].mean() < high
    assert high - low == pytest.approx(2 * resampling.Z * theirs[:, 0].std() / 40**0.5, rel=0.15)


def test_one_cluster_or_no_number_at_all_has_no_interval():
    draws = resampling.Draws(1, seed=0, resamples=20)
    assert draws.interval(draws.sums(np.array([[3.0]])).T[0]) is None
    assert draws.interval(np.full(21, np.nan)) is None
    assert draws.interval(np.array([1.0, np.nan, 1.0, 3.0])) == pytest.approx((1.05, 2.95))
