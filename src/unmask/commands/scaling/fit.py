"""`unmask scaling fit`: how loss scales with size, tokens and compute."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from unmask.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from unmask.scaling.comparison import ExponentTest
    from unmask.scaling.isoflop import IsoflopFit, ObjectiveFit
    from unmask.scaling.laws import ComputeGap, PowerLaw
    from unmask.scaling.parametric_law import ParametricFit, ParametricLaw
    from unmask.scaling.repeated import RepeatedFit, RepeatedLaw


@dataclass(frozen=True)
class Fit:
    """Fit scaling laws to a CSV (objective,flops,params,tokens,loss[,unique_tokens]) or to a study's finished runs."""

    points: Annotated[Path, tyro.conf.Positional]
    """CSV file, or directory of a study."""
    method: Literal["isoflop", "parametric", "repeated"] = "isoflop"
    """isoflop: a parabola of the loss in log N at each budget, and power laws through the minima. parametric: L = E +
    A/N^alpha + B/D^beta through all runs. repeated: the same with a decaying value of repeated data (needs the column
    unique_tokens)."""
    json: Path | None = None
    """Also write the fits to this file; - prints them instead of the tables."""
    bootstrap: int = 1000
    """Resamples for the intervals; 0 for none (isoflop: for the t intervals of the regressions alone)."""
    seed: int = 0
    """Of the resamples."""
    losses: tuple[float, ...] = ()
    """Losses, in nats per token, at which to give the compute gap. None: over the range of the minima."""
    edge: Literal["drop", "keep"] = "drop"
    """isoflop: whether a minimum outside the sizes that were run takes part in the laws."""
    solver: Literal["huber", "varpro"] = "huber"
    """parametric: minimise over all five parameters at once, or by variable projection."""
    rising: Literal["drop", "keep"] = "drop"
    """repeated: whether runs whose loss had risen while they repeated their data take part."""


def run(options: Fit) -> None:
    """Fit, print, and write."""
    from unmask.scaling import fit_isoflop, fit_parametric, fit_repeated_data
    from unmask.scaling.json_fits import dumps
    from unmask.scaling.points import read_csv
    from unmask.scaling.study import points_of_runs

    if options.bootstrap < 0:
        raise UsageError(f"--bootstrap {options.bootstrap} must not be negative")
    points = points_of_runs(options.points) if options.points.is_dir() else read_csv(options.points)
    common: dict[str, Any] = {"bootstrap": options.bootstrap, "seed": options.seed, "source": str(options.points)}
    losses = options.losses or None
    if options.method == "isoflop":
        fit = fit_isoflop(points, edge=options.edge, losses=losses, **common)
    elif options.method == "parametric":
        fit = fit_parametric(points, solver=options.solver, losses=losses, **common)
    else:
        fit = fit_repeated_data(points, rising=options.rising, **common)
    found = dumps(fit, points)
    if options.json is not None and str(options.json) == "-":
        print(found)
        return
    if options.json is not None:
        options.json.write_text(found + "\n", encoding="utf-8")

    _print_fit(fit)


def _print_fit(fit: IsoflopFit | ParametricFit | RepeatedFit) -> None:
    from rich.markup import escape

    from unmask.commands.scaling.console import wide_console
    from unmask.scaling import series
    from unmask.scaling.isoflop import IsoflopFit
    from unmask.scaling.parametric_law import ParametricFit
    from unmask.scaling.repeated import RepeatedFit

    console = wide_console()
    if isinstance(fit, IsoflopFit):
        tables = {name: _isoflop_tables(name, each) for name, each in fit.objectives.items()}
    elif isinstance(fit, ParametricFit):
        tables = {name: _parametric_tables(name, each) for name, each in fit.objectives.items()}
    else:
        tables = {name: _repeated_tables(name, each) for name, each in fit.objectives.items()}
    for name, table in tables.items():
        console.print(table)
        for note in fit.objectives[name].notes:
            console.print(f"  {escape(note)}")
        console.print()
    for reason in () if isinstance(fit, IsoflopFit) else fit.unfit.values():
        console.print(f"Without a law: {escape(reason)}.")
    for gap in () if isinstance(fit, RepeatedFit) else fit.gaps:
        of, over = series.label(gap.objective), series.label(gap.baseline)
        console.print(f"[bold]Compute of the {of} for the loss of the {over}[/bold]")
        for line in _gap_lines(gap):
            console.print(f"  {line}")
        for test in () if isinstance(fit, RepeatedFit) else fit.tests:
            if (test.objective, test.baseline) == (gap.objective, gap.baseline):
                console.print(f"  {_test_line(test)}")


