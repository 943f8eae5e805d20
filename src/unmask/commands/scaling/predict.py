"""`unmask scaling predict`: at a budget and an amount of data, which objective, how large, how long, and what loss."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from unmask.errors import UsageError

if TYPE_CHECKING:
    from unmask.scaling.law_sources import Laws
    from unmask.scaling.laws import Array, Interval
    from unmask.scaling.prediction import Crossover, Optimum

EXCESS_KEPT = 15.0
"""log R_N from which on excess parameters as good as keep their value."""


@dataclass(frozen=True)
class Predict:
    """The best size, tokens and loss of each objective at a budget, with intervals; with a limit on the data also the
    epochs, and the budget beyond which an MDM beats an ARM.
    """

    flops: tuple[float, ...]
    """Budgets C, such as 1e21 or several."""
    law: Annotated[str, tyro.conf.Positional] = "paper"
    """JSON of unmask scaling fit, CSV of points, directory of a study, or paper: the law of Nie et al. (2025)."""
    unique_tokens: float | None = None
    """Distinct training tokens there are; the rest repeats them."""
    repeats: tuple[str, ...] = ()
    """What repeats are worth, instead of what the law says: as mdm=500 arm=31, R_D epochs keep most of their value; as
    mdm=500:1000, so many times the parameters that are best for the distinct tokens do (R_N; else all). For a law that
    says nothing of it, R_D is what Prabhudesai et al. (2025) give."""
    method: Literal["isoflop", "parametric", "repeated"] = "parametric"
    """How points are fitted, where the law is not a file of fits."""
    bootstrap: int = 1000
    """Resamples of that fit."""
    seed: int = 0
    """Of the resamples."""
    json: Path | None = None
    """Also write the predictions to this file; - prints them instead of the tables."""


def run(options: Predict) -> None:
    """Predict, and print."""
    from unmask.scaling import law_sources
    from unmask.scaling.prediction import crossover, gap_at_budget, optimum
    from unmask.scaling.series import baseline_of

    if not options.flops:
        raise UsageError("--flops: give at least one budget, such as --flops 1e21")
    laws = law_sources.read(options.law, method=options.method, bootstrap=options.bootstrap, seed=options.seed)
    rows, told = laws.rows, ""
    if options.unique_tokens is not None:
        rows, told = _with_repeats(rows, options.repeats)
    optima = [
        [optimum(name, each, flops, options.unique_tokens) for name, each in rows.items()] for flops in options.flops
    ]
    names = list(rows)
    baseline = baseline_of(names)
    others = [name for name in names if name != baseline]
    gaps = [{name: gap_at_budget(rows, name, baseline, flops) for name in others} for flops in options.flops]
    crossovers: list[Crossover] = []
    if options.unique_tokens is not None:
        crossovers = [crossover(name, baseline, rows[name], rows[baseline], options.unique_tokens) for name in others]

    found: dict[str, Any] = {
        "law": laws.source,
        "flop_convention": laws.convention,
        "flops_range": laws.flops_range,
        "unique_tokens": options.unique_tokens,
        "repeats_from": told,
        "predictions": [
            {
                "flops": flops,
                "objectives": {each.objective: each.to_dict() for each in group},
                "compute_gap": {
                    name: {"baseline": baseline, "gap": gap, "gap_ci95": ends} for name, (gap, ends) in ratios.items()
                },
            }
            for flops, group, ratios in zip(options.flops, optima, gaps, strict=True)
        ],
        "crossovers": [each.to_dict() for each in crossovers],
    }
    text = json.dumps(_plain(found), indent=2, allow_nan=False)
    if options.json is not None and str(options.json) == "-":
        print(text)
        return
    if options.json is not None:
        options.json.write_text(text + "\n", encoding="utf-8")
    known_excess = all(float(each[0, 6]) < EXCESS_KEPT for each in rows.values())
    _print(laws, optima, gaps, crossovers, baseline, told, known_excess)


def _with_repeats(rows: dict[str, Array], given: tuple[str, ...]) -> tuple[dict[str, Array], str]:
    """The rows with what repeats are worth, and where that comes from."""
    import numpy as np

    from unmask.scaling import published
    from unmask.scaling.prediction import with_repeats

    asked = dict(_repeats(text, list(rows)) for text in given)
    filled: dict[str, Array] = {}
    used: list[str] = []
    for name, each in rows.items():
        if name in asked:
            r_d, r_n = asked[name]
            filled[name] = with_repeats(each, r_d, r_n, replace=True)
            used.append(f"{name} {r_d:g} epochs" + (f", excess parameters {r_n:g}" if r_n else ""))
        elif not np.isnan(each[:, 5:]).any():
            filled[name] = each
            used.append(f"{name} from the fit")
        elif name in published.REPEATS:
            filled[name] = with_repeats(each, published.REPEATS[name])
            used.append(f"{name} {published.REPEATS[name]:g} epochs ({published.REPEATS_SOURCE})")
        else:
            raise UsageError(
                f"--unique-tokens: nothing is known of what repeats are worth to {name}: give --repeats {name}=100"
            )
    return filled, "; ".join(used)


def _repeats(text: str, names: list[str]) -> tuple[str, tuple[float, float | None]]:
    """NAME=R_D or NAME=R_D:R_N."""
    name, _, numbers = text.partition("=")
    try:
        values = [float(number) for number in numbers.split(":")]
    except ValueError:
        values = []
    if name not in names or len(values) not in (1, 2) or not all(0 < value < 1e9 for value in values):
        known = " ".join(f"{each}=100" for each in names)
        raise UsageError(f"--repeats {text}: must be an objective of the law and a positive number, such as {known}")
    return name, (values[0], values[1] if len(values) == 2 else None)


def _plain(value: Any) -> Any:
    """Numbers that JSON has no name for become null."""
    import math

    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]  # pyright: ignore[reportUnknownVariableType]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _print(
    laws: Laws,
    optima: list[list[Optimum]],
    gaps: list[dict[str, tuple[float, Interval | None]]],
    crossovers: list[Crossover],
    baseline: str,
    told: str,
    known_excess: bool,
) -> None:
    from rich import box
    from rich.table import Table

    from unmask.commands.scaling.console import wide_console
    from unmask.scaling import numbers, series

    console = wide_console()
    limited = any(each.epochs is not None for group in optima for each in group)
    for group, ratios in zip(optima, gaps, strict=True):
        title = f"[bold]{group[0].flops:.3g} FLOPs[/bold]"
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
        heads = ["", "best N", "95%", "nearest", "tokens D", "loss", "95%"]
        for head in heads + (["epochs", "95%"] if limited else []):
            table.add_column(head, justify="right" if head else "left", no_wrap=True)
        for each in group:
            row = [
                series.label(each.objective),
                numbers.count(each.params),
                _interval(each.params_ci95, numbers.count),
                each.nearest_size,
                numbers.count(each.tokens),
                f"{each.loss:.3f}",
                _interval(each.loss_ci95, "{:.3f}".format),
            ]
            if limited and each.epochs is not None:
                row += [numbers.three_figures(each.epochs), _interval(each.epochs_ci95, numbers.three_figures)]
            table.add_row(*row)
        console.print(table)
        for name, (gap, ends) in ratios.items():
            console.print("  With data without limit, " + _gap_line(name, baseline, gap, ends))
    for each in crossovers:
        console.print("  " + _crossover_line(each))
    for line in _caveats(laws, optima, told, known_excess):
        console.print("  " + line, style="dim")


def _gap_line(name: str, baseline: str, gap: float, ends: Interval | None) -> str:
    import math

    from unmask.scaling import numbers, series

    mine, base = series.label(name), series.label(baseline)
    if not math.isfinite(gap):
        return f"no compute takes the {mine} to the loss of the {base}, by this law."
    interval = f" (95% {_interval(ends, numbers.three_figures)})" if ends else ""
    return f"the {mine} needs {numbers.three_figures(gap)} times this compute{interval} for the loss of the {base}."


def _crossover_line(each: Crossover) -> str:
    from unmask.scaling import numbers, series

    mine, base = series.label(each.objective), series.label(each.baseline)
    data = numbers.count(each.unique_tokens)
    if each.flops is None:
        low, high = each.searched
        return (
            f"On {data} distinct tokens the {mine} does not overtake the {base} between {low:.2g} and {high:.2g} FLOPs."
        )
    if each.flops_ci95:
        interval = " (95% {:.2g} to {:.2g})".format(*each.flops_ci95)
    else:
        interval = f" (in {100 * each.share:.0f}% of the resamples; no interval)"
    return f"On {data} distinct tokens the {mine} beats the {base} beyond {each.flops:.2g} FLOPs{interval}."


def _caveats(laws: Laws, optima: list[list[Optimum]], told: str, known_excess: bool) -> Iterable[str]:
    yield f"Law: {laws.source}; FLOPs counted as {laws.convention}."
    yield from (f"Without a law: {reason}." for reason in laws.unfit)
    if told:
        yield f"What repeats are worth: {told}."
        if not known_excess:
            yield (
                "Nothing is known of what parameters beyond the best number for the distinct tokens are worth; here "
                "they keep their value. A crossover depends on it: fit --method repeated, or give --repeats "
                "mdm=R_D:R_N."
            )
    if laws.flops_range:
        low, high = laws.flops_range
        for group in optima:
            beyond = max(group[0].flops / high, low / group[0].flops)
            if beyond > 1.01:
                yield (
                    f"{group[0].flops:.3g} FLOPs lie a factor of {beyond:.3g} outside the budgets of the law "
                    f"({low:.2g} to {high:.2g}): an extrapolation, whose intervals assume that the law goes on."
                )
    from unmask.scaling.prediction import named_range

    smallest, largest = named_range()
    for group in optima:
        for each in group:
            if not smallest <= each.params <= largest:
                yield f"The best {each.objective} at {each.flops:.3g} FLOPs lies outside the named sizes."


def _interval(ends: tuple[float, float] | None, form: Any) -> str:
    return "-" if ends is None else " to ".join(form(end) for end in ends)
