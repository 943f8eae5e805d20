"""Where a law comes from: a file of `unmask scaling fit`, points that are fitted on the spot, or the paper.

The JSON of a fit keeps the rows of each objective's law (see `law_rows`) under `rows`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from unmask.errors import UnmaskError, UsageError
from unmask.scaling import published
from unmask.scaling.isoflop import IsoflopFit, fit_isoflop
from unmask.scaling.law_rows import check_rows, rows_of_fit
from unmask.scaling.laws import Array, Interval
from unmask.scaling.parametric import fit_parametric
from unmask.scaling.points import convention, read_csv
from unmask.scaling.repeated import fit_repeated_data
from unmask.scaling.study import points_of_runs

Method = Literal["isoflop", "parametric", "repeated"]


@dataclass(frozen=True)
class Laws:
    """The laws of some objectives."""

    rows: dict[str, Array]
    source: str
    """In words."""
    convention: str
    """How FLOPs are counted."""
    flops_range: Interval | None
    """The budgets that the law was fitted to, where they are known."""
    unfit: tuple[str, ...] = ()
    """Why other objectives have no law, in half sentences."""


def paper() -> Laws:
    """The law of the paper."""
    rows = {objective: published.rows(objective) for objective in ("mdm", "arm")}
    return Laws(rows, published.SOURCE, "6nd", (published.BUDGETS[0], published.BUDGETS[-1]))


def read(place: str, *, method: Method = "parametric", bootstrap: int = 1000, seed: int = 0) -> Laws:
    """The laws in `place`: "paper", the JSON of a fit, a CSV of points, or a study.

    Points are fitted by `method`. Raises `UsageError` for what cannot be read or fitted.
    """
    if place == "paper":
        return paper()
    path = Path(place)
    if path.suffix == ".json":
        return _read_json(path)
    points = points_of_runs(path) if path.is_dir() else read_csv(path)
    if method == "isoflop":
        fit = fit_isoflop(points, bootstrap=bootstrap, seed=seed, source=place)
    elif method == "parametric":
        fit = fit_parametric(points, bootstrap=bootstrap, seed=seed, source=place)
    else:
        fit = fit_repeated_data(points, bootstrap=bootstrap, seed=seed, source=place)
    rows = rows_of_fit(fit)
    if not rows:
        raise UsageError(f"{place}: no objective has a law by {method}: add runs, or try another --method")
    extent = (min(point.flops for point in points), max(point.flops for point in points))
    unfit = () if isinstance(fit, IsoflopFit) else tuple(fit.unfit.values())
    return Laws(rows, f"{place}, {method}", convention(points), extent, unfit)


def _read_json(path: Path) -> Laws:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}): name a file of unmask scaling fit") from error
    except ValueError as error:
        raise UnmaskError(f"{path}: is not JSON ({error}): write it again with unmask scaling fit") from error
    if not isinstance(found, dict) or cast(dict[str, Any], found).get("format") != "unmask-fits-1":
        raise UsageError(f"{path}: is not a file of unmask scaling fit: name one, a CSV, a study, or paper")
    fields = cast(dict[str, Any], found)
    rows = {name: check_rows(each, f"{path}: {name}") for name, each in fields.get("rows", {}).items()}
    if not rows:
        raise UsageError(f"{path}: has no rows of a law: write it with this version of unmask scaling fit")
    extent = fields.get("flops_range")
    return Laws(
        rows, f"{path}, {fields.get('method')}", str(fields.get("flop_convention")), tuple(extent) if extent else None
    )
