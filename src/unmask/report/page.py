"""The page of a study: `report/index.html` with its figures and tables, from the study directory alone.

It opens from disk, needs no network and no script, and follows the reader's light or dark theme.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from unmask.errors import UsageError
from unmask.report import findings, isoflop_tables, surface, tables
from unmask.report.document import document, picture
from unmask.report.evaluation import IN_PERIOD, SHIFTED, Evaluation
from unmask.report.markup import (
    bullets,
    name_of,
    paragraph,
    plus_minus,
    power,
    section,
    table,
    text,
    wrapped,
)
from unmask.report.samples import sample_figures
from unmask.report.surface import Surfaces, fit_surfaces
from unmask.scaling import numbers
from unmask.scaling.isoflop import IsoflopFit, fit_isoflop
from unmask.scaling.json_fits import dumps
from unmask.scaling.points import split_by_data, write_csv
from unmask.scaling.study import FinishedRun, Study

FIGURES = {
    "isoflop": (
        "IsoFLOP curves. Each curve is one budget in FLOPs, each dot a run, each diamond the lowest point of the "
        "parabola through them, with its 95% interval. A hollow diamond lies outside the sizes that were run and is "
        "left out of the fits."
    ),
    "loss-compute": (
        "Loss against compute. Diamonds are the minima above, lines the power laws through them with 95% bands, dots "
        "all other runs. The arrow spans the compute that one objective needs more than the other for the same loss."
    ),
    "residuals": (
        "How far each run lies from the parabola of its budget, stronger the larger the budget; the band is two "
        "standard deviations of a run's noise as estimated. A pattern in size says that a parabola is the wrong curve."
    ),
    "repeats": (
        "What repeats cost. Each line is one size and one budget, trained on fewer and fewer distinct tokens; its "
        "height is the loss over that of the run with the most distinct tokens."
    ),
}


def write_report(directory: Path, *, bootstrap: int = 1000, seed: int = 0) -> Path:
    """Fit the study in `directory`, write `fits.json` and `report/` there, and return the path of the page.

    Reads `evaluation.json` if there is one. A study that is not finished, or cannot be fitted, still gets a page, which
    says why. Raises `UsageError` if it has no finished run.
    """
    from unmask.scaling import figures  # matplotlib is slow to import

    study = Study.open(directory)
    if not study.points:
        raise UsageError(f"{directory}: none of its {len(study.plan.runs)} runs is finished with a loss: run it first")
    evaluation = Evaluation.read(directory)
    fit, unfit = None, ""
    try:
        fit = fit_isoflop(study.points, bootstrap=bootstrap, seed=seed, source=str(directory))
        (directory / "fits.json").write_text(dumps(fit, study.points) + "\n", encoding="utf-8")
    except UsageError as error:
        unfit = str(error).removeprefix(f"{directory}: ")
        (directory / "fits.json").unlink(missing_ok=True)

    surfaces = fit_surfaces(study.points, bootstrap=bootstrap, seed=seed)
    for name, each in (("parametric", surfaces.parametric), ("repeated", surfaces.repeated)):
        place = directory / f"fits-{name}.json"
        place.unlink(missing_ok=True)
        if each is not None:
            place.write_text(dumps(each, study.points) + "\n", encoding="utf-8")

    report = directory / "report"
    report.mkdir(exist_ok=True)
    files = figures.save_all(study.points, fit, report / "figures")
    write_csv(study.points, report / "points.csv")
    tables.write(study, fit, report / "tables")
    page = report / "index.html"
    page.write_text(page_html(study, fit, unfit, surfaces, evaluation, files), encoding="utf-8")
    return page


def page_html(
    study: Study,
    fit: IsoflopFit | None,
    unfit: str,
    surfaces: Surfaces,
    evaluation: Evaluation | None,
    files: dict[str, dict[str, str]],
) -> str:
    """The page. `unfit` is why there is no `fit`; `files` are the figures as `figures.save_all` names them."""
    plan = study.plan
    samples = evaluation.samples if evaluation else ()
    sections = [
        _head(study, fit, unfit, evaluation),
        section(
            "scaling",
            "How loss changes with size and compute",
            *(_figure(name, variants) for name, variants in files.items() if name != "repeats"),
            *(paragraph(*findings.comparison(gap)) for gap in (fit.gaps if fit else ())),
        ),
        section("fits", "The fits", *isoflop_tables.fits(fit)) if fit else "",
        section("parametric", "One law in N and D", *_parametric(surfaces)),
        section("repeats", "Repeated data", *_repeats(study, surfaces, files)),
        section("temporal", "Text of the same period and later text", *_temporal(evaluation)) if evaluation else "",
        section("samples", "What the models write", *sample_figures(samples)),
        section("limits", "What this study can and cannot show", *_limits(study, fit)),
        section("runs", "The runs", *_runs(study)),
        section("again", "How to make it again", *_again(study, fit, evaluation)),
    ]
    return document(plan.title, sections)


def _head(study: Study, fit: IsoflopFit | None, unfit: str, evaluation: Evaluation | None) -> str:
    plan = study.plan
    found = findings.headline(fit, evaluation)
    cards = "\n".join(
        f'<div class="finding"><p class="figure">{each.figure}</p><p>{each.meaning}</p></div>' for each in found
    )
    warnings: list[str] = []
    if unfit:
        warnings.append(f"There is no fit: {text(unfit)}.")
    if study.failed:
        warnings.append(f'{_count(len(study.failed), "run")} failed (<a href="#runs">which and why</a>).')
    if study.pending:
        verb = "is" if len(study.pending) == 1 else "are"
        warnings.append(f"{_count(len(study.pending), 'run')} of {len(plan.runs)} {verb} not finished.")
    return "\n".join(
        part
        for part in (
            "<header>",
            paragraph("unmask scaling study", kind="eyebrow"),
            f"<h1>{text(plan.title)}</h1>",
            paragraph(text(plan.question), kind="lead"),
            paragraph(_facts(study), kind="facts"),
            paragraph(*warnings, kind="warning"),
            f'<div class="findings">\n{cards}\n</div>' if cards else "",
            "</header>",
        )
        if part
    )


def _facts(study: Study) -> str:
    points = study.points
    sizes = sorted({run.plan.params for run in study.finished})
    facts = [
        " and ".join(name_of(name) for name in dict.fromkeys(point.objective for point in points)),
        _count(len(study.finished), "run"),
        f"{numbers.count(sizes[0])} to {numbers.count(sizes[-1])} parameters",
        f"{power(min(p.flops for p in points))} to {power(max(p.flops for p in points))} FLOPs",
        f"{numbers.duration(_wall_seconds(study))} of training",
    ]
    return " · ".join(facts)


def _figure(name: str, files: dict[str, str]) -> str:
    caption = FIGURES[name]
    return picture(files, caption.split(". ")[0], caption, {})


def _parametric(surfaces: Surfaces) -> Iterable[str]:
    if surfaces.parametric is not None:
        yield from surface.parametric_section(surfaces.parametric)
        yield paragraph(*(text(reason) for reason in surfaces.unfit_parametric), kind="note")


def _repeats(study: Study, surfaces: Surfaces, files: dict[str, dict[str, str]]) -> Iterable[str]:
    if "repeats" in files:
        yield _figure("repeats", files["repeats"])
    yield surface.repeats_table(study.points)
    if surfaces.repeated is not None:
        yield from surface.repeated_section(surfaces.repeated)
    yield paragraph(*(text(reason) for reason in surfaces.unfit_repeated), kind="note")


def _temporal(evaluation: Evaluation) -> Iterable[str]:
    if not evaluation.temporal:
        return
    worse = {(each.objective, each.run): each.relative for each in findings.degradations(evaluation)}
    words = [f"<b>{text(name)}</b>: {text(meaning)}" for name, meaning in evaluation.splits.items()]
    yield paragraph("; ".join(words) + "." if words else "")
    rows: list[list[str]] = []
    for row in evaluation.temporal:
        relative = worse.get((row.objective, row.run)) if row.split == SHIFTED else None
        rows.append(
            [
                name_of(row.objective),
                text(row.split),
                plus_minus(row.loss, row.standard_error),
                "bound" if row.bound else "exact",
                f"{row.bits_per_byte:.3f}",
                "" if relative is None else findings.percent(relative),
                numbers.count(row.tokens) if row.tokens else "–",
            ]
        )
    heads = ["", "text", "nats per token", "", "bits per byte", f"against {IN_PERIOD}", "tokens"]
    yield table(heads, rows, words=(0, 1, 3))
    yield paragraph(
        "Errors are standard errors over the held-out windows. A bound says that the true figure is no larger.",
        kind="note",
    )


def _limits(study: Study, fit: IsoflopFit | None) -> Iterable[str]:
    can, cannot = bullets(findings.shown(study, fit)), bullets(findings.limits(study, fit))
    if can:
        yield "<h3>It shows</h3>\n" + can
    if cannot:
        yield "<h3>It does not show, or shows only weakly</h3>\n" + cannot


def _runs(study: Study) -> Iterable[str]:
    best: dict[tuple[str, float], str] = {}
    for point in sorted(split_by_data(study.points), key=lambda point: point.loss):
        best.setdefault((point.objective, point.flops), point.name)
    lowest = set(best.values())

    def row(run: FinishedRun) -> list[str]:
        end, point = run.end, run.point
        if point is None:
            loss = "not measured"
        else:
            loss = plus_minus(point.loss, cast("float | None", end.get("standard_error")))
            if run.plan.name in lowest:
                loss = f"<b>{loss}</b>"
        bits, bound, seconds = end.get("bits_per_byte"), end.get("bound"), end.get("seconds")
        return [
            name_of(run.plan.series),
            power(run.plan.flops),
            text(run.plan.size),
            numbers.count(run.plan.params),
            numbers.count(float(end["tokens"])),
            f"{int(end['step']):,}".replace(",", " "),
            loss,
            "" if bound is None else "bound" if bound else "exact",
            "–" if bits is None else f"{float(bits):.3f}",
            "–" if seconds is None else numbers.duration(float(seconds)),
        ]

    heads = ["", "budget", "size", "N", "tokens", "steps", "nats per token", "", "bits per byte", "time"]
    yield table(heads, (row(run) for run in study.finished), words=(0, 2, 7))
    yield paragraph(
        "N counts non-embedding parameters. The lowest loss of each budget is bold.",
        '<a href="points.csv">The runs as CSV</a>.',
        kind="note",
    )
    if study.failed:
        yield "<h3>Failed runs</h3>"
        yield table(
            ["run", "why", "attempts"],
            ([text(each.run), wrapped(each.error), str(each.attempts)] for each in study.failed),
            words=(0, 1),
        )
    if study.pending:
        yield "<h3>Not finished</h3>"
        yield paragraph(text(", ".join(study.pending)))


def _again(study: Study, fit: IsoflopFit | None, evaluation: Evaluation | None) -> Iterable[str]:
    plan = study.plan
    starts = [run.start for run in study.finished if run.start]
    began = [start.get("time") for start in starts]
    time = f"{numbers.duration(_wall_seconds(study))} of training in {_count(len(study.finished), 'run')}"
    at_once = sorted({session.jobs for session in study.sessions})
    if at_once and at_once != [1]:
        time += f", {' or '.join(map(str, at_once))} at a time"
    if evaluation and evaluation.seconds:
        time += f", {numbers.duration(evaluation.seconds)} of evaluation"
    conventions = {"6nd": "C = 6 N D, N without embeddings", "full": "C with attention and output head"}
    convention = conventions.get(plan.flop_convention, text(plan.flop_convention))
    rows = [
        ("Command", f"<code>{text(plan.command)}</code>" if plan.command else ""),
        (
            "Fits",
            f"<code>unmask scaling fit points.csv --bootstrap {fit.resamples} --seed {fit.seed}</code>" if fit else "",
        ),
        ("Data", text(plan.corpus)),
        ("Machine", "<br>".join(_distinct(start.get("machine") for start in starts))),
        ("Versions", "<br>".join(_distinct(start.get("versions") for start in starts))),
        ("Seeds", text(", ".join(map(str, plan.seeds)))),
        ("Time", time),
        ("Begun", "<br>".join(_distinct([study.sessions[0].begun] if study.sessions else began[:1]))),
        ("FLOPs", convention),
    ]
    cells = "\n".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows if value)
    yield f"<dl>\n{cells}\n</dl>"


def _distinct(values: Iterable[Any]) -> list[str]:
    """Each different value once, in words."""
    words: dict[str, None] = {}
    for value in values:
        if isinstance(value, dict):
            pairs = cast(dict[str, Any], value).items()
            words[", ".join(f"{text(name)}&nbsp;{text(version)}" for name, version in pairs)] = None
        elif value:
            words[text(value)] = None
    return list(words)


def _wall_seconds(study: Study) -> float:
    """Wall time of the training: of its sessions, or where they are not known of the runs one after the other."""
    if study.sessions:
        return sum(session.seconds for session in study.sessions)
    return sum(float(run.end.get("seconds") or 0) for run in study.finished)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
