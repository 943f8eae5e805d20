"""The figure of a frontier: seconds for a sample against quality, a panel for each batch size, with the Pareto line."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from unmask.scaling.figure_style import (
    LIGHT,
    Shape,
    Theme,
    legend_below,
    new_figure,
    panel_grid,
    panels_of,
    plain_log_ticks,
    rc_settings,
)
from unmask.scaling.figures import save_forms
from unmask.wording import counted

import matplotlib as mpl  # isort: skip
from matplotlib.axes import Axes  # isort: skip
from matplotlib.figure import Figure  # isort: skip

PALETTES = {
    "light": ("#0072b2", "#009e73", "#a8598a", "#b58900", "#56708f", "#2b8fc4", "#7a5195", "#5b8c2a", "#a0522d"),
    "dark": ("#56b4e9", "#35c69b", "#e0a3c8", "#e6c84a", "#a9bdd6", "#a8d4f0", "#c3a2e0", "#a7d36f", "#e3a27e"),
}
"""Of the samplers."""
MARKS = "os^Dv"
"""Of the guidance weights."""


def save_all(result: dict[str, Any], directory: Path) -> dict[str, str]:
    """Write the figure in every form; returns its files by variant ("wide-light", ..., "png")."""
    return save_forms(partial(frontier_figure, result), directory, "frontier")


def frontier_figure(result: dict[str, Any], *, shape: Shape = "wide", theme: Theme = LIGHT) -> Figure:
    """A panel for each batch size: each setting that was timed and has a gap, the ARM, and the Pareto line."""
    batches = cast("list[int]", result["batches"])
    columns, rows = panel_grid(len(batches), shape)
    size = (max(7.0, 4.8 * columns), 4.6 * rows) if shape == "wide" else (4.6, 4.0 * rows)
    samplers = list(dict.fromkeys(each["sampler"] for each in _drawn(result, "mdm")))
    colors = dict(zip(samplers, PALETTES[theme.name] * 2, strict=False))
    with mpl.rc_context(cast(Any, rc_settings(theme, shape))):
        figure = new_figure(size)
        panels = panels_of(figure, len(batches), rows, columns, shape)
        for place, (batch, panel) in enumerate(zip(batches, panels, strict=True)):
            _panel(panel, result, place, colors, theme)
            panel.set_title(f"{counted(batch, 'sample')} at a time", loc="left")
            panel.set_xlabel("seconds for a sample")
            if place % columns == 0:
                panel.set_ylabel("nats per token above the ARM\nat equal entropy")
        legend_below(figure, panels[0], 4 if shape == "wide" else 2)
        return figure


def _drawn(result: dict[str, Any], model: str) -> list[dict[str, Any]]:
    settings = cast("list[dict[str, Any]]", result["settings"])
    return [each for each in settings if each["model"] == model and each["timings"] and each["gap"] is not None]


def _panel(axes: Axes, result: dict[str, Any], place: int, colors: dict[str, str], theme: Theme) -> None:
    axes.set_xscale("log")
    axes.axhline(0, color=theme.objectives["arm"], lw=1, alpha=0.6)
    mdms = _drawn(result, "mdm")
    weights = sorted({each["guidance"] for each in mdms})
    seen: set[str] = set()
    for each in mdms:
        time = each["timings"][place]["seconds_per_sample"]
        name = each["sampler"] + (f", w={each['guidance']:g}" if each["guidance"] else "")
        axes.errorbar(
            time,
            each["gap"]["value"],
            yerr=each["gap"]["standard_error"],
            fmt=MARKS[weights.index(each["guidance"]) % len(MARKS)],
            ms=5,
            mew=0,
            lw=0.8,
            color=colors[each["sampler"]],
            label=None if name in seen else name,
        )
        seen.add(name)
    _draw_pareto(axes, mdms, place, theme)
    for each in _drawn(result, "arm"):
        time = each["timings"][place]["seconds_per_sample"]
        label = "ARM with its cache"
        axes.plot([time], [each["gap"]["value"]], "*", ms=13, mew=0, color=theme.objectives["arm"], label=label)
    plain_log_ticks(axes.xaxis)


def _draw_pareto(axes: Axes, mdms: Sequence[dict[str, Any]], place: int, theme: Theme) -> None:
    from unmask.evals.frontier import pareto

    times = [each["timings"][place]["seconds_per_sample"] for each in mdms]
    gaps = [each["gap"]["value"] for each in mdms]
    line = pareto(times, gaps)
    axes.plot([times[i] for i in line], [gaps[i] for i in line], "-", lw=1.3, color=theme.ink, alpha=0.7, zorder=1)
    for i in line:
        axes.annotate(
            f"{mdms[i]['network_calls']:.0f}",
            (times[i], gaps[i]),
            xytext=(5, 5),
            textcoords="offset points",
            fontsize=8.5,
            color=theme.faint,
        )
