"""What all pages share: the frame of the document, and a figure in the form that suits the reader."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import resources

from unmask.report.markup import text


def document(title: str, parts: Iterable[str]) -> str:
    """A page that opens from disk, needs no network and no script, and follows the reader's theme."""
    style = resources.files("unmask.report").joinpath("style.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{text(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in parts if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def picture(files: Mapping[str, str], alt: str, caption: str, others: Mapping[str, str]) -> str:
    """The figure for the reader's screen and theme, with links to its files and `others` by what they are called."""
    dark, narrow = "(prefers-color-scheme: dark)", "(max-width: 600px)"
    media = ((f"{narrow} and {dark}", "narrow-dark"), (narrow, "narrow-light"), (dark, "wide-dark"))
    sources = "\n".join(f'<source media="{query}" srcset="figures/{files[variant]}">' for query, variant in media)
    links = {"SVG": f"figures/{files['wide-light']}", "PNG": f"figures/{files['png']}", **others}
    told = " ".join(f'<a href="{where}">{name}</a>' for name, where in links.items())
    return (
        f'<figure>\n<picture>\n{sources}\n<img src="figures/{files["wide-light"]}" alt="{text(alt)}">\n'
        f"</picture>\n<figcaption>{text(caption)} {told}</figcaption>\n</figure>"
    )
