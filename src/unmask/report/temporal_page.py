"""The page of the temporal experiment, and its tables as CSV: functions of `temporal.json` alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

from unmask.report import temporal_figure
from unmask.report.document import document, picture
from unmask.report.evaluation import IN_PERIOD, SHIFTED
from unmask.report.markup import bullets, paragraph, plus_minus, power, section, table, text
from unmask.report.plain_tables import aligned, write_csv
from unmask.report.temporal_figure import label
from unmask.scaling import numbers
from unmask.wording import counted

COLUMNS = (
    "name",
    "objective",
    "factor",
    "flops",
    "training_tokens",
    "epochs",
    "bound",
    "in_period_loss",
    "in_period_error",
    "shifted_loss",
    "shifted_error",
    "in_period_bits_per_byte",
    "shifted_bits_per_byte",
    "degradation",
    "degradation_error",
    "degradation_low",
    "degradation_high",
    "perplexity_percent",
    "degradation_minus_arm",
    "degradation_minus_arm_low",
    "degradation_minus_arm_high",
)


def write(result: dict[str, Any], windows: Iterable[Sequence[Any]], directory: Path) -> Path:
    """Write `temporal.csv`, `windows.csv` of these rows, `figures/` and `index.html`; returns the path of the page."""
    directory.mkdir(parents=True, exist_ok=True)
    write_csv(directory / "temporal.csv", [COLUMNS, *rows(result)])
    write_csv(directory / "windows.csv", windows)
    files = temporal_figure.save_all(result, directory / "figures")
    page = directory / "index.html"
    page.write_text(page_html(result, files), encoding="utf-8")
    return page


def rows(result: dict[str, Any]) -> list[list[Any]]:
    """A row for each kind of model."""
    against = {each["model"]: each["degradation"] for each in result["comparisons"]}
    found: list[list[Any]] = []
    for model in result["models"]:
        loss, worse = model["loss"], model["degradation"]
        difference = against.get(model["name"])
        found.append(
            [
                *(
                    model[name]
                    for name in ("name", "objective", "factor", "flops", "training_tokens", "epochs", "bound")
                ),
                *(loss[split][name] for split in (IN_PERIOD, SHIFTED) for name in ("value", "standard_error")),
                *(model["bits_per_byte"][split] for split in (IN_PERIOD, SHIFTED)),
                worse["value"],
                worse["standard_error"],
                *_ends(worse),
                model["perplexity_percent"]["value"],
                "" if difference is None else difference["value"],
                *(("", "") if difference is None else _ends(difference)),
            ]
        )
    return found


def findings(result: dict[str, Any]) -> list[str]:
    """What the experiment shows, in words."""
    told: list[str] = []
    for model in result["models"]:
        more, ends = model["perplexity_percent"]["value"], model["perplexity_percent"]["ci95"]
        between = "" if ends is None else f" (95% {ends[0]:+.1f} to {ends[1]:+.1f})"
        kind = "bound on the perplexity" if model["bound"] else "perplexity"
        before, after = (model["bits_per_byte"][split] for split in (IN_PERIOD, SHIFTED))
        told.append(
            f"{label(model)}: its {kind} is {_higher(more)} on later text{between}, its bits per byte "
            f"{_higher(100 * (after / before - 1))}"
        )
    by_name = {model["name"]: model for model in result["models"]}
    for each in result["comparisons"]:
        model, baseline = by_name[each["model"]], by_name[each["baseline"]]
        difference, ends = each["degradation"]["value"], each["degradation"]["ci95"]
        words = f"{label(model)} loses {abs(difference):.3f} nats per token {'less' if difference < 0 else 'more'}"
        words += f" than {label(baseline)}"
        if ends is None:
            words += "; one document of a period says nothing of its error"
        else:
            words += f" (95% of the difference {ends[0]:+.3f} to {ends[1]:+.3f})"
            words += ": not told apart" if ends[0] <= 0 <= ends[1] else ""
        told.append(words)
    return told


def _higher(percent: float) -> str:
    return f"{abs(percent):.1f}% {'lower' if percent < 0 else 'higher'}"


def plain_table(result: dict[str, Any]) -> str:
    """A line for each model, for a terminal."""
    heads = ("", "same period", "±", "later", "±", "difference", "±", "perplexity", "")
    lines: list[tuple[str, ...]] = [heads]
    for model in cast("list[dict[str, Any]]", result["models"]):
        before, after, worse = model["loss"][IN_PERIOD], model["loss"][SHIFTED], model["degradation"]
        lines.append(
            (
                label(model),
                *(
                    words
                    for figure in (before, after, worse)
                    for words in (f"{figure['value']:.3f}", _error(figure["standard_error"]))
                ),
                f"{model['perplexity_percent']['value']:+.1f}%",
                "bound" if model["bound"] else "exact",
            )
        )
    return aligned(lines, words=(0, 8))


def page_html(result: dict[str, Any], files: dict[str, str]) -> str:
    """The page."""
    texts = result["texts"]
    parts = [
        "<header>",
        paragraph("unmask temporal", kind="eyebrow"),
        "<h1>Text of the same period and later text</h1>",
        paragraph(
            text(
                f"Models trained on texts of {texts['early'][0]} to {texts['early'][1]} ({texts['name']}): how much "
                f"worse are they on texts of {texts['late'][0]} to {texts['late'][1]} than on texts of their own "
                "period that were held out?"
            ),
            kind="lead",
        ),
        paragraph(_facts(result), kind="facts"),
        bullets(text(sentence) for sentence in findings(result)),
        "</header>",
        section("figure", "Both periods", _figure(files)),
        section("models", "Every model", *_tables(result)),
        section("limits", "What this does not show", bullets(text(sentence) for sentence in limits(result))),
        section("method", "How it was measured", bullets(text(sentence) for sentence in method(result))),
    ]
    return document("Text of the same period and later text", parts)


def limits(result: dict[str, Any]) -> list[str]:
    """What must be kept in mind."""
    periods, seeds = result["periods"], result["settings"]["seeds"]
    told = [
        "An MDM's figures are bounds: its true losses are no higher. That the bound is as loose in both periods is an "
        "assumption; a difference of two bounds is not itself a bound. The ARM's figures are exact.",
        f"Documents are what was sampled, {periods[IN_PERIOD]['documents']} of the period and "
        f"{counted(periods[SHIFTED]['documents'], 'later one')}; with few, an interval is wide and its shape a guess.",
        "Later texts differ from earlier ones in more than their date: other authors, other subjects. Held-out texts "
        "may be by authors who were trained on; later ones seldom are.",
        f"The models have {numbers.count(result['settings']['params'])} parameters and learned from one corpus: "
        "nothing here says what larger ones do.",
    ]
    if len(seeds) < 2:
        told.append("There is one model of each kind: what another seed of the training would change is not known.")
    return told


def method(result: dict[str, Any]) -> list[str]:
    """How the figures came about."""
    settings, texts = result["settings"], result["texts"]
    splits = texts["splits"]
    training = splits["train"]
    left_out = f" Left out: {counted(texts['left_out'], 'file')} from between." if texts["left_out"] else ""
    return [
        f"Trained on {counted(training['documents'], 'document')} ({numbers.count(training['tokens'])} tokens of a "
        f"vocabulary of {texts['vocab_size']:,}); held out whole, by a hash of their names: "
        f"{splits['valid']['documents']} of the period; {counted(splits['shifted']['documents'], 'later one')}."
        f"{left_out}",
        f"All models have size {settings['size']}. Compute by C = 6 N D, in that of the first; 16 times as much is "
        "what the paper gives its MDM. Beyond one epoch data repeat: see the table.",
        f"Every model sees the same windows of {settings['length']} tokens, each within one document, and masked "
        f"models the same {settings['draws']} draws of masks of each, their numbers of masks spread evenly.",
        "Errors are those of a ratio of sums over documents"
        + (f", and over the {len(settings['seeds'])} seeds" if len(settings["seeds"]) > 1 else "")
        + "; intervals are Student's. Differences between models are taken window by window.",
        f"Machine: {result['machine']}. To repeat: {result['command']}",
    ]


def _facts(result: dict[str, Any]) -> str:
    settings, periods = result["settings"], result["periods"]
    return (
        f"size {text(settings['size'])} · {power(settings['flops'])} FLOPs · "
        f"{counted(len(settings['seeds']), 'seed')} · "
        + " · ".join(
            f"{name}: {counted(each['documents'], 'document')}, {numbers.count(each['tokens'])} tokens evaluated"
            for name, each in periods.items()
        )
    )


def _figure(files: dict[str, str]) -> str:
    caption = (
        "Left: nats per token of held-out text of the training's period and of later text, with standard errors over "
        "documents. Right: their difference, with 95% intervals. The intervals of two models overlap more than their "
        "difference is uncertain, as they saw the same texts: see the table."
    )
    others = {"CSV": "temporal.csv", "all windows": "windows.csv", "JSON": "temporal.json"}
    return picture(files, "Loss in both periods", caption, others)


def _tables(result: dict[str, Any]) -> list[str]:
    heads = ["", "tokens", "epochs", "", "same period", "later", "difference", "95%", "perplexity"]
    lines: list[list[str]] = []
    for model in result["models"]:
        worse = model["degradation"]
        lines.append(
            [
                text(label(model)),
                numbers.count(model["training_tokens"]),
                f"{model['epochs']:.1f}",
                "bound" if model["bound"] else "exact",
                *(
                    plus_minus(model["loss"][split]["value"], model["loss"][split]["standard_error"])
                    for split in (IN_PERIOD, SHIFTED)
                ),
                plus_minus(worse["value"], worse["standard_error"]),
                _interval(worse),
                f"{model['perplexity_percent']['value']:+.1f}%",
            ]
        )
    bytes_heads = ["", "same period", "later", "more"]
    in_bytes: list[list[str]] = []
    for model in result["models"]:
        before, after = (model["bits_per_byte"][split] for split in (IN_PERIOD, SHIFTED))
        in_bytes.append([text(label(model)), f"{before:.3f}", f"{after:.3f}", f"{100 * (after / before - 1):+.1f}%"])
    by_name = {model["name"]: model for model in result["models"]}
    against = [
        [
            text(f"{label(by_name[each['model']])} minus {label(by_name[each['baseline']])}"),
            *(
                plus_minus(each["loss"][split]["value"], each["loss"][split]["standard_error"])
                for split in (IN_PERIOD, SHIFTED)
            ),
            plus_minus(each["degradation"]["value"], each["degradation"]["standard_error"]),
            _interval(each["degradation"]),
        ]
        for each in result["comparisons"]
    ]
    return [
        paragraph("Nats per token; perplexity says by how much it is higher on later text.", kind="above-table"),
        table(heads, lines, words=(0, 3)),
        paragraph("Differences, window by window:", kind="above-table") if against else "",
        table(["", "same period", "later", "of the degradation", "95%"], against),
        paragraph("Bits per byte, which do not depend on how long the tokens of a period are:", kind="above-table"),
        table(bytes_heads, in_bytes),
    ]


def _interval(figure: dict[str, Any]) -> str:
    if figure["ci95"] is None:
        return "–"
    low, high = (numbers.signed(end, 3) for end in figure["ci95"])
    return f'<span class="nowrap">[{low}, {high}]</span>'


def _ends(figure: dict[str, Any]) -> Sequence[Any]:
    return figure["ci95"] or ("", "")


def _error(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
