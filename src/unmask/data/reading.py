"""Files and folders to documents: .txt, .jsonl and Parquet, plain or compressed, always as a stream.

Every problem is an `UnmaskError` that names the file and the byte offset, line or row where it was found.
"""

from __future__ import annotations

import codecs
import contextlib
import glob
import gzip
import io
import itertools
import json
import logging
import lzma
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from unmask.errors import UnmaskError, UsageError, unknown_name

BLOCK = 1 << 20
COMPRESSIONS = ("", ".gz", ".zst", ".xz")
TEXT = tuple(f".txt{compression}" for compression in COMPRESSIONS)
JSONL = tuple(f".jsonl{compression}" for compression in COMPRESSIONS)
PARQUET = (".parquet",)
EXTENSIONS = TEXT + JSONL + PARQUET
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
PARQUET_ROWS = 256
"""Rows of a Parquet file in memory at a time."""


@dataclass(frozen=True)
class Source:
    """One file of text."""

    path: Path
    name: str
    """Its name within what was given: the same on every machine."""
    key: str | None = None
    """What decides its split, where that is not the name."""
    split: str | None = None
    """The split that all of it belongs to, where that is fixed."""

    @property
    def divisible(self) -> bool:
        """Whether ranges of bytes of it can be read on their own."""
        return self.path.name.endswith(".jsonl")


@dataclass(frozen=True)
class Document:
    """One text; `text` is a string or, for a long file, an iterator of its blocks, to be used up before the next."""

    key: str
    """Its name or id, or else its text: decides whether it is held out."""
    text: str | Iterable[str]
    where: str
    """For messages: the file, and the line or row."""


def find_sources(inputs: Iterable[str | Path | Source]) -> list[Source]:
    """The files that `inputs` mean: corpus names, files, and folders with everything of a known extension in them.

    A file that is meant more than once counts once, lest one copy be trained on and the other held out. Raises
    `UsageError` for a path that does not exist or an unknown extension, `UnmaskError` for an empty file and a folder
    without text.
    """
    from unmask.data.corpora import CORPORA

    sources: list[Source] = []
    for given in inputs:
        if isinstance(given, Source):
            sources.append(given)
            continue
        path = Path(given)
        if str(given) in CORPORA:
            sources += CORPORA[str(given)]()
        elif path.is_dir():
            sources += _in_folder(path)
        elif not path.exists():
            if not path.suffix and "/" not in str(given):
                raise unknown_name("file, folder or corpus", str(given), CORPORA)
            raise UsageError(f"{given}: no such file or folder")
        elif not path.name.endswith(EXTENSIONS):
            raise UsageError(f"{given}: unknown extension; known: {', '.join(EXTENSIONS)}")
        elif path.stat().st_size == 0:
            raise UnmaskError(f"{given}: the file is empty: leave it out, or put text into it")
        else:
            sources.append(Source(path, path.name))
    if not sources:
        raise UsageError("no text given: name files, folders or a corpus")
    first: dict[Path, Source] = {}
    for source in sources:
        first.setdefault(source.path.resolve(), source)
    return list(first.values())


def read_documents(
    source: Source, start: int = 0, stop: int | None = None, *, text_field: str = "text", separator: str | None = None
) -> Iterator[Document]:
    """The documents of `source`, in order.

    Of a file that is `divisible`, `start` and `stop` (bytes) select the documents that begin in that range. A text
    file is one document, or one for each stretch between two `separator`s.
    """
    if source.path.name.endswith(TEXT):
        return _text_documents(source, separator)
    if source.path.name.endswith(JSONL):
        return _jsonl_documents(source, start, stop, text_field)
    return _parquet_documents(source, text_field)


def _in_folder(folder: Path) -> list[Source]:
    found = [
        Source(path, f"{folder.resolve().name}/{name.as_posix()}")
        for path in folder.rglob("*")
        for name in [path.relative_to(folder)]
        if path.name.endswith(EXTENSIONS) and path.is_file() and not any(part.startswith(".") for part in name.parts)
    ]
    if not found:
        raise UnmaskError(f"{folder}: no text in this folder; known extensions: {', '.join(EXTENSIONS)}")
    return sorted(found, key=lambda source: source.name)


@contextlib.contextmanager
def _opened(path: Path) -> Generator[BinaryIO, None, None]:
    """The decompressed bytes of a file; what goes wrong in reading them becomes an `UnmaskError`."""
    openers: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".xz": lzma.open, ".zst": _open_zstd}
    opener = openers.get(path.suffix, _open_plain)
    try:
        with opener(path) as stream:
            yield stream
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        if isinstance(error, OSError) and error.strerror:
            raise UnmaskError(f"{path}: cannot be read: {error.strerror}: mend that, or leave it out") from None
        raise UnmaskError(f"{path}: damaged, perhaps truncated: {error}: replace the file, or leave it out") from None


def _open_plain(path: Path) -> Any:
    return path.open("rb")


def _open_zstd(path: Path) -> Any:
    import pyarrow  # the standard library has no zstd before Python 3.14

    stream = cast(Any, pyarrow).input_stream(str(path), compression="zstd")
    return io.BufferedReader(stream, BLOCK)  # which knows lines


