"""The page of a frontier, and its table as CSV: functions of `frontier.json` alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from unmask.report import frontier_figure
from unmask.report.document import document, picture
from unmask.report.markup import bullets, paragraph, plus_minus, section, table, text
from unmask.report.plain_tables import write_csv
from unmask.scaling import numbers
from unmask.wording import counted

COLUMNS = (
    "setting",
    "model",
    "sampler",
    "steps",
    "guidance",
    "temperature",
    "batch",
    "seconds_per_sample",
    "tokens_per_second",
    "first_token_seconds",
    "network_calls",
    "perplexity",
    "perplexity_error",
    "loss",
    "loss_error",
    "entropy",
    "entropy_error",
    "repetition",
    "gap",
    "gap_error",
)


def write(result: dict[str, Any], directory: Path) -> Path:
    """Write `frontier.csv`, `figures/` and `index.html`; returns the path of the page."""
    directory.mkdir(parents=True, exist_ok=True)
    write_csv(directory / "frontier.csv", [COLUMNS, *rows(result)])
    files = frontier_figure.save_all(result, directory / "figures")
    page = directory / "index.html"
    page.write_text(page_html(result, files), encoding="utf-8")
    return page


def rows(result: dict[str, Any]) -> list[list[Any]]:
    """A row for each setting and batch size; settings that were not timed have one without times."""
    found: list[list[Any]] = []
    for each in cast("list[dict[str, Any]]", result["settings"]):
        untimed = {"batch": "", "seconds_per_sample": "", "tokens_per_second": "", "first_token_seconds": ""}
        for timing in each["timings"] or [untimed]:
            found.append(
                [
                    each["label"],
                    each["model"],
                    each["sampler"],
                    each["steps"],
                    each["guidance"],
                    each["temperature"],
                    *(timing[name] for name in untimed),
                    each["network_calls"],
                    *_pair(each["perplexity"]),
                    *_pair(each["loss"]),
                    *_pair(each["entropy"]),
                    _pair(each["repetition"])[0],
                    *_pair(each["gap"]),
                ]
            )
    return found


def headline(speedup: dict[str, Any]) -> str:
    """What one batch size shows, in words."""
    batch = f"{counted(speedup['batch'], 'sample')} at a time"
    if speedup["ratio"] is None:
        if speedup["nearest_gap"] is None:
            return f"{batch}: no setting writes text as diverse as the ARM's, so none can be compared"
        return (
            f"{batch}: no setting reaches the ARM's quality at equal entropy; the nearest, {speedup['nearest']}, "
            f"is {speedup['nearest_gap']:.2f} nats per token above it"
        )
    low, high = speedup["ci95"]
    reached = "" if speedup["reached"] > 0.975 else f"; reached in {speedup['reached']:.0%} of the resamples"
    return (
        f"{batch}: equal quality at {speedup['ratio']:.2f} times the ARM's speed (95% {low:.2f} to {high:.2f}{reached})"
    )


def page_html(result: dict[str, Any], files: dict[str, str]) -> str:
    """The page."""
    parts = [
        "<header>",
        paragraph("unmask frontier", kind="eyebrow"),
        "<h1>Speed against quality</h1>",
        paragraph(
            text(
                "What a masked diffusion model's samplers write in how much time, beside an autoregressive model "
                "with its key-value cache."
            ),
            kind="lead",
        ),
        paragraph(text(_facts(result)), kind="facts"),
        bullets(text(headline(each)) for each in result["speedups"]),
        "</header>",
        section("figure", "The frontier", _figure(files)),
        section("settings", "Every setting", *_tables(result)),
        section("samples", "What they write", *_samples(result)),
        section("method", "How it was measured", *_method(result)),
    ]
    return document("Speed against quality", parts)


def _facts(result: dict[str, Any]) -> str:
    models = result["models"]
    return (
        f"MDM {models['mdm']['name']} ({numbers.count(models['mdm']['params'])} parameters), "
        f"ARM {models['arm']['name']} ({numbers.count(models['arm']['params'])}) · {result['samples']} samples of "
        f"{result['new_tokens']} tokens a setting · judged by {result['reference']} · {result['machine']}"
    )


def _figure(files: dict[str, str]) -> str:
    caption = (
        "Seconds for a sample against what its tokens cost more, under the reference, than those of ARM texts of the "
        "same entropy; lower and further left is better. Bars are standard errors; the line joins the settings than "
        "which none is both faster and better, with their network calls. Settings whose texts have less entropy than "
        "the ARM's at any temperature cannot be compared and are left out: see the table."
    )
    others = {"CSV": "frontier.csv", "JSON": "frontier.json"}
    return picture(files, "Speed against quality", caption, others)


def _tables(result: dict[str, Any]) -> list[str]:
    settings = cast("list[dict[str, Any]]", result["settings"])
    heads = ["setting", "calls", "perplexity", "entropy", "repetition", "gap"]
    for batch in result["batches"]:
        heads += [f"s/sample ×{batch}", f"tokens/s ×{batch}", f"first token ×{batch}"]
    lines: list[list[str]] = []
    for each in settings:
        line = [
            text(each["label"]),
            f"{each['network_calls']:.0f}",
            _told(each["perplexity"], 1),
            _told(each["entropy"], 2),
            _told(each["repetition"], 3),
            _told(each["gap"], 2),
        ]
        for place in range(len(result["batches"])):
            if not each["timings"]:
                line += ["–", "–", "–"]
                continue
            timing = each["timings"][place]
            line += [
                f"{timing['seconds_per_sample']:.4f}",
                f"{timing['tokens_per_second']:,.0f}",
                f"{timing['first_token_seconds']:.4f}",
            ]
        lines.append(line)
    return [table(heads, lines)]


def _samples(result: dict[str, Any]) -> list[str]:
    return [
        f"<h3>{text(each['label'])}</h3>\n<blockquote>{text(each['example'])}</blockquote>"
        for each in result["settings"]
        if each["timings"]
    ]


def _method(result: dict[str, Any]) -> list[str]:
    return [
        bullets(
            text(sentence)
            for sentence in (
                f"All settings write {result['new_tokens']} tokens after the same {result['prompts']} prompts with the "
                "same seeds, the end-of-text token barred, in one run on one machine.",
                f"Times are medians over {result['rounds']} rounds in which the settings take turns, after a round "
                "that warms up; the ARM's key-value cache is on. With guidance each step is two network calls.",
                "Perplexity, the loss in nats per token, and the entropy of a sample's unigrams are counted in the "
                f"reference's tokens ({result['reference']}).",
                "The gap is the loss minus that of ARM texts of equal entropy, interpolated between the ARM's "
                "temperatures in the table; texts more diverse than all of these are compared with the most diverse.",
                "The ratio of speeds is read off the Pareto line where its gap is 0; its interval comes from "
                "resampling texts and rounds together, and does not correct for choosing the best of several settings.",
                f"Seed {result['seed']}. To repeat: {result['command']}",
            )
        )
    ]


def _told(figure: dict[str, Any] | None, places: int) -> str:
    return "–" if figure is None else plus_minus(figure["value"], figure["standard_error"], places)


def _pair(figure: dict[str, Any] | None) -> Sequence[Any]:
    return ("", "") if figure is None else (figure["value"], figure["standard_error"])
