"""The tokenizer of a model that came without one: ids work, and text asks for a tokenizer in one clear line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from unmask.data.tokenizer import Tokenizer
from unmask.errors import UsageError


class NoTokenizer(Tokenizer):
    """Stands where a `Tokenizer` is expected and knows the ids alone; no id is the beginning or the end of text."""

    def __init__(self, vocab_size: int, mask_id: int, where: str) -> None:
        """For a network with these ids, read from `where`."""
        self.vocab_size = vocab_size
        self.mask_id = mask_id
        self.bos_id = self.eos_id = None
        self._where = where

    def save(self, directory: str | Path, *, causal: bool | None = None) -> None:
        """Nothing to write."""

    def to_json(self) -> str:
        """Raises `UsageError`."""
        self.refuse()

    def encode(self, text: str) -> list[int]:
        """Raises `UsageError`."""
        self.refuse()

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Raises `UsageError`."""
        self.refuse()

    def encode_stream(self, blocks: Iterable[str]) -> Iterator[list[int]]:
        """Raises `UsageError`."""
        self.refuse()

    def decode(self, ids: Iterable[int]) -> str:
        """Raises `UsageError`."""
        self.refuse()

    def refuse(self) -> NoReturn:
        """Raises `UsageError`."""
        raise UsageError(
            f"{self._where}: has no tokenizer, so it takes and gives ids alone: "
            "put the tokenizer.json of its vocabulary there, or convert again with --tokenizer"
        )