def _text_blocks(path: Path) -> Iterator[str]:
    """The text of a file, decoded strictly, without a byte order mark."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with _opened(path) as stream:
        offset = 0  # of `block`
        while True:
            block = stream.read(BLOCK)
            pending = len(decoder.getstate()[0])  # bytes of a character that the last block cut through
            zero = block.find(b"\0")
            if offset == 0 and block.startswith(UTF_16):
                raise UnmaskError(f"{path}: UTF-16, not UTF-8: convert the file, or leave it out")
            if zero >= 0:
                raise UnmaskError(f"{path}: binary, not text: zero byte at byte {offset + zero}: leave the file out")
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                raise UnmaskError(
                    f"{path}: not UTF-8: byte {offset - pending + error.start}: convert the file, or leave it out"
                ) from None
            if offset == 0:
                text = text.removeprefix("\ufeff")
            if text:
                yield text
            if not block:
                return
            offset += len(block)


def _text_documents(source: Source, separator: str | None) -> Iterator[Document]:
    key = source.key or source.name
    if separator is None:
        # A small file is one string, so that the encoder can take several together; a large one stays a stream.
        small = source.path.stat().st_size <= BLOCK and source.path.name.endswith(".txt")
        blocks = _text_blocks(source.path)
        first = next(blocks, "")
        whole = small or not first
        yield Document(key, "".join([first, *blocks]) if whole else itertools.chain([first], blocks), str(source.path))
        return
    for number, text in enumerate(_separated(_text_blocks(source.path), separator), 1):
        yield Document(text, text, f"{source.path}: text {number}")


def _separated(blocks: Iterable[str], separator: str) -> Iterator[str]:
    """`"".join(blocks).split(separator)`, one at a time, in a time that is linear in their length."""
    text: list[str] = []  # what is read of the next one and holds no part of a separator
    tail = ""  # the last of it, which may
    for block in blocks:
        *ends, rest = (tail + block).split(separator)
        for end in ends:
            yield "".join([*text, end])
            text = []
        cut = max(len(rest) - len(separator) + 1, 0)
        text.append(rest[:cut])
        tail = rest[cut:]
    yield "".join([*text, tail])


def _jsonl_documents(source: Source, start: int, stop: int | None, text_field: str) -> Iterator[Document]:
    path = source.path
    with _opened(path) as stream:
        first_line = 1
        if start > 0:
            # The line that reaches into this range belongs to the range before.
            stream.seek(start - 1)
            start += len(stream.readline()) - 1
            first_line = 0  # counted only if there is something to report
        offset = start
        for number, line in enumerate(cast(Iterable[bytes], stream)):
            if stop is not None and offset >= stop:
                return
            beginning, offset = offset, offset + len(line)
            if beginning == 0:
                line = line.removeprefix(codecs.BOM_UTF8)
            if not line.strip():
                continue
            try:
                key, text = _jsonl_document(line, text_field)
            except UnmaskError as error:
                at = (first_line or 1 + _count_lines(path, start)) + number
                raise UnmaskError(f"{path}: line {at} (byte {beginning}): {error}") from None
            yield Document(key, text, f"{path}: line at byte {beginning}")


def _count_lines(path: Path, stop: int) -> int:
    """The number of newlines before byte `stop`."""
    count = 0
    with path.open("rb") as stream:
        while stop > 0 and (block := stream.read(min(BLOCK, stop))):
            count += block.count(b"\n")
            stop -= len(block)
    return count


def _jsonl_document(line: bytes, text_field: str) -> tuple[str, str]:
    """The key and the text of one line."""
    try:
        record = json.loads(line)
    except UnicodeDecodeError as error:
        raise UnmaskError(f"not UTF-8: byte {error.start} of the line") from None
    except json.JSONDecodeError as error:
        raise UnmaskError(f"broken JSON: {error.msg} at character {error.pos}") from None
    if not isinstance(record, dict):
        raise UnmaskError("not a JSON object")
    return _key_and_text(cast(dict[str, Any], record), text_field)


def _key_and_text(record: dict[str, Any], text_field: str) -> tuple[str, str]:
    if text_field not in record:
        raise UnmaskError(f"no field {text_field!r}; name another with --text-field: {', '.join(record)}")
    text = "" if record[text_field] is None else record[text_field]
    if not isinstance(text, str):
        raise UnmaskError(f"field {text_field!r} is {json.dumps(text, default=str)[:40]}, not a text")
    name = record.get("id")
    return (text if name is None else str(name)), text


def _parquet_documents(source: Source, text_field: str) -> Iterator[Document]:
    import datasets  # takes a second
    import pyarrow
    from pyarrow import parquet

    path = source.path
    arrow_exception = cast(type[Exception], cast(Any, pyarrow).ArrowException)
    logging.getLogger("datasets").setLevel(logging.CRITICAL)  # it prints what it raises
    try:
        present: list[str] = cast(Any, parquet).read_schema(path).names
        # A field that is missing is found missing in the first row, with the names of those that there are.
        columns = [name for name in ("id", text_field) if name in present] if text_field in present else None
        rows = cast(Any, datasets).load_dataset(
            "parquet",
            data_files=glob.escape(str(path)),
            split="train",
            streaming=True,
            columns=columns,
            batch_size=PARQUET_ROWS,
        )
        for number, record in enumerate(cast(Iterable[dict[str, Any]], rows)):
            try:
                key, text = _key_and_text(record, text_field)
            except UnmaskError as error:
                raise UnmaskError(f"{path}: row {number}: {error}") from None
            yield Document(key, text, f"{path}: row {number}")
    except (OSError, arrow_exception) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UnmaskError(f"{path}: not readable as Parquet: {reason}: replace the file, or leave it out") from None
