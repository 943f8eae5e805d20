"""What the same training loses on fewer distinct tokens: runs beside those that repeat less, and the figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from unmask.machine import set_up_environment
from unmask.scaling import numbers, series
from unmask.scaling.figure_style import LIGHT, Shape, Theme, color_of, new_figure, plain_number, rc_settings
from unmask.scaling.points import Point, epochs

set_up_environment()  # matplotlib looks for a directory that it can write to when it is imported

import matplotlib as mpl  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import FuncFormatter, NullFormatter  # noqa: E402

MARKS = "osD^v<>ph"


def against_freshest(points: Sequence[Point]) -> list[tuple[Point, list[Point]]]:
    """Runs that differ only in how many distinct tokens they repeat, by epochs, after the one that repeats least.

    Runs that differ in their seed alone are one point with the mean of their losses.
    """
    groups: dict[tuple[object, ...], dict[float, list[Point]]] = {}
    for point in points:
        key = (point.objective, point.flops, point.params)
        groups.setdefault(key, {}).setdefault(round(epochs(point), 3), []).append(point)
    found: list[tuple[Point, list[Point]]] = []
    for by_epochs in groups.values():
        if len(by_epochs) > 1:
            means = [_mean(by_epochs[count]) for count in sorted(by_epochs)]
            found.append((means[0], means))
    return found


def repeats_figure(points: Sequence[Point], *, shape: Shape = "wide", theme: Theme = LIGHT) -> Figure:
    """Loss over that of the freshest run against epochs, a line for each objective, size and budget."""
    with mpl.rc_context(cast(Any, rc_settings(theme, shape))):
        figure = new_figure((8.6, 4.4) if shape == "wide" else (4.6, 4.2))
        axes = cast(Axes, cast(Any, figure).subplots())
        axes.set_xscale("log")
        axes.axhline(0, color=theme.faint, lw=1)
        groups = against_freshest(points)
        sizes = sorted({(first.params, first.flops) for first, _ in groups})
        for first, group in groups:
            mark = MARKS[sizes.index((first.params, first.flops)) % len(MARKS)]
            told = f"{series.label(first.objective)}, N = {numbers.round_count(first.params)}, C = {first.flops:.2g}"
            axes.plot(
                [epochs(point) for point in group],
                [point.loss - first.loss for point in group],
                marker=mark,
                ms=5.5,
                lw=1.5,
                mew=0,
                color=color_of(theme, first.objective),
                label=told,
            )
        axes.set_xlabel("times that the data was seen (epochs)")
        axes.set_ylabel("loss over that on the most distinct tokens (nats)")
        axes.xaxis.set_major_formatter(FuncFormatter(plain_number))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.legend(frameon=False, fontsize="small")
        return figure


def _mean(points: Sequence[Point]) -> Point:
    return replace(points[0], loss=math.fsum(point.loss for point in points) / len(points))
