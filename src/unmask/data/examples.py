"""Examples to fine-tune on, each a prompt and an answer in tokens, and the order in which they come.

The order is a pure function of (seed, step): every epoch is a new permutation of all examples, and the batch of a step
is the next `batch_size` of them. In buckets, the examples of several batches are sorted by length, cut into batches,
and these shuffled. With packing, short examples of a batch share rows.

Shapes: N examples, T tokens of all of them together, G rows of the global batch.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from unmask import seeding
from unmask.data import conversations
from unmask.data.chat_template import ChatTemplate, Encoded
from unmask.data.conversations import Conversation, OnBroken
from unmask.data.row_packing import first_fit_decreasing
from unmask.errors import UnmaskError
from unmask.wording import counted


@dataclass(frozen=True)
class Examples:
    """Examples in memory, as one array of tokens."""

    tokens_T: npt.NDArray[np.int32]
    stops_N: npt.NDArray[np.int64]
    """Where each example ends."""
    prompts_N: npt.NDArray[np.int64]
    """Tokens of each prompt."""

    @classmethod
    def of(cls, encoded: Iterable[Encoded]) -> Examples:
        """Examples from lists of ids."""
        kept = list(encoded)
        pieces = [np.array([*each.prompt, *each.answer], np.int32) for each in kept]
        return cls(
            np.concatenate([np.zeros(0, np.int32), *pieces]),
            np.cumsum([len(piece) for piece in pieces], dtype=np.int64),
            np.array([len(each.prompt) for each in kept], np.int64),
        )

    def __len__(self) -> int:
        return len(self.stops_N)

    @functools.cached_property
    def lengths_N(self) -> npt.NDArray[np.int64]:  # noqa: N802
        """Tokens of each example, prompt and answer."""
        return np.diff(self.stops_N, prepend=0)

    def __getitem__(self, index: int) -> Encoded:
        tokens = self.tokens_T[self.stops_N[index] - self.lengths_N[index] : self.stops_N[index]].tolist()
        return Encoded(tokens[: self.prompts_N[index]], tokens[self.prompts_N[index] :])

    def distinct(self) -> Examples:
        """Each example once."""
        first = {(tuple(each.prompt), tuple(each.answer)): each for each in (self[i] for i in range(len(self)))}
        return Examples.of(first.values())

    def digest(self) -> str:
        """The SHA-256 of all of it."""
        hashed = hashlib.sha256()
        for array in (self.tokens_T, self.stops_N, self.prompts_N):
            hashed.update(np.ascontiguousarray(array).tobytes())
        return hashed.hexdigest()


@dataclass(frozen=True)
class Read:
    """The examples of some files, and what became of the rest."""

    examples: Examples
    groups: list[str]
    """For each example the digest of its conversation's text."""
    formats: dict[str, int]
    """Conversations of each format."""
    broken: list[str]
    """A line for each item that was left out."""
    too_long: int
    """Examples that were longer than allowed."""
    cut: int
    """Of these, the ones whose answers were cut; the others are left out."""


def read(
    files: Sequence[str | Path],
    template: ChatTemplate,
    *,
    length: int,
    turns: Literal["first", "all"] = "first",
    too_long: Literal["skip", "cut"] = "skip",
    on_broken: OnBroken = "refuse",
    leading_bos: bool = True,
) -> Read:
    """The examples of at most `length` tokens in conversation `files`.

    Without `leading_bos` a beginning-of-text token that the template puts first is left out. Raises `UnmaskError` as
    `conversations.read` does, and where nothing is left.
    """
    encoded: list[Encoded] = []
    groups: list[str] = []
    formats: dict[str, int] = {}
    broken: list[str] = []
    long = cut = 0
    bos_id = None if leading_bos else template.tokenizer.bos_id
    for file in files:
        found = conversations.read(file, on_broken)
        formats[found.format] = formats.get(found.format, 0) + len(found.conversations)
        broken += found.broken
        for conversation in found.conversations:
            answers = conversation.answers if turns == "all" else conversation.answers[:1]
            for prompt, answer in template.encode(conversation, answers):
                asked = prompt[1:] if bos_id is not None and prompt[:1] == [bos_id] else prompt
                if len(asked) + len(answer) > length:
                    long += 1
                    answer = answer[: max(0, length - len(asked))] if too_long == "cut" else []
                    cut += bool(answer)
                if answer:
                    encoded.append(Encoded(asked, answer))
                    groups.append(_digest(conversation))
    if not encoded:
        names = ", ".join(str(file) for file in files)
        why = [f"{long} of more than {length} tokens (--length, or the model's context)"] if long else []
        why += [counted(len(broken), "broken item")] if broken else []
        cut_them = ", or with --too-long cut shortened answers" if long and too_long == "skip" else ""
        raise UnmaskError(f"{names}: no example is left: {', '.join(why)}: give others{cut_them}")
    return Read(Examples.of(encoded), groups, formats, broken, long, cut)


