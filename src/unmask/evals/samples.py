"""Generated texts to judge: read from what `unmask sample` writes, or from plain text.

A sample is its new text, behind a prompt that it continues where there is one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from unmask.errors import UnmaskError, UsageError


@dataclass(frozen=True)
class Sample:
    """One generated text."""

    text: str
    """What was generated, without the prompt."""
    prompt: str = ""


def read(path: Path, separator: str | None = None) -> list[Sample]:
    r"""The samples of a file.

    `.json` and `.jsonl`: what `unmask sample --json` prints or `--trace` writes, or any objects with a `text` (and
    perhaps a `prompt` that it begins with). Other files are text: one sample, or several with `separator` between them.
    Samples without text are kept: a model may write nothing. Raises `UsageError` if there is no such file or no sample
    in it, and `UnmaskError` where it cannot be read.
    """
    if not path.is_file():
        raise UsageError(f"{path}: {'a folder' if path.is_dir() else 'no such file'}: give a file of samples")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UnmaskError(f"{path}: not UTF-8 text: give samples as text or as JSON lines") from None
    if path.suffix in (".json", ".jsonl"):
        found = [
            _of_record(record, f"{path}: sample {number}") for number, record in enumerate(_records(path, text), 1)
        ]
    else:
        found = [Sample(part.strip("\n")) for part in (text.split(separator) if separator else [text]) if part.strip()]
    if not found:
        raise UsageError(f"{path}: no samples in it: write some with unmask sample --json")
    return found


def _records(path: Path, text: str) -> Iterator[dict[str, Any]]:
    """The objects of a file: a list, one with `samples`, or one a line."""
    try:
        whole = json.loads(text)
    except json.JSONDecodeError:
        whole = None
    if isinstance(whole, dict):
        whole = cast("dict[str, Any]", whole)
        samples = whole.get("samples", [whole])
    elif isinstance(whole, list):
        samples = cast("list[Any]", whole)
    else:
        samples = [_line(path, number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not isinstance(samples, list):
        raise UnmaskError(f"{path}: its samples are no list: write them with unmask sample --json")
    for number, record in enumerate(cast("list[Any]", samples), 1):
        if not isinstance(record, dict):
            raise UnmaskError(f"{path}: sample {number}: no JSON object: write samples with unmask sample --json")
        yield cast("dict[str, Any]", record)


def _line(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise UnmaskError(f"{path}: line {number}: not JSON ({error.msg}): one sample a line") from None


def _of_record(record: dict[str, Any], where: str) -> Sample:
    text = record.get("text")
    if not isinstance(text, str):
        raise UnmaskError(f"{where}: has no text: write samples with unmask sample --json")
    prompt = record.get("prompt")
    fills = cast("list[Any]", record["fills"]) if isinstance(record.get("fills"), list) else []
    if prompt is None and len(fills) == 1 and isinstance(fills[0], str) and text.endswith(fills[0]):
        prompt = text[: len(text) - len(fills[0])]  # a continuation; text around several blanks is judged whole
    if not isinstance(prompt, str) or not text.startswith(prompt):
        prompt = ""
    return Sample(text[len(prompt) :], prompt)
