"""The tables of a study as files: CSV for programs, LaTeX for papers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from unmask.report.plain_tables import write_csv
from unmask.scaling import numbers, series
from unmask.scaling.isoflop import IsoflopFit
from unmask.scaling.laws import Interval
from unmask.scaling.study import Study

ESCAPES = str.maketrans(
    {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}"}
    | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
)


def write(study: Study, fit: IsoflopFit | None, directory: Path) -> None:
    """Write `runs.csv`, and with a fit `minima.csv`, `laws.csv`, `tests.csv` and `tables.tex`."""
    directory.mkdir(parents=True, exist_ok=True)
    write_csv(directory / "runs.csv", _runs(study))
    if fit is None:
        for name in ("minima.csv", "laws.csv", "tests.csv", "tables.tex"):
            (directory / name).unlink(missing_ok=True)
        return
    write_csv(directory / "minima.csv", _minima(fit))
    write_csv(directory / "laws.csv", _laws(fit))
    write_csv(directory / "tests.csv", _tests(fit))
    (directory / "tables.tex").write_text(latex(fit), encoding="utf-8")


def latex(fit: IsoflopFit) -> str:
    """The minima and the laws as two `tabular`s, with booktabs' rules."""
    minima: list[list[str]] = []
    for name, each in fit.objectives.items():
        for minimum in each.minima:
            if minimum.params is None or minimum.tokens is None or minimum.loss is None or minimum.flag is not None:
                continue
            minima.append(
                [
                    escaped(series.label(name)),
                    _power(minimum.flops),
                    escaped(numbers.count(minimum.params)),
                    _between(minimum.params_ci95, numbers.count),
                    escaped(numbers.count(minimum.tokens)),
                    f"{minimum.loss:.3f}",
                    _between(minimum.loss_ci95, "{:.3f}".format),
                ]
            )
    laws: list[list[str]] = []
    for name, each in fit.objectives.items():
        for symbol, law in (("L", each.loss_law), ("N", each.params_law), ("D", each.tokens_law)):
            if law is not None:
                low_high = _between(law.exponent_ci95, "{:.4f}".format)
                laws.append([escaped(series.label(name)), f"${symbol}$", f"${law.exponent:.4f}$", low_high])
    heads = ["", "FLOPs", "$N^*$", "95\\%", "$D^*$", "loss", "95\\%"]
    found = ["% needs \\usepackage{booktabs}\n"]
    found += [_tabular("lrrrrrr", heads, minima)] if minima else []
    found += [_tabular("llrr", ["", "", "exponent", "95\\%"], laws)] if laws else []
    return "\n".join(found)


def escaped(words: str) -> str:
    """`words` as LaTeX text."""
    return words.translate(ESCAPES)


def _tabular(columns: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    body = "".join(" & ".join(row) + r" \\" + "\n" for row in rows)
    return (
        rf"\begin{{tabular}}{{{columns}}}"
        + "\n\\toprule\n"
        + " & ".join(heads)
        + r" \\"
        + "\n\\midrule\n"
        + body
        + "\\bottomrule\n\\end{tabular}\n"
    )


def _power(value: float) -> str:
    mantissa, exponent = numbers.mantissa_exponent(value)
    return rf"$10^{{{exponent}}}$" if mantissa == "1" else rf"${mantissa} \times 10^{{{exponent}}}$"


def _between(ends: Interval | None, form: object) -> str:
    assert callable(form)
    return "--" if ends is None else "[" + ", ".join(escaped(str(form(end))) for end in ends) + "]"


def _runs(study: Study) -> Iterable[Sequence[object]]:
    yield [
        "run",
        "objective",
        "size",
        "params",
        "flops",
        "steps",
        "tokens",
        "seed",
        "loss",
        "standard_error",
        "bound",
        "seconds",
    ]
    for run in study.finished:
        plan, end = run.plan, run.end
        told = [end.get(name) for name in ("loss", "standard_error", "bound", "seconds")]
        yield [plan.name, plan.series, plan.size, plan.params, plan.flops, plan.steps, plan.tokens, plan.seed, *told]


def _minima(fit: IsoflopFit) -> Iterable[Sequence[object]]:
    yield [
        "objective",
        "flops",
        "params",
        "params_low",
        "params_high",
        "tokens",
        "loss",
        "loss_low",
        "loss_high",
        "flag",
    ]
    for name, each in fit.objectives.items():
        for m in each.minima:
            params, loss = m.params_ci95 or (None, None), m.loss_ci95 or (None, None)
            yield [name, m.flops, m.params, *params, m.tokens, m.loss, *loss, m.flag]


def _laws(fit: IsoflopFit) -> Iterable[Sequence[object]]:
    yield ["objective", "law", "irreducible", "coefficient", "exponent", "exponent_low", "exponent_high", "interval"]
    for name, each in fit.objectives.items():
        for what in ("loss", "params", "tokens"):
            for kind in (f"{what}_law", f"{what}_law_irreducible"):
                law = getattr(each, kind)
                if law is not None:
                    ends = law.exponent_ci95 or (None, None)
                    yield [name, kind, law.irreducible, law.coefficient, law.exponent, *ends, law.interval]


def _tests(fit: IsoflopFit) -> Iterable[Sequence[object]]:
    yield [
        "objective",
        "baseline",
        "law",
        "difference",
        "difference_low",
        "difference_high",
        "p_value",
        "p_value_t",
        "differ",
    ]
    for test in fit.tests:
        ends = test.difference_ci95 or (None, None)
        yield [
            test.objective,
            test.baseline,
            test.law,
            test.difference,
            *ends,
            test.p_value,
            test.p_value_t,
            test.differ,
        ]
