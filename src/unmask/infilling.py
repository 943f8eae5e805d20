r"""Text with blanks: the language of `infill`, and its translation into tokens with masks.

A run of underscores is a blank of as many tokens (`_` one, `___` three); `_[20]` is a blank of twenty, `_[2-8]` one of
2 to 8. `\_` is an underscore. The space before a blank belongs to the blank where the tokenizer joins a space to the
word after it, as most do: in "The _ sat" the mask stands for " cat".
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Protocol

from unmask.errors import UsageError

BLANK = re.compile(r"\\_|_\[(\d+)(?:-(\d+))?\]|_+")

Part = str | int | range
"""A piece of text, a blank of so many tokens, or one whose number of tokens is to be found."""


class Encoder(Protocol):
    """What is needed of a tokenizer."""

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without special tokens."""
        ...


def parse(text: str) -> list[Part]:
    """Cut `text` into pieces of text and blanks.

    Raises `UsageError` if there is no blank, one of length 0, or one whose range is empty.
    """
    parts: list[Part] = [""]
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
            parts.append(_blank(match))
    last = parts[-1]
    if isinstance(last, str):
        parts[-1] = last + text[end:]
    elif text[end:]:
        parts.append(text[end:])
    blanks = [part for part in parts if not isinstance(part, str)]
    if not blanks:
        raise UsageError(f"infill {text!r}: has no blank: mark one with _ (one token), __ (two) or _[20] (twenty)")
    for blank in blanks:
        if blank == 0 or (isinstance(blank, range) and blank.start == 0):
            raise UsageError(f"infill {text!r}: a blank of length 0: give it at least one token")
        if isinstance(blank, range) and not blank:
            raise UsageError(f"infill {text!r}: a blank from {blank.start} to {blank.stop - 1}: turn the numbers round")
    return [part for part in parts if part != ""]


def choices(parts: Sequence[Part]) -> list[list[str | int]]:
    """The texts that `parts` stand for: one for each choice of lengths, the shorter ones first."""
    options = [list(part) if isinstance(part, range) else [part] for part in parts]
    return [list(choice) for choice in itertools.product(*options)]


def with_lengths(text: str, lengths: Sequence[int]) -> str:
    """`text` with blanks of these `lengths`, one for each that it has."""
    left = iter(lengths)
    return BLANK.sub(lambda match: match[0] if match[0] == "\\_" else f"_[{next(left)}]", text)


def encode(parts: Sequence[str | int], tokenizer: Encoder, mask_id: int) -> tuple[list[int], list[range]]:
    """The tokens of `parts` with `mask_id` in the blanks, and where each blank stands."""
    tokens: list[int] = []
    blanks: list[range] = []
    words = [word for part in parts if isinstance(part, str) for word in part.split()]
    joins_spaces = _joins_spaces(tokenizer, ["the", "of", *words])
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


def _blank(match: re.Match[str]) -> int | range:
    """What one match of `BLANK` stands for."""
    if match[2]:
        return range(int(match[1]), int(match[2]) + 1)
    return int(match[1]) if match[1] else len(match[0])


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
