"""The figure of MT-Bench answers: seconds for an answer against the judge's score, or against perplexity instead."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

from unmask.report.placed_labels import place_labels
from unmask.scaling.figure_style import (
    LIGHT,
    Shape,
    Theme,
    legend_below,
    mixed,
    new_figure,
    plain_log_ticks,
    rc_settings,
)
from unmask.scaling.figures import save_forms

import matplotlib as mpl  # isort: skip
from matplotlib.figure import Figure  # isort: skip

MARKS = {"arm": "*PXp", "mdm": "os^Dv"}
"""Of the models of a kind, in turn."""
SHADES = (1.0, 0.5, 0.65)
"""Of the models of a kind, in turn: how much of the kind's colour, the second with ink, the third with paper."""


def save_all(result: dict[str, Any], directory: Path) -> dict[str, str]:
    """Write the figure in every form; returns its files by variant ("wide-light", ..., "png")."""
    return save_forms(partial(mtbench_figure, result), directory, "mt-bench")


def mtbench_figure(result: dict[str, Any], *, shape: Shape = "wide", theme: Theme = LIGHT) -> Figure:
    """Every setting with its intervals; the settings of one model are joined by a line."""
    measure = result["measure"]
    with mpl.rc_context(cast(Any, rc_settings(theme, shape))):
        figure = new_figure((7.6, 4.8) if shape == "wide" else (4.6, 4.4))
        axes = cast(Any, figure).subplots()
        axes.set_xscale("log")
        axes.set_xlabel("seconds for an answer")
        if measure == "score":
            axes.set_ylabel(f"score by {result['judge']}")
        else:
            axes.set_yscale("log")
            axes.set_ylabel(f"perplexity under {result['reference']},\nno score")
        labels: list[tuple[float, float, str]] = []
        bars: list[tuple[tuple[float, float], tuple[float, float]]] = []
        of_kind: dict[str, int] = {}
        for model, points in _lines(result).items():
            kind = points[0][1]["kind"]
            number = of_kind[kind] = of_kind.get(kind, -1) + 1
            color, mark = _look(kind, number, theme)
            seconds = [figures["seconds"]["value"] for _, _, figures in points]
            values = [figures[measure]["value"] for _, _, figures in points]
            across, along = (_bars([figures[name] for _, _, figures in points]) for name in ("seconds", measure))
            axes.plot(seconds, values, "-", lw=1.2, color=color, alpha=0.5, zorder=1)
            axes.errorbar(
                seconds,
                values,
                xerr=across,
                yerr=along,
                fmt=mark,
                ms=13 if mark == "*" else 8 if mark in MARKS["arm"] else 6,
                mew=0,
                lw=0.9,
                ls="none",
                color=color,
                label=f"{model} ({kind.upper()})",
            )
            spots = list(zip(seconds, values, strict=True))
            for place, (x, y) in enumerate(spots):
                labels.append((x, y, points[place][1]["label"]))
                bars.append(((x - across[0][place], y), (x + across[1][place], y)))
                bars.append(((x, y - along[0][place]), (x, y + along[1][place])))
            bars += pairwise(spots)
        if axes.get_legend_handles_labels()[0]:
            legend_below(figure, axes, 3 if shape == "wide" else 1)
            plain_log_ticks(axes.xaxis)
            if measure != "score":
                plain_log_ticks(axes.yaxis)
            place_labels(axes, labels, color=theme.faint, bars=bars)
        return figure


def _look(kind: str, number: int, theme: Theme) -> tuple[Any, str]:
    """Colour and mark of a model, by its number among those of its kind: shades of one colour one can tell apart."""
    color, marks = theme.objectives.get(kind, theme.ink), MARKS.get(kind, MARKS["mdm"])
    shade = number % len(SHADES)
    return mixed(theme.ink if shade == 1 else theme.paper, color, SHADES[shade]), marks[number % len(marks)]


def _lines(result: dict[str, Any]) -> dict[str, list[tuple[str, dict[str, Any], dict[str, Any]]]]:
    """The settings that have seconds and a figure, by model, the fastest first."""
    found: dict[str, list[tuple[str, dict[str, Any], dict[str, Any]]]] = {}
    for model_id, about in cast("dict[str, dict[str, Any]]", result["models"]).items():
        figures = about["groups"][0]
        if about["model"] is not None and "seconds" in figures and result["measure"] in figures:
            found.setdefault(about["model"], []).append((model_id, about, figures))
    for points in found.values():
        points.sort(key=lambda point: point[2]["seconds"]["value"])
    return found


def _bars(figures: list[dict[str, Any]]) -> list[list[float]]:
    """Lengths below and above; 0 where there is no interval."""
    below, above = list[float](), list[float]()
    for figure in figures:
        low, high = figure["ci95"] or (figure["value"], figure["value"])
        below.append(max(0.0, figure["value"] - low))
        above.append(max(0.0, high - figure["value"]))
    return [below, above]
