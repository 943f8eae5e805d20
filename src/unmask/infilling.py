r"""Text with blanks: the language of `infill`, and its translation into tokens with masks.

A run of underscores is a blank of as many tokens (`_` one, `___` three); `_[20]` is a blank of twenty. `\_` is an
underscore. The space before a blank belongs to the blank where the tokenizer joins a space to the word after it, as
most do: in "The _ sat" the mask stands for " cat".
"""

from __future__ import annotations

import re
from typing import Protocol

from unmask.errors import UsageError

BLANK = re.compile(r"\\_|_\[(\d+)\]|_+")


class Encoder(Protocol):
    """What is needed of a tokenizer."""

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without special tokens."""
        ...


def parse(text: str) -> list[str | int]:
    """Cut `text` into pieces of text and blanks, each blank the number of its tokens.

    Raises `UsageError` if there is no blank, or one of length 0.
    """
    parts: list[str | int] = [""]
    end = 0
    for match in BLANK.finditer(text):
        between = text[end : match.start()] + ("_" if match[0] == "\\_" else "")
        end = match.end()
        last = parts[-1]
        if isinstance(last, str):
            parts[-1] = last + between
        elif between:
            parts.append(between)
        if match[0] != "\\_":
            parts.append(int(match[1]) if match[1] else len(match[0]))
    last = parts[-1]
    if isinstance(last, str):
        parts[-1] = last + text[end:]
    elif text[end:]:
        parts.append(text[end:])
    blanks = [part for part in parts if isinstance(part, int)]
    if not blanks:
        raise UsageError(f"infill {text!r}: has no blank: mark one with _ (one token), __ (two) or _[20] (twenty)")
    if 0 in blanks:
        raise UsageError(f"infill {text!r}: a blank of length 0: give it at least one token")
    return [part for part in parts if part != ""]


def encode(text: str, tokenizer: Encoder, mask_id: int) -> tuple[list[int], list[range]]:
    """The tokens of `text` with `mask_id` in its blanks, and where each blank stands. Raises as `parse`."""
    parts = parse(text)
    tokens: list[int] = []
    blanks: list[range] = []
    joins_spaces = _joins_spaces(tokenizer, ["the", "of", *text.split()])
    for index, part in enumerate(parts):
        if isinstance(part, int):
            blanks.append(range(len(tokens), len(tokens) + part))
            tokens += [mask_id] * part
            continue
        before_blank = index + 1 < len(parts)
        if before_blank and joins_spaces and part.endswith(" "):
            part = part[:-1]
        if part:
            tokens += encode_after(part, tokenizer) if index else tokenizer.encode(part)
    return tokens, blanks


def encode_after(text: str, tokenizer: Encoder) -> list[int]:
    """The ids of `text` in the middle of a text, where SentencePiece puts no space in front of it."""
    for before in ("0", "a", ")"):
        ids, both = tokenizer.encode(before), tokenizer.encode(before + text)
        if both[: len(ids)] == ids:
            return both[len(ids) :]
    return tokenizer.encode(text)


def _joins_spaces(tokenizer: Encoder, words: list[str]) -> bool:
    """Whether a space and the word after it can share a token."""
    return any(len(encode_after(f" {word}", tokenizer)) <= len(encode_after(word, tokenizer)) for word in words)
