"""HTML in plain strings. Only `text` escapes, and everything that is not markup goes through it."""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Callable, Iterable, Sequence

from unmask.scaling import numbers, series


def text(value: object) -> str:
    """`value` as HTML text, also within quotes.

    Control characters that a page cannot show as they are, carriage returns among them, become their pictures (U+240D);
    those that have none, and lone surrogates, U+FFFD.
    """
    return html.escape("".join(map(_shown, str(value))), quote=True)


def section(anchor: str, title: str, *parts: str) -> str:
    """A section with its heading; nothing at all if it has no content."""
    content = "\n".join(part for part in parts if part)
    return f'<section id="{anchor}">\n<h2>{text(title)}</h2>\n{content}\n</section>' if content else ""


def paragraph(*sentences: str, kind: str = "") -> str:
    """A paragraph of markup."""
    content = " ".join(sentence for sentence in sentences if sentence)
    mark = f' class="{kind}"' if kind else ""
    return f"<p{mark}>{content}</p>" if content else ""


def bullets(items: Iterable[str]) -> str:
    """A list of markup."""
    content = "\n".join(f"<li>{item}</li>" for item in items)
    return f"<ul>\n{content}\n</ul>" if content else ""


def wrapped(content: str) -> str:
    """Text in a cell of a table, wrapped where it is long."""
    return f'<span class="wrap">{text(content)}</span>'


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, words: Sequence[int] = (0,)) -> str:
    """A table of markup; the columns in `words` are text, the others numbers and set flush right. Nothing if empty."""
    kinds = ["" if column in words else ' class="n"' for column in range(len(heads))]
    lines = ["".join(f"<th{kind}>{head}</th>" for kind, head in zip(kinds, heads, strict=True))]
    lines += ["".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds, row, strict=True)) for row in rows]
    head, *body = (f"<tr>{line}</tr>" for line in lines)
    if not body:
        return ""
    # on a narrow screen the table scrolls, not the page
    return (
        f'<div class="scroll"><table>\n<thead>{head}</thead>\n<tbody>\n' + "\n".join(body) + "\n</tbody></table></div>"
    )


def name_of(objective: str) -> str:
    """A series in the colour of its objective."""
    return f'<span class="objective {text(series.kind(objective))}">{text(series.label(objective))}</span>'


def model_name(model: str) -> str:
    """A model that may be called by its objective, which then has its colour."""
    return name_of(model) if model in series.LABELS else text(model)


def power(value: float) -> str:
    """FLOPs: 3.2 × 10<sup>13</sup>."""
    mantissa, exponent = numbers.mantissa_exponent(value)
    ten = f"10<sup>{exponent}</sup>"
    return f'<span class="nowrap">{ten if mantissa == "1" else f"{mantissa} × {ten}"}</span>'


def interval(ends: tuple[float, float] | None, form: Callable[[float], str]) -> str:
    """An interval whose ends are written by `form`, [0.60, 0.66]; a dash if there is none."""
    if ends is None:
        return "–"
    low, high = map(form, ends)
    return f'<span class="nowrap">[{low}, {high}]</span>'


def decimals(places: int) -> Callable[[float], str]:
    """The form of a number with so many decimals."""
    return lambda value: numbers.signed(value, places)


def plus_minus(value: float, error: float | None, places: int = 3) -> str:
    """A value with its standard error."""
    told = numbers.signed(value, places)
    return told if error is None else f'<span class="nowrap">{told} ± {error:.{places}f}</span>'


def _shown(character: str) -> str:
    if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cs"):
        return character
    code = ord(character)
    return chr(0x2400 + code) if code < 0x20 else "\u2421" if code == 0x7F else "\ufffd"
