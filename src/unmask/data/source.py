"""A prepared corpus opened for reading: memory-mapped tokens, checked against the manifest."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast, overload

import numpy as np
import numpy.typing as npt

from unmask.data import manifest
from unmask.data.digests import sha256_files
from unmask.data.manifest import Manifest
from unmask.data.tokenizer import Tokenizer
from unmask.errors import UnmaskError, unknown_name

VERIFIED = ".verified.json"


class TokenSource:
    """The tokens of one split as one long array over all its shards.

    `source[start:stop]` is a one-dimensional array of the corpus's dtype, read-only and mapped from the file where
    it lies in one shard. `len(source)` is the number of tokens.
    """

    def __init__(self, name: str, split: manifest.Split, shards: list[npt.NDArray[Any]], documents: npt.NDArray[Any]):
        self.name = name
        """The name of the split."""
        self.split = split
        """Its entry in the manifest: documents, tokens, bytes."""
        self.documents: npt.NDArray[np.int64] = documents
        """Where each document begins, and the end of the last: one more number than there are documents."""
        self._shards = shards
        self._stops = np.cumsum([len(shard) for shard in shards])

    def __len__(self) -> int:
        return self.split.tokens

    @overload
    def __getitem__(self, key: slice) -> npt.NDArray[Any]: ...
    @overload
    def __getitem__(self, key: int) -> int: ...
    def __getitem__(self, key: slice | int) -> npt.NDArray[Any] | int:
        if not isinstance(key, slice):
            position = range(len(self))[key]
            return int(self[position : position + 1][0])
        start, stop, step = key.indices(len(self))
        if step != 1:
            raise IndexError("tokens are read in slices of step 1")
        pieces: list[npt.NDArray[Any]] = []
        at = start
        while at < stop:
            shard = int(np.searchsorted(self._stops, at, side="right"))
            first = int(self._stops[shard]) - len(self._shards[shard])
            pieces.append(self._shards[shard][at - first : stop - first])
            at = int(self._stops[shard])
        return pieces[0] if len(pieces) == 1 else np.concatenate([self._shards[0][:0], *pieces])

    def document(self, index: int) -> npt.NDArray[Any]:
        """The tokens of one document, its EOS included."""
        return self[int(self.documents[index]) : int(self.documents[index + 1])]


@dataclass(frozen=True)
class Corpus:
    """A prepared corpus: `Corpus.open(directory)`."""

    directory: Path
    manifest: Manifest
    tokenizer: Tokenizer

    @classmethod
    def open(cls, directory: str | Path) -> Self:
        """Open the corpus in `directory` and check every file against the manifest.

        The check reads everything once; a stamp in the directory, where it can be written, remembers which files were
        verified and have not changed since. Raises `UnmaskError` that names the file if one is missing, truncated or
        altered.
        """
        directory = Path(directory)
        content = Manifest.read(directory)
        remedy = f"delete {directory} and prepare it again"
        if content.vocab_size - 1 > np.iinfo(content.dtype).max:
            raise UnmaskError(
                f"{directory / manifest.FILE}: a vocabulary of {content.vocab_size} does not fit {content.dtype}: "
                + remedy
            )
        expected: list[manifest.FileEntry] = [content.tokenizer]
        for split in content.splits.values():
            for entry, dtype, length in (
                (split.boundaries, "int64", split.documents + 1),
                *((shard, content.dtype, shard.tokens) for shard in split.shards),
            ):
                _check_array(directory / entry.file, dtype, length, remedy)
                expected.append(entry)
            if sum(shard.tokens for shard in split.shards) != split.tokens:
                raise UnmaskError(f"{directory / manifest.FILE}: the shards do not add up to the split: {remedy}")
        _check_digests(directory, expected, remedy)
        tokenizer = Tokenizer.load(directory / content.tokenizer.file)
        ids = (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id, tokenizer.mask_id)
        if ids != (content.vocab_size, content.bos_id, content.eos_id, content.mask_id):
            raise UnmaskError(f"{directory / 'tokenizer'}: not the tokenizer of the manifest: {remedy}")
        return cls(directory, content, tokenizer)

    @property
    def digest(self) -> str:
        """What tells one corpus from another: the SHA-256 of its manifest, which has those of all its files."""
        return hashlib.sha256((self.directory / manifest.FILE).read_bytes()).hexdigest()

    def split(self, name: str) -> TokenSource:
        """The tokens of one split. Raises `UsageError` with the nearest name where there is none."""
        if name not in self.manifest.splits:
            raise unknown_name(f"split of {self.directory}", name, self.manifest.splits)
        split = self.manifest.splits[name]
        shards = [_mapped(self.directory / shard.file) for shard in split.shards]
        return TokenSource(name, split, shards, _mapped(self.directory / split.boundaries.file))


def _mapped(path: Path) -> npt.NDArray[Any]:
    return cast(npt.NDArray[Any], np.load(path, mmap_mode="r", allow_pickle=False))


def _check_array(path: Path, dtype: str, length: int, remedy: str) -> None:
    """The shape, dtype and size of an array file, without reading its content."""
    if not path.is_file():
        raise UnmaskError(f"{path}: this file of the corpus is missing: {remedy}")
    try:
        array = _mapped(path)
    except (ValueError, OSError, EOFError) as error:
        raise UnmaskError(f"{path}: truncated or altered ({error}): {remedy}") from None
    excess = path.stat().st_size - array.nbytes - int(getattr(array, "offset", 0))
    if array.shape != (length,) or array.dtype != np.dtype(dtype) or excess:
        raise UnmaskError(
            f"{path}: altered: {array.dtype} of shape {array.shape}, not {dtype} of shape ({length},): {remedy}"
        )


def _check_digests(directory: Path, entries: list[manifest.FileEntry], remedy: str) -> None:
    paths = [directory / entry.file for entry in entries]
    for path in paths:
        if not path.is_file():
            raise UnmaskError(f"{path}: this file of the corpus is missing: {remedy}")
    for path, entry, digest in zip(paths, entries, sha256_files(paths, directory / VERIFIED), strict=True):
        if digest != entry.sha256:
            raise UnmaskError(f"{path}: altered: its SHA-256 is not the manifest's: {remedy}")
