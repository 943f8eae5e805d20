import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unmask.errors import UsageError
from unmask.evals import frontier
from unmask.evals.frontier import Measured, Timing
from unmask.evals.frontier_settings import Setting, grid, parse
from unmask.evals.reference_model import Likelihood
from unmask.generation import Cache

POINTS = st.lists(st.tuples(st.floats(0.1, 9), st.one_of(st.floats(-2, 2), st.just(math.nan))), min_size=1, max_size=9)


@settings(deadline=None)
@given(POINTS)
def test_the_pareto_line_has_the_points_that_none_beats_in_both(points):
    times, losses = zip(*points, strict=True)
    line = frontier.pareto(times, losses)
    for index, (time, loss) in enumerate(points):
        beaten = any(
            (t <= time and value <= loss and (t, value) != (time, loss)) for t, value in points if not math.isnan(value)
        )
        if not math.isnan(loss) and not beaten:
            assert any(points[i] == (time, loss) for i in line)
        if index in line:
            assert not math.isnan(loss)
            assert not beaten
    assert [times[i] for i in line] == sorted(times[i] for i in line)


def test_the_reaching_time_lies_between_the_points_around_the_crossing():
    times, gaps = np.array([1.0, 4.0, 2.0]), np.array([1.0, -1.0, math.nan])
    assert frontier.reaching_time(times, gaps) == pytest.approx(2.0)  # half way over log time
    assert frontier.reaching_time(np.array([3.0, 5.0]), np.array([-0.1, -1.0])) == 3.0
    assert frontier.reaching_time(np.array([3.0, 5.0]), np.array([0.1, 0.2])) is None
    assert frontier.reaching_time(np.array([3.0]), np.array([math.nan])) is None


def test_the_gap_is_to_the_arms_loss_at_the_same_entropy():
    losses, entropies = np.array([3.0, 1.0]), np.array([4.0, 2.0])
    assert frontier.gap_at_equal_entropy(2.5, 3.0, losses, entropies) == pytest.approx(0.5)
    assert frontier.gap_at_equal_entropy(3.5, 9.0, losses, entropies) == pytest.approx(0.5)
    assert math.isnan(frontier.gap_at_equal_entropy(0.1, 1.9, losses, entropies))


def made(model, sampler, losses, entropies, seconds, **fields):
    each = Measured(Setting(model, sampler, **fields), [], 8.0)
    each.likelihoods = [Likelihood(10 * loss, 10) for loss in losses]
    each.entropies = list(entropies)
    each.timings = [Timing(2, list(seconds))] if seconds else []
    return each


def test_a_speedup_is_the_arms_time_over_the_time_that_reaches_its_quality():
    spread = np.linspace(-0.1, 0.1, 20)
    arms = [
        made("arm", "autoregressive", 3 + spread, 4 + 0 * spread, [8.0, 8.2, 7.8]),
        made("arm", "autoregressive", 2 + spread, 3 + 0 * spread, [], temperature=0.5),
    ]
    fast = made("mdm", "ancestral", 4 + spread, 4 + 0 * spread, [1.0, 1.1, 0.9], steps=4)
    good = made("mdm", "ancestral", 2 + spread, 4 + 0 * spread, [4.0, 4.1, 3.9], steps=16)
    dull = made("mdm", "confidence", 0 + spread, 2 + 0 * spread, [0.5, 0.5, 0.5], steps=4)
    (found,) = frontier.speedups([fast, good, dull, *arms])
    assert found.ratio == pytest.approx(8 / 2, rel=1e-6)  # between 1 and 4 seconds
    assert found.ci95[0] < found.ratio < found.ci95[1]
    assert found.ci95[1] - found.ci95[0] < 1
    assert found.reached == 1
    assert (found.nearest, found.nearest_gap) == (good.setting.label, pytest.approx(-1))
    (found,) = frontier.speedups([fast, dull, *arms])
    assert (found.ratio, found.ci95, found.reached) == (None, (0, 0), 0)
    assert found.nearest_gap == pytest.approx(1)
    (found,) = frontier.speedups([dull, *arms])
    assert found.nearest_gap is None


def test_the_grid_has_every_combination_once():
    found = grid(["ancestral", "block:inner=margin"], [4, 8], [0.0, 0.5], [2, 4], [1.0])
    assert len(found) == 2 * 2 + 2 * 2 * 2
    assert len({setting.label for setting in found}) == len(found)
    assert found[0].label == "ancestral 4 steps"
    assert found[2].label == "ancestral 4 steps, w=0.5"
    assert found[-1].label == "block inner=margin, block_length=4, 8 steps, w=0.5"
    assert found[-1].arguments()["block_length"] == 4


def test_a_specification_has_a_sampler_its_options_and_a_cache():
    assert parse("threshold:confidence=0.9") == ("threshold", {"confidence": 0.9}, None)
    assert parse("block:inner=entropy,bound=0.5,block_length=8")[1] == {
        "inner": "entropy",
        "bound": 0.5,
        "block_length": 8,
    }
    assert parse("margin:cache=block,cache_refresh=4") == ("margin", {}, Cache("block", 4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["marginal"], [4]), "unknown sampler 'marginal': did you mean 'margin'"),
        ((["margin:bound=1"], [4]), "unknown option of margin 'bound'"),
        ((["margin:schedule"], [4]), "write options as option=value"),
        ((["margin"], [0]), "--steps 0"),
        ((["margin"], [4], [-1.0]), "--guidance -1"),
        ((["margin"], [4], [0.0], [], [-1.0]), "--temperatures -1"),
        ((["block"], [4], [0.0], [0]), "--block-lengths 0"),
        ((["margin", "margin"], [4]), "asked for twice"),
        (([], [4]), "name at least one"),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        grid(*arguments)


def test_a_setting_without_a_figure_does_not_hide_a_better_one_of_the_same_time():
    assert frontier.pareto([1.0, 1.0, 1.0], [1.0, math.nan, 0.0]) == [2]
