"""Points: what a scaling study measured, one loss for each run, from a CSV or from the runs of a study.

A CSV has the columns `objective,flops,params,tokens,loss` and, if data repeats, `unique_tokens`. Two more are heeded
where they are there: `flop_convention` and `name`. Any others are ignored.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from unmask.errors import UsageError, problems_error
from unmask.scaling.series import series_name

COLUMNS = ("objective", "flops", "params", "tokens", "loss")
BUDGET_TOLERANCE = 1.05
"""Points whose FLOPs lie within this factor share a budget: int() in the stepping rule costs up to one step."""
ONE_EPOCH = 1.01
"""Up to so many epochs data counts as fresh."""
PROBLEMS_SHOWN = 3


@dataclass(frozen=True)
class Point:
    """The outcome of one training run."""

    objective: str
    flops: float
    """Training budget C in FLOPs."""
    params: float
    """Non-embedding parameters N."""
    tokens: float
    """Training tokens D, repeats included."""
    loss: float
    """Held-out loss in nats per token."""
    unique_tokens: float | None = None
    """Distinct tokens that there were to train on, where that is known: repeated if fewer than `tokens`."""
    convention: str | None = None
    """How `flops` was counted ("6nd", "full"), where the source says so."""
    name: str = ""
    """The run, where it has a name."""

    @property
    def repeats(self) -> bool:
        """Whether the run saw some of its data again."""
        return self.unique_tokens is not None and self.tokens > self.unique_tokens


@dataclass(frozen=True)
class Budget:
    """The points of one objective at one budget, by size."""

    flops: float
    points: tuple[Point, ...]


def read_csv(path: Path) -> list[Point]:
    """The points of a CSV file.

    Raises `UsageError`, in one line that names the file and the lines in it, for a file that cannot be read, missing
    columns, values that are not positive numbers, the same point twice, and FLOPs counted in more than one way.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            header = [(name or "").strip() for name in reader.fieldnames or []]
            reader.fieldnames = header
            missing = [name for name in COLUMNS if name not in header]
            if missing:
                found = ", ".join(header) if header else "nothing"
                raise UsageError(f"{path}: missing columns {', '.join(missing)} (found: {found})")
            rows = [(reader.line_num, row) for row in reader if any(row.values())]
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: is not a CSV file in UTF-8: {error}") from error

    points: list[Point] = []
    lines: list[int] = []
    problems: list[str] = []
    for line, row in rows:
        point = _point(line, row, problems)
        if point is not None:
            points.append(point)
            lines.append(line)
    if not problems:
        problems = _problems(points, [f"line {line}" for line in lines])
    if problems:
        more = f"; and {len(problems) - PROBLEMS_SHOWN} more" if len(problems) > PROBLEMS_SHOWN else ""
        raise UsageError(f"{path}: " + "; ".join(problems[:PROBLEMS_SHOWN]) + more)
    return points


