"""The figures of a study: IsoFLOP curves with their minima, and loss against compute with the gap between objectives.

Every figure comes in a wide and a narrow form (a page and a phone) and in two themes. The pages show the dark theme to
readers who prefer it; print and slides take the light one, as SVG or PNG. What colours
(`figure_style`) mean is written beside the lines.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from unmask.machine import set_up_environment
from unmask.scaling import numbers, series
from unmask.scaling import points as points_module
from unmask.scaling.figure_style import (
    DARK,
    LIGHT,
    Shape,
    Theme,
    color_of,
    dashes_of,
    mixed,
    new_figure,
    panel_grid,
    panels_of,
    rc_settings,
)
from unmask.scaling.isoflop import IsoflopFit, Minimum, ObjectiveFit, residuals
from unmask.scaling.laws import Array, ComputeGap, PowerLaw
from unmask.scaling.points import Point
from unmask.scaling.repeats import against_freshest, repeats_figure

set_up_environment()  # matplotlib looks for a directory that it can write to when it is imported

import matplotlib as mpl  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter  # noqa: E402


def isoflop_figure(
    points: Sequence[Point], fit: IsoflopFit | None, *, shape: Shape = "wide", theme: Theme = LIGHT
) -> Figure:
    """A panel for each objective: loss against size at each budget, the parabolas, and their minima with intervals."""
    groups = points_module.by_objective(points)
    columns, rows = panel_grid(len(groups), shape)
    size = (max(6.4, 4.7 * columns), 4.3 * rows) if shape == "wide" else (4.6, 3.7 * rows)
    with mpl.rc_context(cast(Any, rc_settings(theme, shape))):
        figure = new_figure(size)
        panels = panels_of(figure, len(groups), rows, columns, shape)
        for number, ((objective, group), panel) in enumerate(zip(groups.items(), panels, strict=True)):
            fitted = fit.objectives.get(objective) if fit else None
            _isoflop_panel(panel, objective, group, fitted, theme)
            if number % columns == 0:
                panel.set_ylabel("validation loss (nats per token)")
            if number + columns >= len(panels):
                panel.set_xlabel("non-embedding parameters N")
        return figure


def loss_compute_figure(
    points: Sequence[Point], fit: IsoflopFit | None, *, shape: Shape = "wide", theme: Theme = LIGHT
) -> Figure:
    """Loss against compute on logarithmic axes: all runs, the minima, the power laws with bands, the compute gap."""
    with mpl.rc_context(cast(Any, rc_settings(theme, shape))):
        figure = new_figure((8.6, 4.8) if shape == "wide" else (4.6, 4.4))
        axes = cast(Axes, cast(Any, figure).subplots())
        axes.set_xscale("log")
        axes.set_yscale("log")
        low = min(point.flops for point in points)
        high = max(point.flops for point in points)
        reach = max((high / low) ** 0.12, 1.25)
        ends: list[tuple[float, str, str]] = []
        groups = points_module.by_objective(points)
        dashes = dashes_of(list(groups))
        for objective, group in groups.items():
            color = color_of(theme, objective)
            fitted = fit.objectives.get(objective) if fit else None
            axes.plot([p.flops for p in group], [p.loss for p in group], "o", ms=3.2, mew=0, color=color, alpha=0.45)
            end = _draw_law(axes, fitted, color, dashes[objective], low / reach, high * reach, group)
            ends.append((end, _law_label(objective, fitted), color))
        if fit and fit.compute_gap:
            _draw_gap(axes, fit, fit.compute_gap, theme)
        axes.set_xlim(low / reach, high * reach ** (2.6 if shape == "wide" else 4.2))
        _end_labels(axes, ends, high * reach)
        axes.set_xlabel("training compute C (FLOPs)")
        axes.set_ylabel("validation loss (nats per token)")
        budgets = [budget.flops for budget in points_module.budgets(points)]
        if len(budgets) <= (6 if shape == "wide" else 3):
            axes.set_xticks(budgets, [_power_of_ten(flops) for flops in budgets])
            axes.set_xticks([], minor=True)
        else:
            axes.xaxis.set_major_locator(LogLocator(numticks=8 if shape == "wide" else 5))
            axes.xaxis.set_minor_formatter(NullFormatter())
        _plain_loss_axis(axes)
        return figure


def residual_figure(
    points: Sequence[Point], fit: IsoflopFit | None, *, shape: Shape = "wide", theme: Theme = LIGHT
) -> Figure:
    """A panel for each objective: how far each run lies from the parabola of its budget."""
    groups = points_module.by_objective(points)
    columns, rows = panel_grid(len(groups), shape)
    size = (max(6.4, 4.7 * columns), 3.2 * rows) if shape == "wide" else (4.6, 2.8 * rows)
    found = residuals(points, fit) if fit else []
    with mpl.rc_context(cast(Any, rc_settings(theme, shape))):
        figure = new_figure(size)
        panels = panels_of(figure, len(groups), rows, columns, shape)
        for number, (objective, panel) in enumerate(zip(groups, panels, strict=True)):
            color = color_of(theme, objective)
            mine = [(point, value) for point, value in found if point.objective == objective]
            panel.set_xscale("log")
            panel.axhline(0, color=theme.faint, lw=1)
            budgets = sorted({point.flops for point, _ in mine})
            for point, value in mine:
                shade = mixed(theme.paper, color, 0.45 + 0.55 * (budgets.index(point.flops) + 1) / len(budgets))
                panel.plot(point.params, value, "o", ms=5, mew=0, color=shade)
            std = fit.objectives[objective].noise_std if fit and objective in fit.objectives else None
            if std:
                panel.axhspan(-2 * std, 2 * std, color=color, alpha=0.1, lw=0)
            panel.set_title(series.label(objective), color=color, loc="left", fontweight="bold")
            panel.xaxis.set_major_formatter(FuncFormatter(_count_tick))
            panel.xaxis.set_minor_formatter(NullFormatter())
            panel.yaxis.set_major_locator(MaxNLocator(5))
            panel.tick_params(labelleft=True)
            if number % columns == 0:
                panel.set_ylabel("run less parabola (nats)")
            if number + columns >= len(panels):
                panel.set_xlabel("non-embedding parameters N")
        return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure; the ending of `path` (.svg, .png) says as what. The same figure gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"Date": None, "Creator": None} if path.suffix == ".svg" else {"Software": None}
    with mpl.rc_context({"svg.hashsalt": "unmask", "svg.fonttype": "path"}):
        figure.savefig(path, dpi=200, metadata=cast(Any, metadata))


def save_all(points: Sequence[Point], fit: IsoflopFit | None, directory: Path) -> dict[str, dict[str, str]]:
    """Write every figure in every form; returns for each figure its files by variant ("wide-light", ..., "png").

    Points on different amounts of repeated data are told apart; the figure of repeats has those that the fit left out.
    """
    apart = [p for p in points_module.split_by_data(points) if fit is None or p.objective in fit.objectives]
    drawn: dict[str, Callable[..., Figure]] = {
        "isoflop": partial(isoflop_figure, apart, fit),
        "loss-compute": partial(loss_compute_figure, apart, fit),
    }
    if fit is not None and residuals(apart, fit):
        drawn["residuals"] = partial(residual_figure, apart, fit)
    if against_freshest(points):
        drawn["repeats"] = partial(repeats_figure, points)
    return {name: save_forms(draw, directory, name) for name, draw in drawn.items()}


def save_forms(draw: Callable[..., Figure], directory: Path, name: str) -> dict[str, str]:
    """Write the figure that `draw(shape=..., theme=...)` makes in every form.

    Returns its files by variant ("wide-light", ..., "png").
    """
    files: dict[str, str] = {}
    for shape in ("wide", "narrow"):
        for theme in (LIGHT, DARK):
            variant = f"{shape}-{theme.name}"
            figure = draw(shape=shape, theme=theme)
            files[variant] = f"{name}.svg" if variant == "wide-light" else f"{name}-{variant}.svg"
            save(figure, directory / files[variant])
            if variant == "wide-light":
                files["png"] = f"{name}.png"
                save(figure, directory / files["png"])
    return files


def _isoflop_panel(
    axes: Axes, objective: str, points: Sequence[Point], fitted: ObjectiveFit | None, theme: Theme
) -> None:
    color = color_of(theme, objective)
    budgets = points_module.budgets(points)
    axes.set_xscale("log")
    everything = [point.params for point in points]
    span = max(max(everything) / min(everything), 1.5)  # one size alone still has a width
    # budgets are written at the side where the curves are steeper, away from the minima
    ends = [(budget.points[0], budget.points[-1]) for budget in budgets]
    left = sum(first.loss - last.loss for first, last in ends) > 0
    margins = (0.26, 0.06) if left else (0.06, 0.26)
    axes.set_xlim(min(everything) / span ** margins[0], max(everything) * span ** margins[1])
    trail: list[tuple[float, float]] = []
    for number, budget in enumerate(budgets):
        # the more compute, the stronger the colour
        shade = mixed(theme.paper, color, 0.45 + 0.55 * (number + 1) / len(budgets))
        params = np.array([point.params for point in budget.points])
        loss = np.array([point.loss for point in budget.points])
        minimum = fitted.minima[number] if fitted else None
        if minimum is not None and minimum.parabola is not None:
            curve = _geomspace(params.min(), params.max())
            axes.plot(curve, minimum.curve(curve), "-", lw=1.6, color=shade)
        else:
            axes.plot(params, loss, "-", lw=0.8, color=shade, alpha=0.6)
        axes.plot(params, loss, "o", ms=4.6, mew=0, color=shade)
        side = params.min() if left else params.max()
        axes.annotate(
            _power_of_ten(budget.flops),
            (float(side), float(loss[params == side].mean())),
            xytext=(-6 if left else 6, 0),
            textcoords="offset points",
            ha="right" if left else "left",
            va="center",
            color=shade,
            fontsize="small",
        )
        if minimum is not None and minimum.params is not None and minimum.loss is not None:
            _draw_minimum(axes, minimum, color, theme)
            if minimum.flag is None:
                trail.append((minimum.params, minimum.loss))
    if len(trail) > 1:
        axes.plot(*zip(*trail, strict=True), ls=(0, (1, 2)), lw=1.2, color=theme.faint, zorder=2)
    axes.set_title(series.label(objective), color=color, loc="left", fontweight="bold")
    if fitted and fitted.params_law:
        law = rf"best $N \propto C^{{{fitted.params_law.exponent:.2f}}}$"
        axes.set_title(law, color=theme.faint, loc="right", fontsize="small")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 3) if span < 300 else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(_count_tick))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_locator(MaxNLocator(7))
    axes.tick_params(labelleft=True)


def _draw_minimum(axes: Axes, minimum: Minimum, color: str, theme: Theme) -> None:
    assert minimum.params is not None
    assert minimum.loss is not None
    if minimum.params_ci95 is not None:
        axes.plot(minimum.params_ci95, [minimum.loss] * 2, "|-", ms=7, mew=1.4, lw=1.4, color=theme.ink, zorder=4)
    face = color if minimum.flag is None else theme.paper
    axes.plot(minimum.params, minimum.loss, "D", ms=6.5, mew=1.4, mfc=face, mec=theme.ink, zorder=5)


def _draw_law(
    axes: Axes,
    fitted: ObjectiveFit | None,
    color: str,
    dashes: Any,
    low: float,
    high: float,
    points: Sequence[Point],
) -> float:
    """Draw minima and law of one objective; returns the loss at its right end."""
    if fitted is None or fitted.loss_law is None:
        largest = max(point.flops for point in points)
        return min(point.loss for point in points if point.flops == largest)
    law = fitted.loss_law
    flops = _geomspace(low, high)
    band = law.band(flops)
    if band is not None:
        axes.fill_between(flops, *band, color=color, alpha=0.14, lw=0)
    axes.plot(flops, law.predict(flops), ls=dashes, lw=1.8, color=color)
    for minimum in fitted.usable:
        if minimum.loss is None:
            continue
        if minimum.loss_ci95 is not None:
            axes.plot([minimum.flops] * 2, minimum.loss_ci95, "-", lw=1.4, color=color)
        axes.plot(minimum.flops, minimum.loss, "D", ms=6.5, mew=1.4, mfc=color, mec=axes.get_facecolor(), zorder=5)
    return float(law.predict(high))


def _draw_gap(axes: Axes, fit: IsoflopFit, gap: ComputeGap, theme: Theme) -> None:
    """An arrow between the two laws at one loss, with how many times the compute it spans."""
    law, base = (cast(PowerLaw, fit.objectives[name].loss_law) for name in (gap.objective, gap.baseline))
    loss = gap.shown_loss
    ends = (float(base.inverse(loss)), float(law.inverse(loss)))
    left, right = axes.dataLim.x0, axes.dataLim.x1
    if not all(left <= end <= right for end in ends):
        return
    axes.annotate(
        "", (ends[1], loss), (ends[0], loss), arrowprops={"arrowstyle": "<->", "color": theme.ink, "lw": 1.2}, zorder=6
    )
    value, interval = fit.gap_at(gap, loss)
    # the lines fall, so there is room above the arrow at its left and below it at its right
    texts = [(f"{numbers.three_figures(value)}× the compute", ends[0], 6, 5, "left", "bottom")]
    if interval:
        between = f"95%: {numbers.three_figures(interval[0])} to {numbers.three_figures(interval[1])}"
        texts.append((between, ends[1], -6, -5, "right", "top"))
    for text, at, dx, dy, ha, va in texts:
        axes.annotate(
            text,
            (at, loss),
            xytext=(dx, dy),
            textcoords="offset points",
            ha=ha,
            va=va,
            fontsize="small",
            color=theme.ink,
            bbox={"boxstyle": "round,pad=0.1", "fc": theme.paper, "ec": "none", "alpha": 0.8},
            zorder=6,
        )


def _end_labels(axes: Axes, ends: list[tuple[float, str, str]], at: float) -> None:
    """Names at the right ends of the lines, moved apart where they would touch."""
    low, high = axes.get_ylim()
    unit = math.log(high / low) / 100
    places: list[float] = []
    for value, _, _ in sorted(ends):
        place = math.log(value)
        if places:
            place = max(place, places[-1] + 11 * unit)
        places.append(place)
    for (_, name, color), place in zip(sorted(ends), places, strict=True):
        axes.annotate(
            name,
            (at, math.exp(place)),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=color,
        )


def _law_label(objective: str, fitted: ObjectiveFit | None) -> str:
    name = rf"$\bf{{{series.label(objective)}}}$".replace(" ", r"\ ").replace("%", r"\%")
    if fitted is None or fitted.loss_law is None:
        return name
    return name + "\n" + rf"$L \propto C^{{{fitted.loss_law.exponent:.4f}}}$".replace("-", "−")


def _count_tick(value: float, _: int) -> str:
    return numbers.round_count(value)


def _plain_loss_axis(axes: Axes) -> None:
    """Round losses as the ticks of a logarithmic axis that spans less than a decade."""
    low, high = axes.get_ylim()
    ticks = [float(tick) for tick in MaxNLocator(7).tick_values(low, high) if low <= tick <= high]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_yticks([], minor=True)
    axes.set_ylim(low, high)


def _power_of_ten(value: float) -> str:
    """FLOPs for a figure: 3.2 × 10 to the 13."""
    mantissa, exponent = numbers.mantissa_exponent(value)
    return rf"$10^{{{exponent}}}$" if mantissa == "1" else rf"${mantissa}{{\times}}10^{{{exponent}}}$"


def _geomspace(low: float, high: float) -> Array:
    return np.exp(np.linspace(math.log(low), math.log(high), 100))