def held_out(groups: Sequence[str], share: float) -> list[bool]:
    """Which examples are held out: of whole conversations, about `share` of all and at least one conversation.

    Which, the text of a conversation alone decides, so that its copies stay together. None of a single one.
    """
    wanted = share * len(groups)
    counts: dict[str, int] = {}
    for group in groups:
        counts[group] = counts.get(group, 0) + 1
    chosen: set[str] = set()
    taken = 0
    for group in sorted(counts)[:-1]:
        if not share or (taken and taken + counts[group] > wanted):
            break
        chosen.add(group)
        taken += counts[group]
    return [group in chosen for group in groups]


def part(examples: Examples, chosen: Sequence[bool]) -> Examples:
    """The examples that are `chosen`."""
    return Examples.of(examples[index] for index, taken in enumerate(chosen) if taken)


class Order:
    """`order[step]` are the numbers (G,) of the examples in the global batch of `step`."""

    def __init__(
        self,
        lengths_N: npt.NDArray[np.int64],
        *,
        batch_size: int,
        seed: int,
        bucket_batches: int = 1,
        packing: bool = False,
    ) -> None:
        self._lengths_N, self._seed = lengths_N, seed
        self._batch_size, self._bucket_batches, self._packing = batch_size, bucket_batches, packing
        self._epoch: tuple[int, npt.NDArray[np.int64]] = (-1, np.zeros(0, np.int64))
        self._bucket: tuple[int, npt.NDArray[np.int64]] = (-1, np.zeros((0, 0), np.int64))
        self._totals = [0]

    def __getitem__(self, step: int) -> npt.NDArray[np.int64]:
        bucket, place = divmod(step, self._bucket_batches)
        if self._bucket[0] != bucket:
            self._bucket = (bucket, self._batches(bucket))
        return self._bucket[1][place]

    def width(self, step: int) -> int:
        """Tokens of the longest example in the batch of `step`."""
        return int(self._lengths_N[self[step]].max())

    def rows(self, step: int) -> list[list[int]]:
        """Which examples stand in each row of the batch of `step`, by their places in it: with packing, several."""
        if not self._packing:
            return [[place] for place in range(self._batch_size)]
        return first_fit_decreasing(self._lengths_N[self[step]], self.width(step))

    def total_tokens(self, steps: int) -> int:
        """Tokens in the rows of the first `steps` steps, padding included."""
        while len(self._totals) <= steps:
            step = len(self._totals) - 1
            self._totals.append(self._totals[-1] + self.width(step) * len(self.rows(step)))
        return self._totals[steps]

    def _batches(self, bucket: int) -> npt.NDArray[np.int64]:
        """The batches of one bucket, (batches, G)."""
        count = self._bucket_batches * self._batch_size
        numbers = np.array([self._at(place) for place in range(bucket * count, (bucket + 1) * count)])
        if self._bucket_batches > 1:
            numbers = numbers[np.argsort(self._lengths_N[numbers], kind="stable")]
        batches = numbers.reshape(self._bucket_batches, self._batch_size)
        generator = seeding.generator(self._seed, "bucket", bucket)
        return batches[torch.randperm(self._bucket_batches, generator=generator).numpy()]

    def _at(self, place: int) -> int:
        """The example at a place of the endless sequence of epochs."""
        epoch, index = divmod(place, len(self._lengths_N))
        if self._epoch[0] != epoch:
            generator = seeding.generator(self._seed, "examples", epoch)
            self._epoch = (epoch, torch.randperm(len(self._lengths_N), generator=generator).numpy())
        return int(self._epoch[1][index])


def _digest(conversation: Conversation) -> str:
    text: list[Any] = [(message.role, message.content) for message in conversation.messages]
    return hashlib.blake2b(repr(text).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
