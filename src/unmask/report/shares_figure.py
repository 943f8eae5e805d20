"""Shares in panels: a pair or more of bars for each objective, with intervals, and a dot for each run."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from unmask.scaling import series
from unmask.scaling.figure_style import LIGHT, Shape, Theme, color_of, mixed, new_figure, panels_of, rc_settings

import matplotlib as mpl  # isort: skip
from matplotlib.axes import Axes  # isort: skip
from matplotlib.figure import Figure  # isort: skip
from matplotlib.patches import Patch  # isort: skip
from matplotlib.ticker import PercentFormatter  # isort: skip

SHADES = (0.35, 1.0, 0.65)
"""How much of an objective's colour the bars of each kind have."""
WIDTH = 0.8
"""Of all bars of an objective, together."""
TITLE = 44
"""Characters of a title's line."""
FEW = 0.1
"""Where no interval ends above this share, the axis does."""


@dataclass(frozen=True)
class Bar:
    """One share."""

    objective: str
    kind: str
    """What it is one of, within the objective, such as "reversed"."""
    value: float
    ci95: Sequence[float]
    of_runs: Sequence[float]


@dataclass(frozen=True)
class Panel:
    """Bars that are compared."""

    title: str
    label: str
    """Of the axis."""
    bars: Sequence[Bar]
    chance: float | None = None


def shares_figure(panels: Sequence[Panel], columns: int, *, shape: Shape = "wide", theme: Theme = LIGHT) -> Figure:
    """The panels, in so many columns where there is room."""
    columns = columns if shape == "wide" else 1
    rows = -(-len(panels) // columns)
    size = (max(7.0, 4.6 * columns), 3.3 * rows + 0.3) if shape == "wide" else (4.6, 3.0 * rows + 0.4)
    kinds = list(dict.fromkeys(bar.kind for panel in panels for bar in panel.bars))
    highest = max([bar.ci95[1] for panel in panels for bar in panel.bars] + [panel.chance or 0.0 for panel in panels])
    with mpl.rc_context(cast(Any, rc_settings(theme, shape))):
        figure = new_figure(size)
        for number, (axes, panel) in enumerate(
            zip(panels_of(figure, len(panels), rows, columns, shape), panels, strict=True)
        ):
            _panel(axes, panel, kinds, theme)
            axes.set_ylim(0, FEW if highest < FEW else 1)
            if number % columns == 0:
                axes.set_ylabel(panel.label)
        if len(kinds) > 1:
            handles = [
                Patch(color=mixed(theme.paper, theme.ink, shade), label=kind)
                for kind, shade in zip(kinds, SHADES, strict=False)
            ]
            cast(Any, figure).legend(handles=handles, loc="outside lower center", ncols=len(kinds), frameon=False)
        return figure


def _panel(axes: Axes, panel: Panel, kinds: Sequence[str], theme: Theme) -> None:
    objectives = list(dict.fromkeys(bar.objective for bar in panel.bars))
    width = WIDTH / len(kinds)
    kinds_of = {
        objective: sorted({bar.kind for bar in panel.bars if bar.objective == objective}, key=kinds.index)
        for objective in objectives
    }
    for bar in panel.bars:
        beside = kinds_of[bar.objective]
        at = objectives.index(bar.objective) + (beside.index(bar.kind) - (len(beside) - 1) / 2) * width
        color = color_of(theme, bar.objective)
        shade = SHADES[kinds.index(bar.kind) % len(SHADES)] if len(kinds) > 1 else 1.0
        axes.bar(at, bar.value, width * 0.92, color=mixed(theme.paper, color, shade))
        low, high = bar.ci95
        axes.errorbar(
            at,
            bar.value,
            yerr=[[max(0.0, bar.value - low)], [max(0.0, high - bar.value)]],
            color=theme.ink,
            lw=1.1,
            capsize=3,
        )
        if len(bar.of_runs) > 1:
            spread = [at + width * 0.5 * (place / (len(bar.of_runs) - 1) - 0.5) for place in range(len(bar.of_runs))]
            axes.plot(spread, bar.of_runs, "o", ms=4, mfc=theme.paper, mec=theme.ink, mew=0.9, clip_on=False, zorder=3)
    if panel.chance is not None:
        axes.axhline(panel.chance, color=theme.faint, lw=1.1, ls=(0, (4, 3)))
        axes.annotate(
            "chance",
            (1, panel.chance),
            xycoords=("axes fraction", "data"),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=theme.faint,
        )
    axes.set_title(textwrap.fill(panel.title, TITLE), loc="left")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xticks(range(len(objectives)), [series.label(each) for each in objectives])
    axes.grid(visible=False, axis="x")
