"""The page of the reversal curse, its table as CSV and its figure: functions of `reversal.json` alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from unmask.report.document import document, picture
from unmask.report.markup import bullets, model_name, paragraph, section, table, text, wrapped
from unmask.report.plain_tables import aligned, write_csv
from unmask.report.shares_figure import Bar, Panel, shares_figure
from unmask.scaling import numbers
from unmask.scaling.figures import save_forms
from unmask.wording import counted

HEADS = ("model", "asked", "test", "w", "steps", "items", "exact", "95%", "BLEU", "95%", "choice", "95%", "chance")
KINDS = {"same": "as trained", "reverse": "reversed"}
ASKED_FOR = {"name": "Description to name", "description": "Name to description"}
MEASURES = ("exact", "bleu", "choice")
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def write(whole: dict[str, Any], directory: Path) -> Path:
    """Write `reversal.csv`, `figures/` and `index.html`; returns the path of the page."""
    panels = panels_of(whole)
    write_csv(directory / "reversal.csv", csv_rows(whole))
    files = save_forms(partial(shares_figure, panels, 2), directory / "figures", "reversal")
    page = directory / "index.html"
    page.write_text(page_html(whole, files), encoding="utf-8")
    return page


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """A row of the table, as text."""
    choice = row["choice"]
    return (
        row["model"],
        row["asked"],
        row["test"].removesuffix(", reversed"),
        "-" if row["guidance"] is None else f"{row['guidance']:g}",
        "-" if row["steps"] is None else str(row["steps"]),
        str(row["items"]),
        f"{100 * row['exact']['value']:.1f}",
        interval(row["exact"]["ci95"]),
        f"{row['bleu']['value']:.1f}",
        interval(row["bleu"]["ci95"], 1),
        "-" if choice is None else f"{100 * choice['value']:.1f}",
        "-" if choice is None else interval(choice["ci95"]),
        f"{100 * row['chance']:.0f}",
    )


def plain_table(whole: dict[str, Any]) -> str:
    """A line for each model, way of decoding and test."""
    return aligned([HEADS, *(cells(row) for row in whole["rows"])], words=(0, 1, 2))


def interval(limits: Sequence[float], scale: float = 100) -> str:
    """Both ends, in percent."""
    low, high = limits
    return f"{scale * low:.1f}..{scale * high:.1f}"


def csv_rows(whole: dict[str, Any]) -> list[list[Any]]:
    """The head and a row for each model, way of decoding and test."""
    plain = ("model", "objective", "runs", "test", "trained", "asked", "answer", "guidance", "steps", "items")
    found: list[list[Any]] = [
        [*plain, "network_calls", "chance", *(f"{name}{end}" for name in MEASURES for end in ("", "_low", "_high"))]
    ]
    for row in whole["rows"]:
        line: list[Any] = [row[name] for name in plain]
        line += [row["network_calls"], row["chance"]]
        for name in MEASURES:
            line += ["", "", ""] if row[name] is None else [row[name]["value"], *row[name]["ci95"]]
        found.append(line)
    return found


def panels_of(whole: dict[str, Any]) -> list[Panel]:
    """For names and descriptions, what was chosen and what was written right, in the first way of decoding."""
    rows = first_decodings(whole["rows"])
    measures = {"choice": "right answer chosen", "exact": "right answer written"}
    return [
        Panel(
            ASKED_FOR[answer],
            label,
            [
                Bar(
                    row["objective"],
                    KINDS[row["asked"]],
                    row[measure]["value"],
                    row[measure]["ci95"],
                    row[measure]["of_runs"],
                )
                for row in rows
                if row["answer"] == answer
            ],
            rows[0]["chance"] if measure == "choice" else None,
        )
        for measure, label in measures.items()
        if rows[0][measure] is not None
        for answer in ASKED_FOR
    ]


def first_decodings(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the first way of decoding of each model."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        found.setdefault((row["model"], row["test"]), row)
    return list(found.values())


def page_html(whole: dict[str, Any], files: dict[str, str]) -> str:
    """The page."""
    return document(
        "The reversal curse",
        [
            "<header>",
            paragraph("unmask reversal", kind="eyebrow"),
            "<h1>The reversal curse</h1>",
            paragraph(
                text(
                    "Trained on sentences that tell of people in one direction, asked in that direction and in the "
                    "other, in phrasings that were not trained."
                ),
                kind="lead",
            ),
            paragraph(text(_facts(whole)), kind="facts"),
            bullets(_findings(whole)),
            "</header>",
            section("figure", "As trained and reversed", _figure(whole, files)),
            section("table", "Every model, decoding and test", _table(whole)),
            section("samples", "What they write", *_samples(whole)),
            section("method", "How it was done", bullets(map(text, _method(whole)))),
        ],
    )


def _facts(whole: dict[str, Any]) -> str:
    run = whole["runs"][0]
    seeds = whole["settings"]["seeds"]
    return (
        f"{whole['data']}: {whole['sentences']:,} sentences · {numbers.count(run['params'])} parameters, "
        f"{run['epochs']:g} epochs, {numbers.count(run['tokens'])} tokens · {counted(seeds, 'seed')} · "
        f"{whole['machine']}"
    )


def _findings(whole: dict[str, Any]) -> list[str]:
    """For each model what it does with reversed questions, beside the same measure in the direction it was trained."""
    rows = first_decodings(whole["rows"])
    measure = "exact" if rows[0]["choice"] is None else "choice"
    verb = {"exact": "written", "choice": "chosen"}[measure]
    told: list[str] = []
    for model in dict.fromkeys(row["model"] for row in rows):
        mine = {(row["asked"], row["answer"]): row for row in rows if row["model"] == model}
        parts = [
            f"{name}s {verb} right {_percent(mine['reverse', name][measure])} "
            f"({_percent(mine['same', name][measure])} as trained)"
            for name in ASKED_FOR
        ]
        guess = "" if measure == "exact" else f"; a guess is right in {100 * rows[0]['chance']:.0f}%"
        told.append(f"{model_name(model)}, reversed: {text('; '.join(parts) + guess)}.")
    return told


def _percent(figure: dict[str, Any]) -> str:
    low, high = figure["ci95"]
    return f"{100 * figure['value']:.0f}% (95% {100 * low:.0f} to {100 * high:.0f})"


def _figure(whole: dict[str, Any], files: dict[str, str]) -> str:
    written = "how often the written text begins with {}, in the first way of decoding of the table"
    first = whole["rows"][0]
    if first["choice"] is None:
        shown = written.format("the right answer").capitalize()
    else:
        wrong = NUMBERS[round(1 / float(first["chance"])) - 1]
        ones = "one" if wrong == "one" else "ones"
        shown = (
            f"Above, how often the right answer is likelier than {wrong} wrong {ones}; below, {written.format('it')}"
        )
    caption = f"{shown}. Bars are means over the seeds with 95% intervals over seeds and people, dots are single seeds."
    others = {"CSV": "reversal.csv", "JSON": "reversal.json"}
    return picture(files, "Right answers as trained and reversed, by objective", caption, others)


def _table(whole: dict[str, Any]) -> str:
    lines = [[model_name(row["model"]), *map(text, cells(row)[1:])] for row in whole["rows"]]
    return table(HEADS, lines, words=(0, 1, 2))


def _samples(whole: dict[str, Any]) -> list[str]:
    first = min(run["seed"] for run in whole["runs"])
    parts: list[str] = []
    for run in whole["runs"]:
        if run["seed"] == first:
            lines = [
                [text(test), wrapped(each["answer"]), wrapped(each["written"])]
                for test, items in cast("dict[str, list[dict[str, str]]]", run["samples"]).items()
                for each in items
            ]
            parts += [
                f"<h3>{model_name(run['model'])}</h3>",
                table(["test", "right", "written"], lines, words=(0, 1, 2)),
            ]
    return parts


def _method(whole: dict[str, Any]) -> list[str]:
    settings = whole["settings"]
    return [
        "A third of the people are told of name first, a third description first, a third both ways. The tests ask "
        "about the first two thirds.",
        "All models see the same sentences in the same order, for the same number of steps and tokens; the whole "
        "sentence is corrupted and scored.",
        "Masked models write by confidence at temperature 0 with unsupervised guidance w; autoregressive ones token by "
        "token. The likelihood of a candidate is exact for an autoregressive model and a bound, from "
        f"{settings['choice_samples']} draws of masks and with the same guidance, for the others.",
        "A share's interval is Wilson's for the number of independent items that has the variance of a bootstrap over "
        "seeds and people (all items about a person are drawn together); BLEU's is the bootstrap's. With few seeds "
        "the bootstrap tells too little of what differs between seeds: see the dots.",
        f"To repeat: {whole['command']}",
    ]
