"""Token files of other programs as a corpus, without rewriting them.

A file belongs to the split that its name or a folder of it says (`train_...`, `valid/...`); where nothing says
"valid", the last hundredth of the tokens is held out. The ids mean what the tokenizer says that comes with them: one
beside the files, the one that is named, or that of the model that training starts from. Files of this size are not
read as a whole when they are opened: the corpus is known by the names and sizes of its files and by their first and
last tokens, and ids that the tokenizer does not have are refused where they are met.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from unmask.data import manifest, token_files
from unmask.data import tokenizer as tokenizers
from unmask.data.manifest import FileEntry, Manifest
from unmask.data.no_tokenizer import NoTokenizer
from unmask.data.source import Corpus, TokenSource
from unmask.data.token_files import TokenFile
from unmask.data.tokenizer import Tokenizer
from unmask.errors import UnmaskError, UsageError, unknown_name

HELD_OUT = 100
"""One in so many tokens is held out where nothing says which."""
FIRST = 1 << 16
"""Tokens at both ends of a file that are looked at when it is opened."""
STRETCHES, STRETCH = 64, 4096
"""Of a long split so much is decoded, to know the bytes of its text."""
SPLIT_NAMES = re.compile(r"(train|valid|validation|val|test)(?![a-z])", re.IGNORECASE)


class IdSource(TokenSource):
    """The tokens of one split, of which each must be in the vocabulary."""

    def __init__(self, name: str, split: manifest.Split, pieces: Sequence[Piece], vocab_size: int) -> None:
        stops = np.cumsum([len(piece.tokens) for piece in pieces])
        super().__init__(
            name, split, [piece.tokens for piece in pieces], np.concatenate([np.zeros(1, np.int64), stops])
        )
        self._pieces = pieces
        self._vocab_size = vocab_size

    @overload
    def __getitem__(self, key: slice) -> npt.NDArray[Any]: ...
    @overload
    def __getitem__(self, key: int) -> int: ...
    def __getitem__(self, key: slice | int) -> npt.NDArray[Any] | int:
        found = super().__getitem__(key)
        if isinstance(key, slice) and isinstance(found, np.ndarray) and found.size:
            start = key.indices(len(self))[0]
            piece = self._pieces[int(np.searchsorted(self.documents, start, side="right")) - 1]
            check_ids(found, self._vocab_size, piece.path)
        return found


@dataclass(frozen=True)
class Piece:
    """A stretch of one file."""

    path: Path
    tokens: npt.NDArray[Any]


@dataclass(frozen=True)
class PackedCorpus(Corpus):
    """A corpus of token files."""

    sources: dict[str, TokenSource]
    fingerprint: str

    def split(self, name: str) -> TokenSource:
        """The tokens of one split. Raises `UsageError` with the nearest name where there is none."""
        if name not in self.sources:
            raise unknown_name(f"split of {self.directory}", name, self.sources)
        return self.sources[name]

    @property
    def digest(self) -> str:
        """What tells one corpus from another, as far as names, sizes and both ends of each file do."""
        return self.fingerprint


def is_corpus(path: Path) -> bool:
    """Whether `path` is a prepared corpus or token files, and so no text."""
    return (path / manifest.FILE).is_file() or bool(token_files.find(path))


def open_corpus(
    path: str | Path, tokenizer: str = "", default: Tokenizer | None = None, *, training: bool = True
) -> Corpus:
    """The corpus that `path` means: one made by `unmask prepare`, or token files (see `unmask.data.token_files`).

    The ids of token files are those of `tokenizer`, a name as `unmask prepare` takes it, else of one beside them, else
    of `default`. Raises `UsageError` where there is none of them, or one for a prepared corpus, which has its own, or
    nothing to train on if that is for `training`, and `UnmaskError` for files that are damaged or hold other ids.
    """
    path = Path(path)
    files = _files(path, tokenizer)
    if not files:
        return Corpus.open(path)
    opened = [token_files.READERS[str(token_files.format_of(file))](file) for file in files]
    formats = sorted({file.format for file in opened})
    if len(formats) > 1:
        raise UsageError(f"{path}: holds files of {' and of '.join(formats)}: name a folder with those of one format")
    known = _tokenizer(path, opened, tokenizer, default)
    for file in opened:
        for end in (file.tokens[:FIRST], file.tokens[-FIRST:]):
            check_ids(end, known.vocab_size, file.path)
    sources = {name: _source(name, pieces, known) for name, pieces in _splits(path, opened, training).items()}
    content = Manifest(
        tokenizer=FileEntry("", ""),
        vocab_size=known.vocab_size,
        bos_id=known.bos_id,
        eos_id=-1 if known.eos_id is None else known.eos_id,
        mask_id=known.mask_id,
        dtype=opened[0].tokens.dtype.name,
        splits={name: source.split for name, source in sources.items()},
        empty_documents=0,
        preparation={"format": formats[0]},
        format=formats[0],
    )
    return PackedCorpus(path, content, known, sources, _fingerprint(path, opened))


def read_manifest(path: str | Path, tokenizer: str = "") -> Manifest:
    """What the corpus `path` holds; the files of a prepared one are not looked at. Raises as `open_corpus`."""
    path = Path(path)
    return open_corpus(path, tokenizer).manifest if _files(path, tokenizer) else Manifest.read(path)


def check_ids(tokens: npt.NDArray[Any], vocab_size: int, path: Path) -> None:
    """Raise `UnmaskError` if one of `tokens`, read from `path`, is not below `vocab_size`."""
    if tokens.size and (tokens.max() >= vocab_size or tokens.min() < 0):
        strange = tokens.max() if tokens.max() >= vocab_size else tokens.min()
        raise UnmaskError(
            f"{path}: holds the token {strange}, and the tokenizer has {vocab_size}, so it was made with another one: "
            "give that to train on it (--tokenizer)"
        )


def _files(path: Path, tokenizer: str) -> list[Path]:
    """The token files at `path`; none where a corpus was prepared, which takes no other `tokenizer`."""
    if not (path / manifest.FILE).is_file():
        return token_files.find(path)
    if tokenizer:
        raise UsageError(f"tokenizer {tokenizer!r}: {path} has its own: leave it out")
    return []


def _tokenizer(path: Path, files: list[TokenFile], named: str, default: Tokenizer | None) -> Tokenizer:
    if named:
        found = tokenizers.resolve(named)
        if isinstance(found, int):
            raise UsageError(f"tokenizer {named!r}: a new vocabulary fits no tokens that are there: give a file")
        return found
    folder = path if path.is_dir() else path.parent
    for place in (folder, folder / "tokenizer"):
        if any((place / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
            return Tokenizer.load(place)
    if default is not None and not isinstance(default, NoTokenizer):
        return default
    told = f" (they say {files[0].tokenizer!r})" if files[0].tokenizer else ""
    raise UsageError(
        f"{path}: token files do not bring their tokenizer{told}: give --tokenizer, such as mistral or the folder of a "
        "tokenizer.json"
    )


def _splits(path: Path, files: list[TokenFile], training: bool) -> dict[str, list[Piece]]:
    splits: dict[str, list[TokenFile]] = {}
    for file in files:
        splits.setdefault(_split_of(file.path, path), []).append(file)
    if training and "train" not in splits:
        raise UsageError(
            f"{path}: holds files of {', '.join(sorted(splits))} alone: name a folder with some to train on"
        )
    pieces = {name: [Piece(file.path, file.tokens) for file in of if file.tokens.size] for name, of in splits.items()}
    if "train" in splits and "valid" not in splits:
        cut = _cut(splits["train"])
        pieces["train"], pieces["valid"] = _divided(pieces["train"], cut)
    if not pieces.get("train") and (training or not any(pieces.values())):
        raise UnmaskError(f"{path}: holds no tokens{' to train on' if training else ''}: give files that do")
    return {name: of for name, of in pieces.items() if of}


def _split_of(file: Path, path: Path) -> str:
    """By the first word of the name, or of a folder below `path`."""
    for part in reversed(file.relative_to(path).parts if path.is_dir() else (file.name,)):
        found = SPLIT_NAMES.match(part)
        if found is not None:
            name = found[1].lower()
            return "valid" if name.startswith("val") else name
    return "train"


def _cut(files: list[TokenFile]) -> int:
    """Where the tokens held out begin: at a document, where the files tell these."""
    total = sum(len(file.tokens) for file in files)
    wanted = total - total // HELD_OUT
    starts = itertools.accumulate((len(file.tokens) for file in files), initial=0)
    for file, start in zip(files, starts, strict=False):
        if start + len(file.tokens) > wanted and file.documents is not None:
            here = start + file.documents
            return int(here[np.abs(here - wanted).argmin()])
    return wanted


def _divided(pieces: list[Piece], cut: int) -> tuple[list[Piece], list[Piece]]:
    before: list[Piece] = []
    after: list[Piece] = []
    at = 0
    for piece in pieces:
        inside = min(max(cut - at, 0), len(piece.tokens))
        before += [Piece(piece.path, piece.tokens[:inside])] if inside else []
        after += [Piece(piece.path, piece.tokens[inside:])] if inside < len(piece.tokens) else []
        at += len(piece.tokens)
    return before, after


def _source(name: str, pieces: list[Piece], tokenizer: Tokenizer) -> TokenSource:
    count = sum(len(piece.tokens) for piece in pieces)
    shards = tuple(manifest.Shard(piece.path.name, "", len(piece.tokens)) for piece in pieces)
    split = manifest.Split(len(pieces), count, 0, FileEntry("", ""), shards)
    source = IdSource(name, split, pieces, tokenizer.vocab_size)
    size = round(count * _bytes_per_token(source, tokenizer))
    return IdSource(
        name, manifest.Split(len(pieces), count, size, FileEntry("", ""), shards), pieces, tokenizer.vocab_size
    )


def _bytes_per_token(source: TokenSource, tokenizer: Tokenizer) -> float:
    """UTF-8 bytes of text for each token: exact for a short split, else from stretches spread evenly over it."""
    if len(source) <= STRETCHES * STRETCH:
        starts, size = [0], len(source)
    else:
        starts, size = np.linspace(0, len(source) - STRETCH, STRETCHES).astype(int).tolist(), STRETCH
    texts = (tokenizer.decode(source[start : start + size].tolist()) for start in starts)
    return sum(len(text.encode()) for text in texts) / (size * len(starts))


def _fingerprint(path: Path, files: list[TokenFile]) -> str:
    digest = hashlib.sha256()
    for file in files:
        name = file.path.relative_to(path) if path.is_dir() else file.path.name
        digest.update(f"{name} {file.format} {len(file.tokens)}\n".encode())
        digest.update(file.tokens[:FIRST].tobytes() + file.tokens[-FIRST:].tobytes())
    return digest.hexdigest()
