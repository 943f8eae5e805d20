"""The figure of the temporal experiment: what each model's tokens cost in both periods, and the differences."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, cast

from unmask.report.evaluation import IN_PERIOD, SHIFTED
from unmask.scaling import series
from unmask.scaling.figure_style import LIGHT, Shape, Theme, color_of, legend_below, new_figure, rc_settings
from unmask.scaling.figures import save_forms

import matplotlib as mpl  # isort: skip
from matplotlib.axes import Axes  # isort: skip
from matplotlib.figure import Figure  # isort: skip

MARKS = "osD^v"
"""Of the models of one objective."""


def save_all(result: dict[str, Any], directory: Path) -> dict[str, str]:
    """Write the figure in every form; returns its files by variant ("wide-light", ..., "png")."""
    return save_forms(partial(temporal_figure, result), directory, "temporal")


def temporal_figure(result: dict[str, Any], *, shape: Shape = "wide", theme: Theme = LIGHT) -> Figure:
    """Left: nats per token in both periods. Right: how many more the later one costs."""
    models = cast("list[dict[str, Any]]", result["models"])
    rows, columns, size = (1, 2, (9.4, 4.2)) if shape == "wide" else (2, 1, (4.6, 7.2))
    with mpl.rc_context(cast(Any, rc_settings(theme, shape))):
        figure = new_figure(size)
        losses, worse = cast("tuple[Axes, Axes]", tuple(cast(Any, figure).subplots(rows, columns).flat))
        _losses(losses, models, theme)
        _degradations(worse, models, theme)
        legend_below(figure, losses, len(models) if shape == "wide" else 2)
        return figure


def label(model: dict[str, Any]) -> str:
    """MDM, 16x compute."""
    return f"{series.label(model['objective'])}, {model['factor']:g}x"


def _marks(models: list[dict[str, Any]]) -> list[str]:
    kinds = [model["objective"] for model in models]
    return [MARKS[kinds[:place].count(kind) % len(MARKS)] for place, kind in enumerate(kinds)]


def _losses(axes: Axes, models: list[dict[str, Any]], theme: Theme) -> None:
    for place, (model, mark) in enumerate(zip(models, _marks(models), strict=True)):
        figures = [model["loss"][period] for period in (IN_PERIOD, SHIFTED)]
        at = [number + 0.05 * (place - (len(models) - 1) / 2) for number in (0, 1)]
        axes.errorbar(
            at,
            [each["value"] for each in figures],
            yerr=[each["standard_error"] or 0.0 for each in figures],
            marker=mark,
            ms=6,
            mew=0,
            lw=1.4,
            color=color_of(theme, model["objective"]),
            label=label(model) + (" (bound)" if model["bound"] else ""),
        )
    axes.set_xticks([0, 1], ["same period", "later"])
    axes.set_xlim(-0.35, 1.35)
    axes.set_ylabel("nats per token")
    axes.set_title("What a token costs", loc="left")


def _degradations(axes: Axes, models: list[dict[str, Any]], theme: Theme) -> None:
    for place, (model, mark) in enumerate(zip(models, _marks(models), strict=True)):
        figure = model["degradation"]
        low, high = figure["ci95"] or (figure["value"], figure["value"])
        axes.errorbar(
            [figure["value"]],
            [place],
            xerr=[[figure["value"] - low], [high - figure["value"]]],
            fmt=mark,
            ms=7,
            mew=0,
            lw=1.4,
            capsize=3,
            color=color_of(theme, model["objective"]),
        )
    axes.axvline(0, color=theme.faint, lw=1, alpha=0.6)
    axes.set_yticks(range(len(models)), [label(model) for model in models])
    axes.set_ylim(len(models) - 0.4, -0.6)
    axes.set_xlabel("nats per token that later text costs more")
    axes.set_title("How much worse (95%)", loc="left")
