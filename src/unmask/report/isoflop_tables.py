"""The tables of an IsoFLOP fit on the page of a study: minima, laws, laws with a floor, tests of the exponents."""

from __future__ import annotations

from collections.abc import Iterable

from unmask.report.markup import decimals, interval, name_of, paragraph, power, table, text
from unmask.scaling import numbers
from unmask.scaling.isoflop import IsoflopFit, Minimum
from unmask.scaling.laws import PowerLaw


def fits(fit: IsoflopFit) -> Iterable[str]:
    """The tables of an IsoFLOP fit, and where they are as files."""
    yield _minima_table(fit)
    yield _laws_table(fit)
    yield _floors_table(fit)
    yield _tests_table(fit)
    yield paragraph(
        'These tables as CSV: <a href="tables/minima.csv">minima</a>, <a href="tables/laws.csv">laws</a>, '
        '<a href="tables/tests.csv">tests</a>; <a href="tables/tables.tex">as LaTeX</a>.',
        kind="note",
    )


def _minima_table(fit: IsoflopFit) -> str:
    def row(objective: str, minimum: Minimum) -> list[str]:
        why = text((minimum.flag or "") + (" the sizes" if minimum.flag == "outside" else ""))
        if minimum.params is None or minimum.tokens is None or minimum.loss is None or minimum.flag == "outside":
            beyond = text(minimum.beyond) or "–"
            return [name_of(objective), power(minimum.flops), beyond, "–", "–", "–", "–", why]
        return [
            name_of(objective),
            power(minimum.flops),
            numbers.count(minimum.params),
            interval(minimum.params_ci95, numbers.count),
            numbers.count(minimum.tokens),
            numbers.signed(minimum.loss, 3),
            interval(minimum.loss_ci95, decimals(3)),
            why,
        ]

    heads = ["", "budget", "best N", "95% interval", "tokens D", "loss", "95% interval", ""]
    rows = (row(name, minimum) for name, each in fit.objectives.items() for minimum in each.minima)
    return paragraph("The best size at each budget, from the parabolas:", kind="above-table") + table(
        heads, rows, words=(0, 7)
    )


def _laws_table(fit: IsoflopFit) -> str:
    def row(objective: str, what: str, law: PowerLaw) -> list[str]:
        bootstrap = law.exponent_ci95 if law.interval == "bootstrap" else None
        return [
            name_of(objective),
            what,
            numbers.three_figures(law.coefficient) if 1e-3 <= law.coefficient < 1e6 else power(law.coefficient),
            numbers.signed(law.exponent, 4),
            interval(bootstrap, decimals(4)),
            interval(law.exponent_ci95_t, decimals(3)),
            str(law.degrees_of_freedom),
        ]

    rows = [
        row(name, what, law)
        for name, each in fit.objectives.items()
        for what, law in (
            ("best loss L", each.loss_law),
            ("best size N", each.params_law),
            ("best tokens D", each.tokens_law),
        )
        if law is not None
    ]
    if not rows:
        return ""
    heads = ["", "law", "coefficient", "exponent", "95% by bootstrap", "95% by t", "d.f."]
    return (
        paragraph("Power laws coefficient × C<sup>exponent</sup> through those minima:", kind="above-table")
        + table(heads, rows, words=(0, 1))
        + paragraph(
            f"The bootstrap ({fit.resamples} resamples, seed {fit.seed}) asks what the noise of single runs does to "
            "the exponent if the law is right. The t interval asks how far the minima scatter about the line, and "
            'with few degrees of freedom it knows little. <a href="../fits.json">All fits as JSON</a>.',
            kind="note",
        )
    )


def _floors_table(fit: IsoflopFit) -> str:
    """Laws with an irreducible loss, and what the laws say of a budget that is left out."""
    rows: list[list[str]] = []
    for name, each in fit.objectives.items():
        law = each.loss_law_irreducible
        if not each.left_out:
            continue
        count = len(each.left_out)
        errors = [100 * sum(abs(one.loss_error) for one in each.left_out) / count]
        errors += [100 * abs(each.left_out[-1].loss_error)]
        rows.append(
            [
                name_of(name),
                numbers.signed(law.irreducible, 3) if law else "–",
                interval(law.irreducible_ci95, decimals(3)) if law else "–",
                numbers.signed(law.exponent, 4) if law else "–",
                interval(law.exponent_ci95, decimals(4)) if law else "–",
                *(f"{error:.2f}%" for error in errors),
            ]
        )
    heads = ["", "irreducible loss", "95% interval", "exponent", "95% interval", "left out", "largest left out"]
    return (
        paragraph(
            "With an irreducible loss (it takes four budgets), and how far the plain law of the other budgets misses "
            "the loss of one that is left out, on average and for the largest:",
            kind="above-table",
        )
        + table(heads, rows)
        if rows
        else ""
    )


def _tests_table(fit: IsoflopFit) -> str:
    """Whether the exponents of two objectives differ."""
    what = {"params": "best size N", "tokens": "best tokens D", "loss": "best loss L"}
    verdicts = {True: "they differ", False: "cannot be told apart", None: "unknown"}
    rows = [
        [
            f"{name_of(test.objective)} and {name_of(test.baseline)}",
            what[test.law],
            numbers.signed(test.difference, 4),
            interval(test.difference_ci95, decimals(4)),
            "–" if test.p_value is None else f"{test.p_value:.3f}",
            "–" if test.p_value_t is None else f"{test.p_value_t:.3f}",
            verdicts[test.differ],
        ]
        for test in fit.tests
    ]
    heads = ["", "exponent of", "difference", "95% interval", "p", "p by t", ""]
    return (
        paragraph("Whether the exponents differ:", kind="above-table") + table(heads, rows, words=(0, 1, 6))
        if rows
        else ""
    )
