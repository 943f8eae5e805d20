"""Shares in panels: where bars stand, and that a long title has room."""

from statistics import fmean

import pytest

from unmask.report.shares_figure import Bar, Panel, shares_figure

KINDS = [("mdm", "confidence"), ("mdm", "ancestral"), ("arm", "autoregressive")]


def figure(shape, title="solved"):
    bars = [Bar(objective, kind, 0.5, (0.4, 0.6), (0.5,)) for objective, kind in KINDS]
    return shares_figure([Panel(title, "solved", bars)], 1, shape=shape)


def test_bars_stand_evenly_about_the_name_of_their_objective():
    axes = figure("wide").axes[0]
    centres = [bar.get_x() + bar.get_width() / 2 for bar in axes.patches]
    assert fmean(centres[:2]) == pytest.approx(0)
    assert centres[2] == pytest.approx(1)


@pytest.mark.parametrize(("high", "top"), [(0.06, 0.1), (0.6, 1)])
def test_the_axis_ends_at_a_tenth_only_where_no_interval_goes_beyond(high, top):
    panels = [
        Panel(str(each), "solved", [Bar("mdm", "confidence", 0.02, (0.01, each), (0.02,))]) for each in (0.03, high)
    ]
    assert [axes.get_ylim()[1] for axes in shares_figure(panels, 2).axes] == [top, top]


@pytest.mark.parametrize("shape", ["wide", "narrow"])
def test_a_long_title_stays_inside_the_figure(shape):
    drawn = figure(shape, "countdown of 3 numbers up to 20, targets up to 100, from a file with a long name")
    drawn.draw_without_rendering()
    title = drawn.axes[0]._left_title
    assert title.get_window_extent().x1 <= drawn.bbox.x1
