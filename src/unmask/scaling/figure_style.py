"""What all figures share: themes, shapes, panels, and matplotlib's settings.

Colours are from the Okabe-Ito palette, which readers with colour blindness can tell apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from unmask.machine import set_up_environment
from unmask.scaling import series

set_up_environment()  # matplotlib looks for a directory that it can write to when it is imported

from matplotlib.axes import Axes  # noqa: E402
from matplotlib.axis import Axis  # noqa: E402
from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: E402
from matplotlib.colors import to_rgb  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter  # noqa: E402

Shape = Literal["wide", "narrow"]


@dataclass(frozen=True)
class Theme:
    """The colours of a figure."""

    name: str
    paper: str
    ink: str
    faint: str
    grid: str
    objectives: dict[str, str]


LIGHT = Theme(
    "light",
    paper="#ffffff",
    ink="#1d2430",
    faint="#667085",
    grid="#e6e9ef",
    objectives={"mdm": "#0072b2", "arm": "#d55e00", "mlm": "#009e73", "span": "#a8598a", "any_order": "#2b8fc4"},
)
DARK = Theme(
    "dark",
    paper="#171b22",
    ink="#e8ebf0",
    faint="#9aa4b4",
    grid="#2b313c",
    objectives={"mdm": "#56b4e9", "arm": "#f2935c", "mlm": "#35c69b", "span": "#e0a3c8", "any_order": "#a8d4f0"},
)


def rc_settings(theme: Theme, shape: Shape) -> dict[str, Any]:
    """Settings for `matplotlib.rc_context`."""
    return {
        "font.family": "DejaVu Sans",  # comes with matplotlib
        "font.size": 10.5 if shape == "wide" else 10,
        "mathtext.fontset": "dejavusans",
        "figure.facecolor": theme.paper,
        "savefig.facecolor": theme.paper,
        "axes.facecolor": theme.paper,
        "axes.edgecolor": theme.faint,
        "axes.labelcolor": theme.ink,
        "axes.titlesize": "large",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": theme.grid,
        "grid.linewidth": 0.8,
        "text.color": theme.ink,
        "xtick.color": theme.faint,
        "ytick.color": theme.faint,
        "xtick.labelcolor": theme.ink,
        "ytick.labelcolor": theme.ink,
        "xtick.minor.size": 2,
    }


def new_figure(size: tuple[float, float]) -> Figure:
    """An empty figure of so many inches, without a window system."""
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def panel_grid(count: int, shape: Shape) -> tuple[int, int]:
    """Columns and rows of so many panels."""
    columns = min(count, 4 if count == 4 else 3) if shape == "wide" else 1
    return columns, -(-count // columns)


def panels_of(figure: Figure, count: int, rows: int, columns: int, shape: Shape) -> list[Axes]:
    """The panels that are used, row by row; the others stay empty."""
    axes = cast(Any, figure).subplots(rows, columns, sharey=True, sharex=shape == "narrow", squeeze=False)
    panels = cast("list[Axes]", [panel for row in axes for panel in row])
    for unused in panels[count:]:
        unused.set_axis_off()
    return panels[:count]


def plain_number(value: float, _: int) -> str:
    """A tick without an exponent."""
    return f"{value:g}"


def plain_log_ticks(axis: Axis) -> None:
    """Round numbers without exponents along a logarithmic axis, also where it spans less than a decade."""
    low, high = map(float, cast(Any, axis).get_view_interval())
    axis.set_minor_formatter(NullFormatter())
    if high >= 10 * low:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(plain_number))
        return
    ticks = [float(tick) for tick in MaxNLocator(6).tick_values(low, high) if low <= tick <= high]
    cast(Any, axis).set_ticks(ticks, labels=[plain_number(tick, 0) for tick in ticks])
    cast(Any, axis).set_ticks([], minor=True)


def legend_below(figure: Figure, axes: Axes, columns: int) -> None:
    """What `axes` shows, told below all panels; nothing where it shows nothing that has a name."""
    handles, labels = cast("tuple[list[Any], list[str]]", cast(Any, axes).get_legend_handles_labels())
    if handles:
        cast(Any, figure).legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)


def color_of(theme: Theme, objective: str) -> str:
    """The colour of a series: that of its objective."""
    return theme.objectives.get(series.kind(objective), theme.ink)


def mixed(paper: str, color: str, share: float) -> tuple[float, float, float]:
    """A `share` of a colour on the paper."""
    back, front = to_rgb(paper), to_rgb(color)
    red, green, blue = (share * c + (1 - share) * b for b, c in zip(back, front, strict=True))
    return red, green, blue


def dashes_of(names: Sequence[str]) -> dict[str, Any]:
    """Line styles by which series of one objective, which share a colour, are told apart."""
    kinds = ("-", (0, (5, 1.5)), (0, (1.5, 1.5)), (0, (6, 1.5, 1.5, 1.5)))
    number: dict[str, int] = {}
    found: dict[str, Any] = {}
    for name in names:
        kind = series.kind(name)
        number[kind] = number.get(kind, -1) + 1
        found[name] = kinds[number[kind] % len(kinds)]
    return found
