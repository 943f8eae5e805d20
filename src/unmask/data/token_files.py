"""Files of tokens that other training programs write, mapped into memory as they are.

    lit-gpt    `.bin`: "LITPKDS", then version (uint64), type (uint8), number of tokens (uint64), the tokens. What
               TinyLlama and the released code of SMDM train on.
    megatron   `.bin` of nothing but tokens, and an `.idx` beside it: "MMIDIDX", the type, the lengths of the sequences,
               their places, and the sequences at which documents begin.
    datatrove  `.ds` of nothing but tokens of 2 or 4 bytes, `.ds.index` with the ends of the documents, `.ds.metadata`
               with the tokenizer's name and the size of a token. What nanotron trains on.

Everything is little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from unmask.errors import UnmaskError, UsageError

LIT_GPT, MEGATRON = b"LITPKDS", b"MMIDIDX\x00\x00"
TYPES: dict[int, str] = {1: "<u1", 2: "<i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}
"""Types of tokens by their code in both headers; the others are floats."""
SUFFIXES = (".bin", ".ds")
WHOLE = "restore it from a copy"


@dataclass(frozen=True)
class TokenFile:
    """The tokens of one file."""

    path: Path
    format: str
    tokens: npt.NDArray[Any]
    """One-dimensional, read-only, mapped from the file."""
    documents: npt.NDArray[np.int64] | None
    """Where each document begins, and the end of the last; None where the file doesn't say."""
    tokenizer: str = ""
    """What the file says of its tokenizer."""


def lit_gpt(path: Path) -> TokenFile:
    """A chunk of lit-gpt's `PackedDataset`; the last chunk of a corpus is filled up with its separator."""
    header = struct.Struct("<7sQBQ")
    with path.open("rb") as file:
        start = file.read(header.size)
    if len(start) < header.size:
        raise UnmaskError(f"{path}: cut short within its header: {WHOLE}")
    _, version, code, count = header.unpack(start)
    if version != 1:
        raise UnmaskError(f"{path}: version {version} of lit-gpt's packed files is not known: only 1 is")
    return TokenFile(path, "lit-gpt", _mapped(path, _dtype(path, code), count, header.size), None)


def megatron(path: Path) -> TokenFile:
    """An indexed dataset of Megatron-LM: `path` with `.bin` and `.idx`."""
    index = path.with_suffix(".idx")
    content = np.memmap(index, dtype=np.uint8, mode="r")
    header = struct.Struct("<9sQBQQ")
    if len(content) < header.size:
        raise UnmaskError(f"{index}: cut short within its header: {WHOLE}")
    magic, version, code, sequences, ends = header.unpack(content[: header.size].tobytes())
    if magic != MEGATRON or version != 1:
        raise UnmaskError(f"{index}: not an index of Megatron's in its version 1")
    # what may follow, the modes of multimodal sequences, is not looked at
    if len(content) < header.size + 12 * sequences + 8 * ends:
        raise UnmaskError(f"{index}: cut short, it promises {sequences} sequences: {WHOLE}")
    dtype = _dtype(index, code)
    lengths = np.frombuffer(content, "<i4", sequences, header.size)
    places = np.frombuffer(content, "<i8", sequences, header.size + 4 * sequences)
    first = np.frombuffer(content, "<i8", ends, header.size + 12 * sequences)
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
    if not np.array_equal(places, starts[:-1] * dtype.itemsize):
        raise UnmaskError(f"{index}: its sequences do not follow one another in the .bin: merge it again with Megatron")
    if len(first) == 0 or first.min() < 0 or first.max() > sequences or (np.diff(first) < 0).any():
        raise UnmaskError(f"{index}: its documents are no ranges of its {sequences} sequences: {WHOLE}")
    return TokenFile(path, "megatron", _mapped(path, dtype, int(starts[-1]), 0), starts[first])


def datatrove(path: Path) -> TokenFile:
    """A tokenized file of datatrove; the size of a token is what the metadata say, else what fits the index, else 2."""
    index, metadata, loss = (path.with_name(path.name + end) for end in (".index", ".metadata", ".loss"))
    if loss.exists():
        raise UsageError(
            f"{loss}: masks part of the loss, which training here does not read: move it away to train on all"
        )
    name, size = "", 0
    if metadata.is_file():
        name, _, told = metadata.read_text(encoding="utf-8").partition("\n")[0].partition("|")
        size = int(told) if told in ("2", "4") else 0
    documents = None
    if index.is_file():
        documents = np.concatenate([np.zeros(1, np.int64), np.fromfile(index, "<u8").astype(np.int64)])
        if not size and documents[-1]:
            size = path.stat().st_size // int(documents[-1])
    dtype = np.dtype("<u4" if size == 4 else "<u2")
    count = path.stat().st_size // dtype.itemsize
    if documents is not None and (documents[-1] != count or (np.diff(documents) < 0).any()):
        raise UnmaskError(f"{index}: ends at token {documents[-1]}, and {path.name} has {count}: {WHOLE}")
    return TokenFile(path, "datatrove", _mapped(path, dtype, count, 0), documents, name)


READERS: dict[str, Callable[[Path], TokenFile]] = {"lit-gpt": lit_gpt, "megatron": megatron, "datatrove": datatrove}
"""What opens a file of a format. Raises `UnmaskError` for one that is damaged or cut short."""


def format_of(path: Path) -> str | None:
    """The name in `READERS` of the format of the file `path`; None for another one."""
    if path.suffix == ".ds":
        return "datatrove"
    if path.suffix != ".bin":
        return None
    with path.open("rb") as file:
        if file.read(len(LIT_GPT)) == LIT_GPT:
            return "lit-gpt"
    return "megatron" if path.with_suffix(".idx").is_file() else None


def find(path: Path) -> list[Path]:
    """The token files that `path` means: that file, `path` as Megatron's prefix, or all in the folder, in order."""
    if path.is_file():
        files = [path.with_suffix(".bin") if path.suffix == ".idx" else path]
    elif path.is_dir():
        files = sorted(file for suffix in SUFFIXES for file in path.rglob(f"*{suffix}"))
    else:
        files = [file for file in [path.with_name(f"{path.name}.bin")] if file.is_file()]
    return [file for file in files if file.is_file() and format_of(file) is not None]


def _dtype(path: Path, code: int) -> np.dtype[Any]:
    if code not in TYPES:
        raise UnmaskError(f"{path}: type {code} in its header is none of whole numbers: these are no tokens")
    return np.dtype(TYPES[code])


def _mapped(path: Path, dtype: np.dtype[Any], count: int, start: int) -> npt.NDArray[Any]:
    size = path.stat().st_size
    if size != start + count * dtype.itemsize:
        raise UnmaskError(f"{path}: {size} bytes, and {count} tokens take {start + count * dtype.itemsize}: {WHOLE}")
    if not count:
        return np.zeros(0, dtype)
    return np.memmap(path, dtype=dtype, mode="r", offset=start, shape=(count,))