def write_csv(points: Iterable[Point], path: Path) -> None:
    """Write points in the form that `read_csv` reads, with their names and conventions."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*COLUMNS, "unique_tokens", "flop_convention", "name"])
        for p in points:
            numbers = [repr(value) for value in (p.flops, p.params, p.tokens, p.loss)]
            writer.writerow([p.objective, *numbers, p.unique_tokens or "", p.convention or "", p.name])


def check(points: Sequence[Point], source: str = "points") -> None:
    """Raise `UsageError` in the name of `source` if `points` cannot be fitted together."""
    if not points:
        raise UsageError(f"{source}: no points: nothing to fit")
    problems: list[str] = []
    for number, point in enumerate(points, 1):
        for name in ("flops", "params", "tokens", "loss"):
            value = getattr(point, name)
            if not (math.isfinite(value) and value > 0):
                problems.append(f"point {point.name or number}: {name} {value} must be a positive number")
    problems = problems or _problems(points, [f"point {p.name or number}" for number, p in enumerate(points, 1)])
    if problems:
        raise UsageError(f"{source}: " + "; ".join(problems[:PROBLEMS_SHOWN]))


def by_objective(points: Iterable[Point]) -> dict[str, list[Point]]:
    """Points of each objective, in the order in which the objectives first appear."""
    groups: dict[str, list[Point]] = {}
    for point in points:
        groups.setdefault(point.objective, []).append(point)
    return groups


def epochs(point: Point) -> float:
    """How often a run saw its data."""
    return point.tokens / min(point.unique_tokens or point.tokens, point.tokens)


def fittable(
    points: Iterable[Point],
    kept: Callable[[list[Point]], list[Point]],
    check: Callable[[str, list[Point]], None],
    source: str,
) -> tuple[dict[str, list[Point]], dict[str, str]]:
    """The points of each objective that are `kept`, where `check` lets them pass, and why those of others do not.

    Raises `UsageError`, which names `source`, where none does.
    """
    groups, reasons = dict[str, list[Point]](), dict[str, str]()
    for objective, group in by_objective(points).items():
        points_kept = kept(group)
        try:
            check(objective, points_kept)
        except UsageError as error:
            reasons[objective] = str(error)
        else:
            groups[objective] = points_kept
    if not groups:
        raise problems_error(source, list(reasons.values())[:PROBLEMS_SHOWN])
    return groups, reasons


def split_by_data(points: Sequence[Point]) -> list[Point]:
    """The same points; where an objective's runs repeat different amounts of data, each amount is a series of its own.

    An amount is that of `unique_tokens`, and the objective is then named by `series_name`. Amounts that no run of the
    objective repeats are one series, which keeps the objective's name: new data never ran out. Twice is as once.
    """
    limits: dict[str, set[float | None]] = {}
    repeated: dict[str, set[float]] = {}
    for point in points:
        limits.setdefault(point.objective, set()).add(point.unique_tokens)
        if point.repeats and point.unique_tokens is not None:
            repeated.setdefault(point.objective, set()).add(point.unique_tokens)
    return [
        replace(point, objective=series_name(point.objective, unique_tokens=point.unique_tokens))
        if len(limits[point.objective]) > 1 and point.unique_tokens in repeated.get(point.objective, ())
        else point
        for point in points
    ]


def budgets(points: Sequence[Point]) -> list[Budget]:
    """Group points of one objective by budget; a budget's FLOPs are the geometric mean of its points'."""
    groups: list[list[Point]] = []
    for point in sorted(points, key=lambda point: point.flops):
        if groups and point.flops <= groups[-1][0].flops * BUDGET_TOLERANCE:
            groups[-1].append(point)
        else:
            groups.append([point])
    return [
        Budget(
            flops=math.exp(math.fsum(math.log(point.flops) for point in group) / len(group)),
            points=tuple(sorted(group, key=lambda point: point.params)),
        )
        for group in groups
    ]


def convention(points: Iterable[Point]) -> str:
    """How the FLOPs of `points` were counted: as they say themselves, or "6nd" where C = 6 N D, or "unknown"."""
    points = list(points)
    named = {point.convention for point in points if point.convention}
    if len(named) == 1:
        return named.pop()
    return "6nd" if all(abs(_over_6nd(point) - 1) < 0.1 for point in points) else "unknown"


def _point(line: int, row: Mapping[str, str | None], problems: list[str]) -> Point | None:
    values: dict[str, float] = {}
    for name in (*COLUMNS[1:], "unique_tokens"):
        text = (row.get(name) or "").strip()
        if name == "unique_tokens" and not text:
            continue
        try:
            value = float(text)
        except ValueError:
            problems.append(f"line {line}: {name} {text!r} is not a number")
            continue
        if not (math.isfinite(value) and value > 0):
            problems.append(f"line {line}: {name} {text} must be a positive number")
        values[name] = value
    objective = (row.get("objective") or "").strip()
    if not objective:
        problems.append(f"line {line}: objective is empty")
    if problems:
        return None
    told = (row.get("flop_convention") or "").strip() or None
    return Point(objective, **values, convention=told, name=(row.get("name") or "").strip())


def _problems(points: Sequence[Point], places: Sequence[str]) -> list[str]:
    """What is wrong between the points: one twice, or FLOPs counted in more than one way."""
    problems: list[str] = []
    seen: dict[tuple[object, ...], str] = {}
    for point, place in zip(points, places, strict=True):
        key = (point.objective, point.flops, point.params, point.tokens, point.loss, point.unique_tokens)
        if key in seen:
            problems.append(f"{place} repeats {seen[key]}: remove one (repeats with another seed differ in loss)")
        seen.setdefault(key, place)

    named: dict[str, str] = {}
    for point, place in zip(points, places, strict=True):
        if point.convention:
            named.setdefault(point.convention, place)
    if len(named) > 1:
        told = ", ".join(f"{name} ({place})" for name, place in named.items())
        problems.append(f"mixed FLOP conventions: {told}: fit them apart")
    elif not named:
        # without a column that tells, C = 6 N D for some and clearly not for others gives it away
        over = [_over_6nd(point) for point in points]
        plain = next((place for ratio, place in zip(over, places, strict=True) if abs(ratio - 1) < 0.02), None)
        other = next(((ratio, place) for ratio, place in zip(over, places, strict=True) if abs(ratio - 1) > 0.25), None)
        if plain and other:
            problems.append(
                f"mixed FLOP conventions: flops is 6 N D at {plain} but {other[0]:.2f} times that at {other[1]}: "
                "count all in one way"
            )
    return problems


def _over_6nd(point: Point) -> float:
    return point.flops / (6 * point.params * point.tokens)