def _gap_lines(gap: ComputeGap) -> Iterable[str]:
    from unmask.scaling import numbers, series

    shown = list(zip(gap.losses, gap.gaps, gap.gaps_ci95, strict=True))
    for loss, value, ends in shown if len(shown) <= 9 else shown[:: (len(shown) - 1) // 4]:
        told = f"  95% {numbers.three_figures(ends[0])} to {numbers.three_figures(ends[1])}" if ends else ""
        yield f"at {loss:.3f} nats per token  {numbers.three_figures(value):>6}x{told}"
    if gap.params_ratio:
        low, high = (numbers.three_figures(ratio) for ratio in (min(gap.params_ratio), max(gap.params_ratio)))
        yield f"best size over that of the {series.label(gap.baseline)}, at equal compute: {low} to {high}"


def _test_line(test: ExponentTest) -> str:
    what = {"params": "N", "tokens": "D", "loss": "L"}[test.law]
    line = f"exponent of {what}: difference {test.difference:+.4f}"
    if test.difference_ci95:
        line += ", 95% {:+.4f} to {:+.4f}".format(*test.difference_ci95)
    for name, value in (("p", test.p_value), ("p by t", test.p_value_t)):
        if value is not None:
            line += f", {name} = {value:.3f}" if value >= 0.001 else f", {name} < 0.001"
    verdict = {True: "they differ", False: "they cannot be told apart", None: "nothing is known of its error"}
    return f"{line}: {verdict[test.differ]}"


def _interval(ends: tuple[float, float] | None, form: str = "") -> str:
    from unmask.scaling import numbers

    if ends is None:
        return "-"
    return " to ".join(numbers.three_figures(end) if not form else format(end, form) for end in ends)


def _parametric_tables(name: str, each: ParametricLaw) -> Group:
    from rich import box
    from rich.console import Group
    from rich.table import Table

    from unmask.scaling import series

    title = f"[bold]{series.label(name)}[/bold]  L = E + A/N^alpha + B/D^beta"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    other = "by projection" if each.solver == "huber" else "by Huber"
    for head in ("", "value", "95%", other):
        table.add_column(head, justify="right" if head else "left", no_wrap=True)
    values = {"E": each.E, "A": each.A, "alpha": each.alpha, "B": each.B, "beta": each.beta}
    for key, value in values.items():
        table.add_row(key, f"{value:.4g}", _interval(each.ci95[key], ".4g"), f"{each.cross_check[key]:.4g}")
    laws = _law_table([("N", each.params_law), ("D", each.tokens_law), ("L - E", each.loss_law)], by_t=False)
    told = f"  {each.points} runs, residuals {100 * each.residual_std:.2f}% of the loss"
    if each.left_out_error is not None:
        told += f", {100 * each.left_out_error:.2f}% off a budget that is left out"
    return Group(table, laws, told)


def _repeated_tables(name: str, each: RepeatedLaw) -> Group:
    from rich import box
    from rich.console import Group
    from rich.table import Table

    from unmask.scaling import series
    from unmask.scaling.repeated import NAMES

    title = f"[bold]{series.label(name)}[/bold]  L = E + A/N'^alpha + B/D'^beta"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for head in ("", "value", "95%"):
        table.add_column(head, justify="right" if head else "left", no_wrap=True)
    for key in NAMES:
        table.add_row(key, f"{getattr(each, key):.4g}", _interval(each.ci95[key], ".4g"))
    low, high = each.epochs_range
    told = f"  {each.points} runs of {low:.3g} to {high:.3g} epochs"
    if each.left_out:
        told += f"; {each.left_out} left out, whose loss had risen while they repeated their data"
    return Group(table, told)


def _isoflop_tables(name: str, each: ObjectiveFit) -> Group:
    from rich import box
    from rich.console import Group
    from rich.table import Table

    from unmask.scaling import numbers, series

    minima = Table(title=f"[bold]{series.label(name)}[/bold]", title_justify="left", box=box.SIMPLE_HEAD)
    for head in ("FLOPs", "best N", "95%", "tokens D", "loss", "95%", ""):
        minima.add_column(head, justify="right" if head else "left", no_wrap=True)
    for minimum in each.minima:
        # where it lies outside, the parabola has no more to say than on which side
        known = minimum.params and minimum.tokens and minimum.loss and minimum.flag is None
        minima.add_row(
            f"{minimum.flops:.3g}",
            numbers.count(minimum.params) if known and minimum.params else minimum.beyond or "-",
            _interval(minimum.params_ci95) if known else "-",
            numbers.count(minimum.tokens) if known and minimum.tokens else "-",
            f"{minimum.loss:.4f}" if known and minimum.loss else "-",
            _interval(minimum.loss_ci95, ".4f") if known else "-",
            minimum.flag or "",
        )
    laws: list[Table] = []
    if each.loss_law is not None:
        laws.append(_law_table([("N", each.params_law), ("D", each.tokens_law), ("L", each.loss_law)], by_t=True))
    return Group(minima, *laws, *_floor_lines(each), *_left_out_lines(each))


def _floor_lines(each: ObjectiveFit) -> Iterable[str]:
    law = each.loss_law_irreducible
    if law is not None:
        yield (
            f"  with an irreducible loss: {law.irreducible:.3f} (95% {_interval(law.irreducible_ci95, '.3f')}), "
            f"exponent {law.exponent:.4f} (95% {_interval(law.exponent_ci95, '.4f')})"
        )


def _left_out_lines(each: ObjectiveFit) -> Iterable[str]:
    if not each.left_out:
        return
    count = len(each.left_out)
    loss = sum(abs(one.loss_error) for one in each.left_out) / count
    params = sum(abs(one.params_error) for one in each.left_out) / count
    last = each.left_out[-1]
    yield (
        f"  a budget that is left out is missed by {100 * loss:.2f}% in loss, {100 * params:.0f}% in size on average; "
        f"the largest by {100 * last.loss_error:+.2f}% and {100 * last.params_error:+.0f}%"
    )


def _law_table(laws: list[tuple[str, PowerLaw | None]], *, by_t: bool) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for head in ("law", "coefficient", "exponent", "95%", *(("95% by t", "d.f.") if by_t else ())):
        table.add_column(head, justify="left" if head == "law" else "right", no_wrap=True)
    for what, law in laws:
        if law is not None:
            row = [what, f"{law.coefficient:.4g}", f"{law.exponent:.4f}", _interval(law.exponent_ci95, ".4f")]
            if by_t:
                row += [_interval(law.exponent_ci95_t, ".4f"), str(law.degrees_of_freedom)]
            table.add_row(*row)
    return table
