"""What the page of a study says of laws in N and D at once: the parametric law, and what repeated data is worth.

The parametric law is fitted to the runs on fresh data alone. Where the same training was made on several amounts of
distinct tokens, the data-constrained law (see `unmask.scaling.repeated`) is fitted to all runs; without such an axis
nothing fixes what a repeat is worth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from unmask.errors import UsageError
from unmask.report.markup import decimals, interval, name_of, paragraph, power, table, text
from unmask.scaling import numbers
from unmask.scaling.parametric import fit_parametric
from unmask.scaling.parametric_law import ParametricFit, ParametricLaw
from unmask.scaling.points import ONE_EPOCH, Point, epochs
from unmask.scaling.repeated import NAMES, RepeatedFit, fit_repeated_data
from unmask.scaling.repeats import against_freshest


@dataclass(frozen=True)
class Surfaces:
    """The laws of a study in N and D, where its runs can carry them."""

    parametric: ParametricFit | None = None
    repeated: RepeatedFit | None = None
    unfit_parametric: tuple[str, ...] = ()
    """Why an objective has none, in sentences."""
    unfit_repeated: tuple[str, ...] = ()
    """The same, of objectives trained on several amounts of distinct tokens."""


def fit_surfaces(points: Sequence[Point], *, bootstrap: int, seed: int) -> Surfaces:
    """Fit what can be fitted. An objective that has too few runs for a law is named, the others are fitted."""
    fresh = [point for point in points if epochs(point) <= ONE_EPOCH]
    varied = {first.objective for first, _ in against_freshest(points)}
    repeating = [point for point in points if point.objective in varied]
    parametric, unfit_parametric = _fit(fit_parametric, fresh, bootstrap, seed)
    repeated, unfit_repeated = _fit(fit_repeated_data, repeating, bootstrap, seed)
    return Surfaces(parametric, repeated, unfit_parametric, unfit_repeated)


Fit = TypeVar("Fit", ParametricFit, RepeatedFit)


def _fit(
    method: Callable[..., Fit], points: Sequence[Point], bootstrap: int, seed: int
) -> tuple[Fit | None, tuple[str, ...]]:
    """The fit, if any objective has enough runs for it, and why others have not."""
    if not points:
        return None, ()
    try:
        fit = method(points, bootstrap=bootstrap, seed=seed)
    except UsageError as error:
        return None, (f"Without a law: {str(error).removeprefix('points: ')}.",)
    return fit, tuple(f"Without a law: {reason}." for reason in fit.unfit.values())


def parametric_section(fit: ParametricFit) -> Iterable[str]:
    """The five parameters of each objective, and the compute-optimal laws that follow."""
    yield paragraph(
        "L = E + A / N<sup>α</sup> + B / D<sup>β</sup> through all runs on fresh data, by a Huber loss of log L. It "
        "uses the runs beside the minima too, and has no parabola's bias:",
        kind="above-table",
    )
    heads = ["", "E", "A", "α", "B", "β", "residuals", "left out"]
    yield table(heads, (row for name, law in fit.objectives.items() for row in _parameters(name, law)), words=(0,))
    yield paragraph("and what follows from it for the best sizes, beside the parabolas:", kind="above-table")
    heads = ["", "law", "exponent", "95% interval"]
    rows = [
        [name_of(name), what, numbers.signed(law.exponent, 4), interval(law.exponent_ci95, decimals(4))]
        for name, each in fit.objectives.items()
        for what, law in (
            ("best loss L − E", each.loss_law),
            ("best size N", each.params_law),
            ("best tokens D", each.tokens_law),
        )
    ]
    yield table(heads, rows, words=(0, 1))
    for gap in fit.gaps:
        if gap.observed is None:
            continue
        low, high = min(gap.gaps), max(gap.gaps)
        yield paragraph(
            f"By this law the {name_of(gap.objective)} needs {numbers.three_figures(low)} to "
            f"{numbers.three_figures(high)} times the compute of the {name_of(gap.baseline)}, over the losses that "
            "both reach."
        )
    yield _notes({name: law.notes for name, law in fit.objectives.items()})
    yield paragraph('<a href="../fits-parametric.json">This fit as JSON</a>.', kind="note")


def _parameters(name: str, law: ParametricLaw) -> Iterable[list[str]]:
    values = (law.E, law.A, law.alpha, law.B, law.beta)
    yield [
        name_of(name),
        *(_short(value) for value in values),
        f"{100 * law.residual_std:.2f}%",
        "–" if law.left_out_error is None else f"{100 * law.left_out_error:.2f}%",
    ]
    yield ["95% interval", *(interval(law.ci95[key], _short) for key in ("E", "A", "alpha", "B", "beta")), "", ""]
    others = law.cross_check
    yield ["by projection", *(_short(others[key]) for key in ("E", "A", "alpha", "B", "beta")), "", ""]


def repeated_section(fit: RepeatedFit) -> Iterable[str]:
    """How fast repeated data loses its value."""
    yield paragraph(
        "Where data repeats, D counts as D′ = U + U R<sub>D</sub> (1 − exp(−(D/U − 1) / R<sub>D</sub>)) of U "
        "distinct tokens (Muennighoff et al., 2023): R<sub>D</sub> is the number of epochs after which repeats "
        "have lost most of their value.",
        kind="above-table",
    )
    heads = ["", *(text(name) for name in NAMES), "runs", "epochs", "left out"]
    rows: list[list[str]] = []
    for name, law in fit.objectives.items():
        low, high = law.epochs_range
        rows.append(
            [
                name_of(name),
                *(_short(getattr(law, key)) for key in NAMES),
                str(law.points),
                f"{numbers.three_figures(low)} to {numbers.three_figures(high)}",
                str(law.left_out),
            ]
        )
        rows.append(["95% interval", *(interval(law.ci95[key], _short) for key in NAMES), "", "", ""])
    yield table(heads, rows)
    yield _notes({name: law.notes for name, law in fit.objectives.items()})
    yield paragraph(
        "Left out are runs whose loss had risen while they repeated their data, which this law cannot express.",
        '<a href="../fits-repeated.json">This fit as JSON</a>.',
        kind="note",
    )


def repeats_table(points: Sequence[Point]) -> str:
    """What repeats cost: each run against that of the same size and budget on the most distinct tokens."""
    rows = [
        [
            name_of(point.objective),
            power(point.flops),
            numbers.count(point.params),
            numbers.count(point.unique_tokens or point.tokens),
            numbers.three_figures(epochs(point)),
            numbers.signed(point.loss, 3),
            numbers.signed(point.loss - freshest.loss, 3),
        ]
        for freshest, group in against_freshest(points)
        for point in group
    ]
    heads = ["", "budget", "N", "distinct tokens", "epochs", "loss", "over the freshest"]
    return (
        paragraph("The same training on fewer distinct tokens:", kind="above-table") + table(heads, rows)
        if rows
        else ""
    )


def _notes(notes: dict[str, tuple[str, ...]]) -> str:
    lines = [f"<li>{name_of(name)}: {text(note)}</li>" for name, each in notes.items() for note in each]
    return "<ul>\n" + "\n".join(lines) + "\n</ul>" if lines else ""


def _short(value: float) -> str:
    """Three figures, or a power of ten where that is shorter."""
    if not math.isfinite(value):
        return "∞"
    return numbers.three_figures(value) if value == 0 or 1e-3 <= abs(value) < 1e6 else power(value)
