"""The page of solved problems, its table as CSV and its figure: functions of `gsm8k.json` alone."""

from __future__ import annotations

from dataclasses import dataclass
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

HEADS = ("model", "decoding", "runs", "problems", "calls", "solved", "95%")


@dataclass(frozen=True)
class Words:
    """What the page says of one kind of problem."""

    title: str
    lead: str
    trained: str
    """What the models see."""
    decodings: str
    right: str
    """When an answer is right."""
    samples: dict[str, str]
    """The columns of what is written, by their names in the JSON."""


WORDS = {
    "rationales": Words(
        "Problems with rationales",
        "A rationale is written after the question, an answer after both.",
        "the same two examples of each problem",
        "Decoding is done twice",
        "if math-verify finds it equal",
        {
            "questions": "question",
            "expected": "answer",
            "rationales": "rationale that was written",
            "answers": "answer that was written",
        },
    ),
    "countdown": Words(
        "Countdown",
        "Equations that take each number once and end at the target, the last number of the question.",
        "the same example of each problem",
        "Decoding is done once",
        "if its equations are, take each number once and lead to the target",
        {"questions": "question", "expected": "a known answer", "answers": "answer that was written"},
    ),
}


def write(whole: dict[str, Any], directory: Path) -> Path:
    """Write `gsm8k.csv`, `figures/` and `index.html`; returns the path of the page."""
    plain = ("model", "objective", "runs", "sampler", "problems", "network_calls")
    rows = [
        [*(row[name] for name in plain), row["accuracy"]["value"], *row["accuracy"]["ci95"]] for row in whole["rows"]
    ]
    write_csv(directory / "gsm8k.csv", [[*plain, "accuracy", "accuracy_low", "accuracy_high"], *rows])
    panel = panel_of(whole)
    files = save_forms(partial(shares_figure, [panel], 1), directory / "figures", "gsm8k")
    page = directory / "index.html"
    page.write_text(page_html(whole, files), encoding="utf-8")
    return page


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """A row of the table, as text."""
    low, high = row["accuracy"]["ci95"]
    return (
        row["model"],
        row["sampler"],
        str(row["runs"]),
        str(row["problems"]),
        f"{row['network_calls']:.0f}",
        f"{100 * row['accuracy']['value']:.1f}%",
        f"{100 * low:.1f}..{100 * high:.1f}",
    )


def plain_table(whole: dict[str, Any]) -> str:
    """A line for each model and way of decoding."""
    return aligned([HEADS, *(cells(row) for row in whole["rows"])], words=(0, 1))


def panel_of(whole: dict[str, Any]) -> Panel:
    """The solved share of each model and decoding."""
    bars = [
        Bar(row["objective"], row["sampler"], row["accuracy"]["value"], row["accuracy"]["ci95"], _runs(row))
        for row in whole["rows"]
    ]
    return Panel(whole["data"], "solved", bars)


def page_html(whole: dict[str, Any], files: dict[str, str]) -> str:
    """The page."""
    run, settings = whole["runs"][0], whole["settings"]
    facts = (
        f"{whole['data']}: {whole['problems']:,} problems · {numbers.count(run['params'])} parameters, "
        f"{run['epochs']:g} epochs, {numbers.count(run['tokens'])} tokens · "
        f"{counted(settings['seeds'], 'seed')} · {whole['machine']}"
    )
    caption = "Share of problems whose answer is right. Bars are means with 95% intervals, dots are single seeds."
    others = {"CSV": "gsm8k.csv", "JSON": "gsm8k.json"}
    words = WORDS[whole["task"]]
    return document(
        words.title,
        [
            "<header>",
            paragraph("unmask gsm8k", kind="eyebrow"),
            f"<h1>{text(words.title)}</h1>",
            paragraph(text(words.lead), kind="lead"),
            paragraph(text(facts), kind="facts"),
            "</header>",
            section("figure", "Solved", picture(files, "Share of solved problems, by model", caption, others)),
            section(
                "table",
                "Every model and decoding",
                table(
                    HEADS,
                    [[model_name(row["model"]), *map(text, cells(row)[1:])] for row in whole["rows"]],
                    words=(0, 1),
                ),
            ),
            section("samples", "What they write", *samples(whole)),
            section("method", "How it was done", bullets(map(text, _method(whole)))),
        ],
    )


def _runs(row: dict[str, Any]) -> list[float]:
    return row["accuracy"]["of_runs"]


def samples(whole: dict[str, Any]) -> list[str]:
    """For each model of the first seed its name and a table of what it wrote."""
    first = min(run["seed"] for run in whole["runs"])
    columns = WORDS[whole["task"]].samples
    parts: list[str] = []
    for run in whole["runs"]:
        if run["seed"] == first:
            lines = [
                [_cell(name, each[name]) for name in columns] for each in cast("list[dict[str, str]]", run["samples"])
            ]
            shown = table([*columns.values()], lines, words=range(len(columns)))
            parts += [f"<h3>{model_name(run['model'])}</h3>", shown]
    return parts


def _cell(column: str, content: str) -> str:
    return text(content) if column == "expected" else wrapped(content)


def _method(whole: dict[str, Any]) -> list[str]:
    settings = whole["settings"]
    words = WORDS[whole["task"]]
    return [
        f"All models see {words.trained} in the same order, for the same number of steps.",
        f"{words.decodings}, temperature {settings['temperature']:g}; masked models take at most "
        f"{settings['steps']} steps each, with unsupervised guidance {settings['guidance']:g}.",
        f"An answer is right {words.right}. Intervals are Wilson's, for the number of independent problems that "
        "has the variance of a bootstrap over seeds and problems.",
        f"To repeat: {whole['command']}",
    ]
