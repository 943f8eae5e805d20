"""`unmask scaling`: fit how loss scales with size and compute, and make the report of a study."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from unmask.errors import UsageError

if TYPE_CHECKING:
    from unmask.scaling.isoflop import IsoflopFit, ObjectiveFit
    from unmask.scaling.laws import PowerLaw


@dataclass(frozen=True)
class Fit:
    """Fit scaling laws to a CSV (objective,flops,params,tokens,loss) or to the finished runs of a study."""

    points: Annotated[Path, tyro.conf.Positional]
    """CSV file, or directory of a study."""
    method: Literal["isoflop"] = "isoflop"
    """isoflop: a parabola of the loss in log N at each budget, and power laws through the minima."""
    json: Path | None = None
    """Also write the fits to this file; - prints them instead of the tables."""
    bootstrap: int = 1000
    """Resamples for the intervals; 0 for the t intervals of the regressions alone."""
    seed: int = 0
    """Of the resamples."""
    losses: tuple[float, ...] = ()
    """Losses, in nats per token, at which to give the compute gap. None: over the range of the minima."""
    edge: Literal["drop", "keep"] = "drop"
    """What becomes of a minimum outside the sizes that were run: left out of the laws, or kept all the same."""


@dataclass(frozen=True)
class Report:
    """Make the page of a study: its figures, fits, runs and samples, in report/index.html."""

    study: Annotated[Path, tyro.conf.Positional]
    """Directory of a study."""
    bootstrap: int = 1000
    """Resamples for the intervals."""
    seed: int = 0
    """Of the resamples."""


Options = Annotated[Fit, tyro.conf.subcommand("fit")] | Annotated[Report, tyro.conf.subcommand("report")]


def run(options: Fit | Report) -> None:
    """Do what the subcommand asks."""
    if options.bootstrap < 0:
        raise UsageError(f"--bootstrap {options.bootstrap} must not be negative")
    if isinstance(options, Report):
        from unmask.report import write_report

        print(write_report(options.study, bootstrap=options.bootstrap, seed=options.seed))
        return

    from unmask.scaling.isoflop import fit_isoflop
    from unmask.scaling.points import read_csv
    from unmask.scaling.study import points_of_runs

    points = points_of_runs(options.points) if options.points.is_dir() else read_csv(options.points)
    fit = fit_isoflop(
        points,
        bootstrap=options.bootstrap,
        seed=options.seed,
        edge=options.edge,
        losses=options.losses or None,
        source=str(options.points),
    )
    found = json.dumps(fit.to_dict(), indent=2)
    if options.json is not None and str(options.json) == "-":
        print(found)
        return
    if options.json is not None:
        options.json.write_text(found + "\n", encoding="utf-8")
    _print_fit(fit)


def _print_fit(fit: IsoflopFit) -> None:
    from rich.console import Console
    from rich.markup import escape

    from unmask.scaling import numbers

    console = Console(highlight=False, soft_wrap=True)
    for name, each in fit.objectives.items():
        console.print(_tables(name, each))
        for note in each.notes:
            console.print(f"  {escape(note)}")
        console.print()
    for gap in fit.gaps:
        of, over = numbers.label(gap.objective), numbers.label(gap.baseline)
        console.print(f"[bold]Compute of the {of} for the loss of the {over}[/bold]")
        shown = list(zip(gap.losses, gap.gaps, gap.gaps_ci95, strict=True))
        for loss, value, ends in shown if len(shown) <= 9 else shown[:: (len(shown) - 1) // 4]:
            told = f"  95% {numbers.three_figures(ends[0])} to {numbers.three_figures(ends[1])}" if ends else ""
            console.print(f"  at {loss:.3f} nats per token  {numbers.three_figures(value):>6}x{told}")
        ends = gap.exponent_difference_ci95
        told = f", 95% {ends[0]:.4f} to {ends[1]:.4f}" if ends else ""
        console.print(f"  difference of the loss exponents {gap.exponent_difference:.4f}{told}")


def _tables(name: str, each: ObjectiveFit) -> object:
    from rich import box
    from rich.console import Group
    from rich.table import Table

    from unmask.scaling import numbers

    def interval(ends: tuple[float, float] | None, form: str = "") -> str:
        if ends is None:
            return "-"
        return " to ".join(numbers.three_figures(end) if not form else format(end, form) for end in ends)

    minima = Table(title=f"[bold]{numbers.label(name)}[/bold]", title_justify="left", box=box.SIMPLE_HEAD)
    for head in ("FLOPs", "best N", "95%", "tokens D", "loss", "95%", ""):
        minima.add_column(head, justify="right" if head else "left", no_wrap=True)
    for minimum in each.minima:
        known = minimum.params is not None and minimum.tokens is not None and minimum.loss is not None
        minima.add_row(
            f"{minimum.flops:.3g}",
            numbers.count(minimum.params) if known and minimum.params else "-",
            interval(minimum.params_ci95),
            numbers.count(minimum.tokens) if known and minimum.tokens else "-",
            f"{minimum.loss:.4f}" if known and minimum.loss else "-",
            interval(minimum.loss_ci95, ".4f"),
            minimum.flag or "",
        )
    laws = Table(box=box.SIMPLE_HEAD)
    for head in ("law", "coefficient", "exponent", "95%", "95% by t", "d.f."):
        laws.add_column(head, justify="left" if head == "law" else "right", no_wrap=True)
    named: list[tuple[str, PowerLaw | None]] = [("N", each.params_law), ("D", each.tokens_law), ("L", each.loss_law)]
    for what, law in named:
        if law is not None:
            laws.add_row(
                what,
                f"{law.coefficient:.4g}",
                f"{law.exponent:.4f}",
                interval(law.exponent_ci95, ".4f"),
                interval(law.exponent_ci95_t, ".4f"),
                str(law.degrees_of_freedom),
            )
    return Group(minima, laws)
