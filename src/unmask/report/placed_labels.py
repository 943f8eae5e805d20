"""Labels beside the points of a figure, each at the side where it covers least of the others and of what is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

FONT_SIZE = 8.5
SIDES: tuple[tuple[float, float, str, str], ...] = (
    (1, 1, "left", "bottom"),
    (1, -1, "left", "top"),
    (-1, 1, "right", "bottom"),
    (-1, -1, "right", "top"),
    (0, 1, "center", "bottom"),
    (0, -1, "center", "top"),
    (1, 0, "left", "center"),
    (-1, 0, "right", "center"),
)
"""Where a label may stand: the direction from its point, and how it is aligned there. The first is liked best."""
DISTANCES = (6.0, 13.0, 22.0, 32.0)
"""Points (1/72 inch) from the mark."""
MARK = 5.0
"""Half the width of a mark, in points."""
WORST = 10.0
"""How much worse it is to cover a mark or another label, or to stand outside, than to cover as much of a line."""


def place_labels(
    axes: Axes,
    labels: Sequence[tuple[float, float, str]],
    *,
    color: str,
    bars: Sequence[tuple[tuple[float, float], tuple[float, float]]] = (),
) -> None:
    """Write each of `labels` (x, y, text) beside its point.

    `bars` are lines between two points that labels had better not cover, such as error bars. All else has to be drawn
    before: limits and layout must not change afterwards.
    """
    figure = cast(Any, axes.figure)
    figure.draw_without_rendering()  # the layout, from which places in pixels follow
    renderer, scale = figure.canvas.get_renderer(), figure.dpi / 72
    to_pixels = cast(Any, axes.transData).transform
    marks = [_around(to_pixels((x, y)), MARK * scale) for x, y, _ in labels]
    taken = [(mark, WORST) for mark in marks]
    taken += [(Bbox.null().union([Bbox([to_pixels(a), to_pixels(b)])]), 1.0) for a, b in bars]
    inside = axes.get_window_extent(renderer)
    for x, y, words in labels:
        if not words:
            continue
        best: tuple[float, Any, Bbox] | None = None
        for rank, (distance, (dx, dy, ha, va)) in enumerate((d, side) for d in DISTANCES for side in SIDES):
            note = cast(Any, axes).annotate(
                words,
                (x, y),
                xytext=(dx * distance, dy * distance),
                textcoords="offset points",
                ha=ha,
                va=va,
                fontsize=FONT_SIZE,
                color=color,
            )
            note.set_in_layout(False)
            box = cast(Bbox, note.get_window_extent(renderer))
            covered = sum(weight * _shared(box, other) for other, weight in taken)
            covered += WORST * (_area(box) - _shared(box, inside))
            cost = covered + rank  # of places that cover nothing, the first
            if best is None or cost < best[0]:
                if best is not None:
                    best[1].remove()
                best = (cost, note, box)
            else:
                note.remove()
        assert best is not None
        taken.append((best[2], WORST))


def _around(center: Any, half: float) -> Bbox:
    x, y = map(float, center)
    return Bbox([[x - half, y - half], [x + half, y + half]])


def _area(box: Bbox) -> float:
    return float(box.width * box.height)


def _shared(one: Bbox, other: Bbox) -> float:
    """The area of both, in pixels; a line counts by its length."""
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return 0.0 if width < 0 or height < 0 else float(max(width, 1.0) * max(height, 1.0))
