"""The page of MT-Bench answers, and their table as CSV: functions of `mt-bench.json` alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from unmask.report import mtbench_figure
from unmask.report.document import document, picture
from unmask.report.markup import bullets, paragraph, section, table, text
from unmask.report.plain_tables import write_csv
from unmask.scaling import numbers

ABOUT = ("model", "kind", "params", "label")
MEASURES = ("score", "perplexity", "words", "repetition", "new_tokens", "seconds", "network_calls")
COLUMNS = (
    *("model_id", *ABOUT, "category", "turn", "questions", "turns", "empty", "unrated"),
    *(f"{name}{end}" for name in MEASURES for end in ("", "_low", "_high")),
)


def write(result: dict[str, Any], directory: Path) -> Path:
    """Write `mt-bench.csv`, `figures/` and `index.html`; returns the path of the page."""
    directory.mkdir(parents=True, exist_ok=True)
    write_csv(directory / "mt-bench.csv", [COLUMNS, *rows(result)])
    files = mtbench_figure.save_all(result, directory / "figures")
    page = directory / "index.html"
    page.write_text(page_html(result, files), encoding="utf-8")
    return page


def rows(result: dict[str, Any]) -> list[list[Any]]:
    """A row for each model and group: all, each turn, each category."""
    found: list[list[Any]] = []
    for model_id, about, figures in _each(result):
        row: list[Any] = [model_id, *(about[name] for name in ABOUT)]
        row += [figures[name] for name in ("category", "turn", "questions", "turns", "empty", "unrated")]
        for name in MEASURES:
            figure = figures.get(name)
            row += ["", "", ""] if figure is None else [figure["value"], *(figure["ci95"] or ("", ""))]
        found.append(row)
    return found


def headlines(result: dict[str, Any]) -> list[str]:
    """What each model shows beside the baseline, in words."""
    found: list[str] = []
    for model_id, about in result["models"].items():
        difference = about["difference"]
        if difference is None or result["measure"] not in difference:
            continue
        told = difference[result["measure"]]
        if result["measure"] == "score":
            words = f"{told['value']:+.2f} points{_interval(told, 2)}".replace("-", "−")
        else:
            words = f"{told['value']:.2f} times the perplexity{_interval(told, 2)}"
        if "seconds" in difference:
            seconds = difference["seconds"]
            words += f" in {seconds['value']:.2f} times the seconds{_interval(seconds, 2)}"
        found.append(f"{model_id} beside {result['baseline']}: {words}")
    return found


def page_html(result: dict[str, Any], files: dict[str, str]) -> str:
    """The page."""
    scored = result["measure"] == "score"
    title = "MT-Bench: score against seconds" if scored else "Answers to MT-Bench's questions: no score"
    without = (
        f"No judge graded these answers. What stands in the place of a score is their perplexity under "
        f"{result['reference']}, which says how usual the text is, not whether it answers: repetition lowers it."
    )
    parts = [
        "<header>",
        paragraph("unmask mtbench report", kind="eyebrow"),
        f"<h1>{text(title)}</h1>",
        paragraph(text("Masked diffusion models at their settings beside autoregressive ones."), kind="lead"),
        "" if scored else paragraph(text(without), kind="warning"),
        paragraph(text(_facts(result)), kind="facts"),
        bullets(text(line) for line in headlines(result)),
        "</header>",
        section("figure", "Against seconds", _figure(result, files)),
        section("settings", "Every setting", _settings(result)),
        section("groups", "By turn and category", _groups(result)),
        section("answers", "What they answer", *_examples(result)),
        section("method", "How it was measured", bullets(text(line) for line in _method(result))),
    ]
    return document(title, parts)


def _each(result: dict[str, Any]) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    models = cast("dict[str, dict[str, Any]]", result["models"])
    return [(model_id, about, figures) for model_id, about in models.items() for figures in about["groups"]]


def _facts(result: dict[str, Any]) -> str:
    by = f"graded by {result['judge']}" if result["judge"] else "not graded"
    machines = sorted({about["machine"] for about in result["models"].values() if about["machine"]})
    return " · ".join([f"{result['questions']} questions, {result['turns']} turns", by, *machines])


def _figure(result: dict[str, Any], files: dict[str, str]) -> str:
    caption = (
        "Mean over turns, with 95% intervals over questions; a line joins the settings of one model. "
        + ("Higher" if result["measure"] == "score" else "Lower (more usual text)")
        + " and further left is better. Models whose answers tell no seconds are in the tables alone."
    )
    others = {"CSV": "mt-bench.csv", "JSON": "mt-bench.json"}
    return picture(files, "Against seconds", caption, others)


def _settings(result: dict[str, Any]) -> str:
    heads = ["answers", "N", "score", "perplexity", "words", "repetition", "empty", "seconds", "calls"]
    lines: list[list[str]] = []
    for model_id, about in result["models"].items():
        figures = about["groups"][0]
        lines.append(
            [
                text(model_id),
                "–" if about["params"] is None else numbers.count(about["params"]),
                _told(figures, "score", 2),
                _told(figures, "perplexity", 1),
                _told(figures, "words", 1),
                _told(figures, "repetition", 3),
                f"{figures['empty']} of {figures['turns']}",
                _told(figures, "seconds", 3),
                _told(figures, "network_calls", 0),
            ]
        )
    return table(heads, lines)


def _groups(result: dict[str, Any]) -> str:
    measure = result["measure"]
    models = cast("dict[str, dict[str, Any]]", result["models"])
    heads = ["", "questions", *(text(model_id) for model_id in models)]
    lines: list[list[str]] = []
    for place, figures in enumerate(next(iter(models.values()))["groups"]):
        name = figures["category"] if figures["turn"] == "all" else f"turn {figures['turn']}"
        cells = [_told(about["groups"][place], measure, 2) for about in models.values()]
        lines.append([text(name), str(figures["questions"]), *cells])
    return table(heads, lines)


def _examples(result: dict[str, Any]) -> list[str]:
    found: list[str] = []
    for example in result["examples"]:
        found.append(f"<h3>{text(example['question'])}</h3>")
        for model_id, answer in example["answers"].items():
            found.append(paragraph(text(model_id), kind="note"))
            found.append(f"<blockquote>{text(answer or '(empty)')}</blockquote>")
    return found


def _method(result: dict[str, Any]) -> list[str]:
    found = [
        "Figures are over the questions and turns that all models have answered. Intervals are 95% percentiles over "
        "2,000 resamples of the questions, the same for all models, so that differences are paired.",
        "Seconds of an answer that was written together with others are its share of the batch's. They compare on one "
        "machine that does nothing else.",
    ]
    if result["judge"]:
        found.append(
            f"Scores are {result['judge']}'s, from 1 to 10 for each turn with FastChat's prompts; judgments without a "
            "rating count in no mean."
        )
    if result["reference"]:
        found.append(
            f"Perplexity is that of the answers after their conversations as plain text, in the tokens of "
            f"{result['reference']}. Repetition is the share of an answer's 4-grams of words that it had before."
        )
    return [*found, f"To repeat: {result['command']}"]


def _told(figures: dict[str, Any], name: str, places: int) -> str:
    figure = figures.get(name)
    if figure is None:
        return "–"
    return f'<span class="nowrap">{figure["value"]:.{places}f}{_interval(figure, places)}</span>'


def _interval(figure: dict[str, Any], places: int) -> str:
    if figure["ci95"] is None:
        return ""
    low, high = (f"{end:.{places}f}".replace("-", "−") for end in figure["ci95"])
    return f" [{low}, {high}]"
