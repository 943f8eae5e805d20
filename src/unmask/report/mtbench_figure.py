"""The figure of MT-Bench answers: seconds for an answer against the judge's score, or against perplexity instead."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, cast

from unmask.scaling.figure_style import LIGHT, Shape, Theme, new_figure, plain_number, rc_settings
from unmask.scaling.figures import save_forms

import matplotlib as mpl  # isort: skip
from matplotlib.figure import Figure  # isort: skip
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter  # isort: skip

MARKS = "os^Dv"
"""Of the masked models."""


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
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(plain_number))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("seconds for an answer")
        axes.set_ylabel(
            f"score by {result['judge']}" if measure == "score" else f"perplexity under {result['reference']}, no score"
        )
        for number, (model, points) in enumerate(_lines(result).items()):
            kind = points[0][1]["kind"]
            color = theme.objectives.get(kind, theme.ink)
            seconds = [figures["seconds"]["value"] for _, _, figures in points]
            values = [figures[measure]["value"] for _, _, figures in points]
            axes.plot(seconds, values, "-", lw=1.2, color=color, alpha=0.5, zorder=1)
            axes.errorbar(
                seconds,
                values,
                xerr=_bars([figures["seconds"] for _, _, figures in points]),
                yerr=_bars([figures[measure] for _, _, figures in points]),
                fmt="*" if kind == "arm" else MARKS[number % len(MARKS)],
                ms=13 if kind == "arm" else 6,
                mew=0,
                lw=0.9,
                ls="none",
                color=color,
                label=f"{model} ({kind.upper()})",
            )
            for (_, about, _), x, y in zip(points, seconds, values, strict=True):
                axes.annotate(
                    about["label"], (x, y), xytext=(6, 6), textcoords="offset points", fontsize=8.5, color=theme.faint
                )
        if axes.get_legend_handles_labels()[0]:
            cast(Any, figure).legend(
                loc="outside lower center", ncols=3 if shape == "wide" else 1, frameon=False, fontsize=9
            )
        return figure


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
