"""Evaluations side by side: one table, and paired differences on the items that they have in common.

A paired difference is more precise than two errors suggest, as both models meet the same items. Its error has two
parts: of the items, from the differences of single items, and of the masks, from both estimators.
"""

from __future__ import annotations

import csv
import html
import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from unmask.errors import UsageError

NOT_PAIRED = {"perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte"}
"""Metrics that are no mean over the items."""


NEGATIVE = re.compile(r"^-([\d.]+)$")
TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{sign: f"\\{sign}" for sign in "_%&#${}"},
    "±": r"$\pm$",
}
"""How signs are written that mean something else in LaTeX."""


@dataclass(frozen=True)
class Row:
    """One metric of one task under one model."""

    task: str
    metric: str
    model: str
    value: float
    stderr_items: float | None
    stderr_estimate: float | None
    items: int
    network_calls: int | None
    seconds: float | None
    difference: float | None = None
    """To the first model, on the items in common."""
    difference_stderr_items: float | None = None
    difference_stderr_estimate: float | None = None


HEADS = {
    "task": "task",
    "metric": "metric",
    "model": "model",
    "value": "value",
    "stderr_items": "± items",
    "stderr_estimate": "± masks",
    "items": "items",
    "network_calls": "calls",
    "seconds": "seconds",
    "difference": "difference",
    "difference_stderr_items": "± items",
    "difference_stderr_estimate": "± masks",
}


def compare(results: Sequence[dict[str, Any]], names: Sequence[str]) -> list[Row]:
    """The rows of all tasks, models under each metric in the order of `results`; the first one is the baseline.

    Raises `UsageError` if there is no result.
    """
    if not results:
        raise UsageError("compare: name at least one result of unmask eval --json")
    parts = [cast("dict[str, Any]", result["unmask"]) for result in results]
    tasks = list(dict.fromkeys(task for part in parts for task in part["tasks"]))
    rows: list[Row] = []
    for task in tasks:
        metrics = dict.fromkeys(m for part in parts if task in part["tasks"] for m in part["tasks"][task]["metrics"])
        for metric in metrics:
            for part, name in zip(parts, names, strict=True):
                figures = part["tasks"].get(task, {})
                found = figures.get("metrics", {}).get(metric)
                if found is None:
                    continue
                rows.append(
                    Row(
                        task,
                        metric,
                        name,
                        found["value"],
                        found["stderr_items"],
                        found["stderr_estimate"],
                        figures["items"],
                        figures["network_calls"],
                        figures["seconds"],
                        *(_difference(parts[0], part, task, metric) if part is not parts[0] else (None, None, None)),
                    )
                )
    return rows


def _difference(
    first: dict[str, Any], other: dict[str, Any], task: str, metric: str
) -> tuple[float | None, float | None, float | None]:
    if metric in NOT_PAIRED:
        return None, None, None
    values: list[dict[int, float]] = []
    for part in (first, other):
        items = part["items"].get(task, {})
        if metric not in items:
            return None, None, None
        values.append(dict(zip(items["doc_id"], items[metric], strict=True)))
    common = sorted(values[0].keys() & values[1].keys())
    if not common:
        return None, None, None
    differences = np.array([values[1][doc_id] - values[0][doc_id] for doc_id in common])
    items_error = float(differences.std(ddof=1) / math.sqrt(len(common))) if len(common) > 1 else None
    masks = [part["tasks"][task]["metrics"][metric]["stderr_estimate"] for part in (first, other)]
    masks_error = None if None in masks else math.hypot(*masks)
    return float(differences.mean()), items_error, masks_error


def markdown(rows: Sequence[Row]) -> str:
    """A table for a README."""
    lines = [HEADS.values(), ["---" if head in ("task", "metric", "model") else "---:" for head in HEADS.values()]]
    lines += [[cell.replace("|", "\\|") for cell in _cells(row)] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def comma_separated(rows: Sequence[Row]) -> str:
    """All digits, for other programs."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADS)
    writer.writerows(["" if value is None else value for value in vars(row).values()] for row in rows)
    return text.getvalue()


def latex(rows: Sequence[Row]) -> str:
    """A tabular for a paper, with booktabs."""
    lines = ([NEGATIVE.sub(r"$-$\1", _tex(cell)) for cell in _cells(row)] for row in rows)
    body = "".join(" & ".join(line) + r" \\" + "\n" for line in lines)
    heads = " & ".join(_tex(head) for head in HEADS.values())
    columns = "lll" + "r" * (len(HEADS) - 3)
    return (
        f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n{heads} \\\\\n\\midrule\n{body}\\bottomrule\n\\end{{tabular}}\n"
    )


def web_page(rows: Sequence[Row]) -> str:
    """A page that needs nothing else."""
    head = "".join(f"<th>{html.escape(title)}</th>" for title in HEADS.values())
    lines = ("".join(f"<td>{html.escape(cell)}</td>" for cell in _cells(row)) for row in rows)
    body = "".join(f"<tr>{line}</tr>\n" for line in lines)
    style = (
        "body{font:15px system-ui,sans-serif;margin:2em}table{border-collapse:collapse}"
        "th,td{padding:.3em .7em;text-align:right;border-bottom:1px solid #ddd}"
        "td:nth-child(-n+3),th:nth-child(-n+3){text-align:left}"
    )
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>Evaluations</title><style>{style}</style>\n'
        f"<h1>Evaluations</h1>\n<table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table>\n"
        "<p>± items is the sampling error of the items, ± masks what the choice of masks adds; differences are to the "
        "first model, on the items in common.</p></html>\n"
    )


FORMATS: dict[str, Callable[[Sequence[Row]], str]] = {
    "markdown": markdown,
    "csv": comma_separated,
    "latex": latex,
    "html": web_page,
}


def names_of(paths: Sequence[Path]) -> list[str]:
    """A short name for each file: its stem, with its folder where stems repeat."""
    stems = [path.stem for path in paths]
    return [
        stem if stems.count(stem) == 1 else str(path.with_suffix("")) for stem, path in zip(stems, paths, strict=True)
    ]


def figure(value: float | None) -> str:
    """Four places; three digits of what is large, as a perplexity."""
    return "-" if value is None else f"{value:.4f}" if abs(value) < 1000 else f"{value:.3g}"


def _cells(row: Row) -> list[str]:
    shown: list[str] = []
    for name, value in vars(row).items():
        if value is None:
            shown.append("")
        elif isinstance(value, str):
            shown.append(value)
        elif isinstance(value, int):
            shown.append(f"{value:,}")
        else:
            shown.append(
                f"{value:.1f}" if name == "seconds" else f"{value:+.4f}" if name == "difference" else figure(value)
            )
    return shown


def _tex(text: str) -> str:
    return "".join(TEX.get(sign, sign) for sign in text)
