"""The work of `prepare` in units that do not depend on the number of processes: some files, or a range of one.

Each unit is encoded on its own into part files, so that any process may do it, in any order, and a preparation that
was killed continues with the units that are missing. What `shards` makes of the parts, in the order of the units, is
then the same bytes however they came about.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np
import numpy.typing as npt

from unmask.data.digests import write_atomically
from unmask.data.reading import Document, Source, read_documents
from unmask.data.tokenizer import Tokenizer
from unmask.errors import UnmaskError

SMALLEST_UNIT, LARGEST_UNIT, UNITS = 1 << 20, 1 << 28, 1024
BATCH_CHARS = 1 << 18


@dataclass(frozen=True)
class Unit:
    """Work for one process: `ranges` of bytes of sources, in order."""

    index: int
    size: int
    """Bytes of the sources."""
    ranges: tuple[tuple[Source, int, int], ...]

    @property
    def name(self) -> str:
        """The stem of its part files."""
        return f"{self.index:07d}"


@dataclass(frozen=True)
class Reading:
    """How sources become documents and splits."""

    text_field: str
    separator: str | None
    valid_fraction: float

    def documents(self, unit: Unit) -> Iterator[tuple[str, Document]]:
        """(split, document) for all that is in `unit`."""
        for source, start, stop in unit.ranges:
            for document in read_documents(source, start, stop, text_field=self.text_field, separator=self.separator):
                held_out = is_held_out(document.key, self.valid_fraction)
                yield source.split or ("valid" if held_out else "train"), document


@dataclass
class Counts:
    """What a unit gave to one split."""

    documents: int = 0
    tokens: int = 0
    bytes: int = 0


def is_held_out(key: str, fraction: float) -> bool:
    """Whether the document called `key` is in the `valid` split: a pure function of the name, never of position."""
    digest = hashlib.blake2b(b"valid/" + key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") < fraction * 2.0**64


def cut_into_units(sources: list[Source]) -> list[Unit]:
    """Units of equal size, about: small files together, large JSON lines files in ranges."""
    sizes = [source.path.stat().st_size for source in sources]
    target = min(max(sum(sizes) // UNITS, SMALLEST_UNIT), LARGEST_UNIT)
    ranges: list[tuple[Source, int, int]] = []
    for source, size in zip(sources, sizes, strict=True):
        step = target if source.divisible and size > target else max(size, 1)
        ranges += [(source, start, min(start + step, size)) for start in range(0, max(size, 1), step)]
    units: list[Unit] = []
    waiting: list[tuple[Source, int, int]] = []
    waiting_size = 0
    for position, (source, start, stop) in enumerate(ranges):
        waiting.append((source, start, stop))
        waiting_size += stop - start
        if waiting_size >= target or position == len(ranges) - 1:
            units.append(Unit(len(units), waiting_size, tuple(waiting)))
            waiting, waiting_size = [], 0
    return units


@dataclass
class _PartFiles:
    """The open part files of one split: tokens, and the length of each document."""

    stem: Path
    tokens: BinaryIO
    lengths: BinaryIO
    counts: Counts = field(default_factory=Counts)

    @classmethod
    def create(cls, stem: Path) -> Self:
        # The process in the name: one that outlived its parent for a moment must not write into another's file.
        tokens, lengths = (Path(f"{stem}.{kind}.{os.getpid()}.tmp") for kind in ("tokens", "lengths"))
        return cls(stem, tokens.open("wb"), lengths.open("wb"))

    def finish(self) -> None:
        for file, kind in ((self.tokens, "tokens"), (self.lengths, "lengths")):
            file.flush()
            os.fsync(file.fileno())
            file.close()
            Path(file.name).replace(f"{self.stem}.{kind}")

    def abandon(self) -> None:
        for file in (self.tokens, self.lengths):
            file.close()
            Path(file.name).unlink()


@dataclass(frozen=True)
class UnitEncoder:
    """Encodes units into part files in `directory`: `UNIT-SPLIT.tokens`, `UNIT-SPLIT.lengths`, last `UNIT.json`."""

    directory: Path
    tokenizer_path: Path
    dtype: str
    reading: Reading

    def load(self) -> Tokenizer:
        """The tokenizer, to be given to `encode`."""
        return Tokenizer.load(self.tokenizer_path)

    def encode(self, unit: Unit, tokenizer: Tokenizer) -> None:
        """Encode `unit`. Raises `UnmaskError` for text that cannot be read or encoded."""
        parts: dict[str, _PartFiles] = {}
        waiting: list[tuple[_PartFiles, str]] = []
        waiting_chars = empty = 0

        def flush() -> None:
            encoded = tokenizer.encode_batch([text for _, text in waiting])
            for (part, _), tokens in zip(waiting, encoded, strict=True):
                self._write(part, iter([tokens]), tokenizer)
            waiting.clear()

        try:
            for split, document in self.reading.documents(unit):
                if isinstance(document.text, str) and not document.text.strip():
                    empty += 1
                    continue
                if split not in parts:
                    parts[split] = _PartFiles.create(self.directory / f"{unit.name}-{split}")
                part = parts[split]
                if isinstance(document.text, str):
                    part.counts.bytes += _utf8_size(document.text, document.where)
                    waiting.append((part, document.text))
                    waiting_chars += len(document.text)
                if waiting_chars > BATCH_CHARS or not isinstance(document.text, str):
                    flush()  # before a stream too, to keep the order
                    waiting_chars = 0
                if not isinstance(document.text, str):
                    self._write(part, tokenizer.encode_stream(_counted(document, part.counts)), tokenizer)
            flush()
        except BaseException:
            for part in parts.values():
                part.abandon()
            raise
        for part in parts.values():
            part.finish()
        done = {"empty": empty, "splits": {split: vars(part.counts) for split, part in parts.items()}}
        write_atomically(self.directory / f"{unit.name}.json", json.dumps(done) + "\n")

    def _write(self, part: _PartFiles, stretches: Iterator[list[int]], tokenizer: Tokenizer) -> None:
        """Append one document, EOS included."""
        length = 1
        for stretch in stretches:
            ids = np.asarray(stretch, dtype=np.uint32)
            if ids.size and int(ids.max()) >= tokenizer.vocab_size:
                raise UnmaskError(f"the tokenizer gave id {ids.max()}, beyond its {tokenizer.vocab_size} tokens")
            part.tokens.write(ids.astype(self.dtype).tobytes())
            length += ids.size
        part.tokens.write(np.asarray([tokenizer.eos_id], dtype=self.dtype).tobytes())
        part.lengths.write(np.asarray([length], dtype=np.int64).tobytes())
        part.counts.documents += 1
        part.counts.tokens += length


def read_counts(directory: Path, unit: Unit) -> tuple[dict[str, Counts], int] | None:
    """The counts of each split and the number of empty documents of a finished unit; None if it is not finished."""
    path = directory / f"{unit.name}.json"
    if not path.is_file():
        return None
    done = json.loads(path.read_text(encoding="utf-8"))
    return {split: Counts(**counts) for split, counts in done["splits"].items()}, int(done["empty"])


def read_lengths(directory: Path, unit: Unit, split: str) -> npt.NDArray[np.int64]:
    """The length in tokens of each document of a finished unit."""
    return np.fromfile(directory / f"{unit.name}-{split}.lengths", dtype=np.int64)


def tokens_path(directory: Path, unit: Unit, split: str) -> Path:
    """The raw tokens of a finished unit."""
    return directory / f"{unit.name}-{split}.tokens"


def _utf8_size(text: str, where: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        raise UnmaskError(f"{where}: lone surrogate at character {error.start}: not valid Unicode, mend it") from None


def _counted(document: Document, counts: Counts) -> Iterator[str]:
    for block in document.text:
        counts.bytes += _utf8_size(block, document.where)
        yield block
