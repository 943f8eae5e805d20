"""The figure of MT-Bench answers."""

from itertools import combinations

import pytest

from unmask.report.mtbench_figure import mtbench_figure
from unmask.scaling.figure_style import DARK, LIGHT


def figure_of(value):
    return {"value": value, "ci95": [0.9 * value, 1.1 * value]}


def answers(model, kind, label, seconds, perplexity):
    figures = {"seconds": figure_of(seconds), "perplexity": figure_of(perplexity)}
    return {"model": model, "kind": kind, "label": label, "groups": [figures]}


MODELS = [
    answers("chat-arm", "arm", "", 0.9, 80),
    answers("other-arm", "arm", "T=1", 1.0, 80),
    answers("third-arm", "arm", "", 12, 4),
    answers("chat-mdm", "mdm", "block, 8 steps", 0.9, 400),
    answers("chat-mdm", "mdm", "block, 16 steps", 1.1, 390),
    answers("chat-mdm", "mdm", "block, 48 steps", 1.2, 380),
    answers("other-mdm", "mdm", "block, 48 steps", 1.2, 390),
]
RESULT = {
    "measure": "perplexity",
    "judge": None,
    "reference": "smollm2",
    "models": {str(number): each for number, each in enumerate(MODELS)},
}


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_models_of_one_kind_have_colours_and_marks_of_their_own(theme):
    axes = mtbench_figure(RESULT, theme=theme).axes[0]
    drawn = [container.lines[0] for container in axes.containers]
    assert len(drawn) == 5
    assert len({str(line.get_color()) for line in drawn}) == 5
    assert len({line.get_marker() for line in drawn}) == 5


@pytest.mark.parametrize("shape", ["wide", "narrow"])
def test_no_label_covers_a_mark_or_another_label_and_all_are_inside(shape):
    figure = mtbench_figure(RESULT, shape=shape)
    axes, renderer = figure.axes[0], figure.canvas.get_renderer()
    notes = [note.get_window_extent(renderer) for note in axes.texts]
    assert sorted(note.get_text() for note in axes.texts) == sorted(each["label"] for each in MODELS if each["label"])
    assert not any(one.overlaps(other) for one, other in combinations(notes, 2))
    marks = axes.transData.transform([(each["groups"][0]["seconds"]["value"], each["groups"][0]["perplexity"]["value"])
                                      for each in MODELS])  # fmt: skip
    assert not any(note.contains(*mark) for note in notes for mark in marks)
    frame = axes.get_window_extent(renderer)
    assert all(frame.contains(note.x0, note.y0) and frame.contains(note.x1, note.y1) for note in notes)


def test_perplexities_are_drawn_on_a_logarithmic_axis_with_plain_numbers():
    axes = mtbench_figure(RESULT).axes[0]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert {"5", "10", "100", "200"} <= {label.get_text() for label in axes.get_yticklabels()}
    near = {**RESULT, "models": {str(number): each for number, each in enumerate(MODELS[3:])}}
    ticks = [label.get_text() for label in mtbench_figure(near).axes[0].get_yticklabels() if label.get_text()]
    assert len(ticks) >= 3
    assert all("e" not in tick and "$" not in tick for tick in ticks)
