"""`manifest.json` of a prepared corpus: what was prepared, from what, and the SHA-256 of every file.

A prepared corpus is a directory with `manifest.json`, `tokenizer/`, and for each split the token shards
`<split>-00000.npy`, ... (one-dimensional, `uint16` or `uint32`) and `<split>-documents.npy`, the positions at which
documents begin, and the end (`int64`, one more than there are documents). Each document ends with an EOS token.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from unmask.errors import UnmaskError

FORMAT = "unmask-tokens-1"
FILE = "manifest.json"


@dataclass(frozen=True)
class FileEntry:
    """A file beside the manifest and its SHA-256."""

    file: str
    sha256: str


@dataclass(frozen=True)
class Shard(FileEntry):
    """A file of tokens."""

    tokens: int


@dataclass(frozen=True)
class Split:
    """One part of a corpus."""

    documents: int
    tokens: int
    """Tokens in all, an EOS for each document among them."""
    bytes: int
    """UTF-8 bytes of the texts, to turn nats per token into bits per byte."""
    boundaries: FileEntry
    shards: tuple[Shard, ...]


@dataclass(frozen=True)
class Manifest:
    """The content of `manifest.json`."""

    tokenizer: FileEntry
    vocab_size: int
    bos_id: int | None
    eos_id: int
    mask_id: int
    dtype: str
    splits: dict[str, Split]
    empty_documents: int
    """Documents with no text but white space, left out."""
    preparation: dict[str, Any]
    """The options and the digest of the texts: the same preparation gives the same bytes."""
    format: str = FORMAT

    def to_json(self) -> str:
        """The text of `manifest.json`."""
        return json.dumps({"format": self.format, **dataclasses.asdict(self)}, indent=2) + "\n"

    @classmethod
    def read(cls, directory: Path) -> Manifest:
        """The manifest in `directory`. Raises `UnmaskError` if there is none or it is damaged."""
        path = directory / FILE
        if not path.is_file():
            what = "no prepared corpus" if directory.is_dir() else "no such directory"
            raise UnmaskError(f"{directory}: {what} (no {FILE}): make it with unmask prepare TEXT --out {directory}")
        try:
            fields = cast(dict[str, Any], json.loads(path.read_text(encoding="utf-8")))
            if fields["format"] != FORMAT:
                raise UnmaskError(f"{path}: format {fields['format']!r} is not {FORMAT!r}: prepare the corpus again")
            splits = {name: _split(split) for name, split in fields.pop("splits").items()}
            return cls(tokenizer=FileEntry(**fields.pop("tokenizer")), splits=splits, **fields)
        except UnmaskError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise UnmaskError(f"{path}: damaged ({reason}): delete {directory} and prepare it again") from None


def _split(fields: dict[str, Any]) -> Split:
    shards = tuple(Shard(**shard) for shard in fields.pop("shards"))
    return Split(boundaries=FileEntry(**fields.pop("boundaries")), shards=shards, **fields)
