"""The page of a trace of `unmask sample`: in which order, and how surely, a text was revealed. A function of its JSON.

Three views of each sample: tokens shaded by their step, the same tokens shaded by the confidence of their drawing, and
the text on its way, with blocks for what was still masked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from unmask.report.document import document
from unmask.report.markup import bullets, paragraph, section, table, text
from unmask.report.samples import LEGEND, SHADES, shade
from unmask.wording import counted

MASK = "░"
ON_THE_WAY = 4
"""States of the text that are shown between the first and the last."""
CONFIDENCE_LEGEND = (
    '<p class="legend"><span class="ramp">'
    + "".join(f'<i class="s{number}"></i>' for number in range(SHADES))
    + "</span> probability of the drawn token from 1 down to 0</p>"
)

Json = Mapping[str, Any]


def write(trace: Json, page: Path) -> Path:
    """Write the page of a trace, as `unmask sample --trace` has it, to `page`."""
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(page_html(trace), encoding="utf-8")
    return page


def page_html(trace: Json) -> str:
    """The page."""
    samples = cast("list[Json]", trace["samples"])
    head = [
        "<header>",
        paragraph("unmask sample", kind="eyebrow"),
        "<h1>How the text was revealed</h1>",
        paragraph(text("Every step of the sampler, and how probable the network held what it drew."), kind="lead"),
        paragraph(text(f"{Path(trace['model']).name}, {counted(len(samples), 'sample')}")),
        "</header>",
    ]
    return document("How the text was revealed", [*head, *(_sample(n, each) for n, each in enumerate(samples, 1))])


def _sample(number: int, sample: Json) -> str:
    pieces = cast("list[str]", sample["pieces"])
    given = _given(sample)
    found = reveals(sample, len(pieces))
    steps = 1 + max((step for step, _ in found.values()), default=0)
    calls = f"{sample['network_calls']} network call{'' if sample['network_calls'] == 1 else 's'}"
    by_step: list[str] = []
    by_confidence: list[str] = []
    for position, piece in enumerate(pieces):
        reveal = None if position in given else found.get(position)
        of_step, of_confidence = (0, 0) if reveal is None else (shade(reveal[0], steps), _doubt(reveal[1]))
        by_step.append(_span(piece, reveal, of_step, steps))
        by_confidence.append(_span(piece, reveal, of_confidence, steps))
    known = [sure for _, sure in found.values() if sure is not None]
    facts = [f"{sample['sampler']}, {counted(steps, 'step')}, {calls}, seed {sample['seed']}"]
    facts += [f"mean confidence {sum(known) / len(known):.2f}, lowest {min(known):.2f}"] if known else []
    again = sum(len(step["masked_again"]) for step in cast("list[Json]", sample["steps"]))
    facts += [f"{counted(again, 'token')} masked again on the way"] if again else []
    return section(
        f"sample-{number}",
        f"Sample {number}",
        bullets(map(text, facts)),
        "<h3>When</h3>",
        LEGEND,
        _quote(by_step),
        "<h3>How surely</h3>",
        CONFIDENCE_LEGEND,
        _quote(by_confidence),
        "<h3>On the way</h3>",
        table(["step", "network calls", "text"], _states(sample, pieces, given), words=(2,)),
    )


def reveals(sample: Json, length: int) -> dict[int, tuple[int, float | None]]:
    """The step, from 0, and the confidence with which each of the first `length` positions got its last token."""
    found: dict[int, tuple[int, float | None]] = {}
    for step in cast("list[Json]", sample["steps"]):
        for position in step["masked_again"]:
            found.pop(position, None)
        for each in step["revealed"]:
            found[each["position"]] = (each["step"], each["confidence"])
    return {position: reveal for position, reveal in found.items() if position < length}


def _given(sample: Json) -> set[int]:
    return {position for position, step in enumerate(cast("list[int]", sample["reveal_steps"])) if step < 0}


def _doubt(sure: float | None) -> int:
    """The shade of a confidence: the surest is the darkest."""
    return 0 if sure is None else min(SHADES - 1, int((1 - sure) * SHADES))


def _span(piece: str, reveal: tuple[int, float | None] | None, of: int, steps: int) -> str:
    if reveal is None:
        return f'<span class="given">{text(piece)}</span>'
    step, sure = reveal
    title = f"step {step + 1} of {steps}" + ("" if sure is None else f", confidence {sure:.3f}")
    return f'<span class="s{of}" title="{title}">{text(piece)}</span>'


def _quote(tokens: Sequence[str]) -> str:
    return f'<figure class="sample"><blockquote>{"".join(tokens)}</blockquote></figure>'


def _states(sample: Json, pieces: Sequence[str], given: set[int]) -> list[list[str]]:
    """Some states of the text from the first step to the last, evenly spread."""
    steps = cast("list[Json]", sample["steps"])
    count = min(len(steps), ON_THE_WAY + 1)
    shown = {(part * len(steps)) // count for part in range(1, count + 1)} if count else set[int]()
    there = set(given)
    rows: list[list[str]] = []
    for number, step in enumerate(steps, 1):
        there -= set(step["masked_again"])
        there |= {each["position"] for each in step["revealed"]}
        if number in shown:
            state = "".join(piece if place in there else MASK for place, piece in enumerate(pieces))
            rows.append([str(number), str(step["network_calls"]), f'<span class="wrap state">{text(state)}</span>'])
    return rows
