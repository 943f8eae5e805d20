"""Training on windows of a corpus.

Shapes: B rows of this process, L positions.
"""

from __future__ import annotations

import functools
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import Tensor

from unmask import objectives, seeding
from unmask.config import RunConfig
from unmask.data import packed, pipeline
from unmask.data.source import Corpus
from unmask.data.tokenizer import Tokenizer
from unmask.errors import UsageError
from unmask.model import Transformer
from unmask.model_directory import Stored
from unmask.objectives import Corrupted, Objective, Rows
from unmask.records import Record
from unmask.train.parallel import World
from unmask.train.tasks import Batch, split
from unmask.train.validation import Validation


@dataclass(frozen=True)
class TextTask:
    """A `Task`: all of `run.batch_size` windows of `run.length` tokens, now and then cut into shorter ones."""

    run: RunConfig
    corpus: Corpus

    @classmethod
    def open(cls, run: RunConfig, source: Stored | None, world: World) -> TextTask:
        """Open the corpus of `run`; token files may be in the tokens of `source`, the model to start from.

        Raises `UsageError` without data, and `UnmaskError` where they are damaged.
        """
        if not run.data:
            raise UsageError("run config: no data: give --data, a directory made by unmask prepare or token files")
        open_corpus = functools.partial(packed.open_corpus, run.data, run.tokenizer, source and source.tokenizer)
        world.on_main(lambda: open_corpus().directory)  # one reads all of it to check it, the others trust that
        return cls(run, open_corpus())

    @property
    def tokenizer(self) -> Tokenizer:
        """That of the corpus."""
        return self.corpus.tokenizer

    @property
    def digest(self) -> str:
        """That of the corpus."""
        return self.corpus.digest

    @property
    def facts(self) -> Record:
        """The size of the corpus."""
        return {"train_tokens": self.corpus.manifest.splits["train"].tokens}

    @property
    def warnings(self) -> list[str]:
        """Nothing."""
        return []

    def steps(self, params: int) -> int:
        """See `RunConfig.total_steps`."""
        return self.run.total_steps(params)

    def tokens(self, steps: int) -> int:
        """The same number in each step."""
        return steps * self.run.batch_size * self.run.length

    def batches(self, corrupt: Objective, world: World) -> TextBatches:
        """Windows in the order of `pipeline.Batches`; errors as there."""
        run, rows = self.run, world.rows(self.run.batch_size)
        windows = pipeline.Batches(
            self.corpus.split("train"),
            length=run.length,
            batch_size=run.batch_size,
            seed=seeding.derived_seed(run.seed, "data order"),
            rows=slice(rows.start, rows.start + run.batch_size // world.size),
            unique_tokens=run.unique_tokens,
        )
        first_scored = run.objective not in objectives.CAUSAL or self.tokenizer.bos_id is not None
        if not first_scored and run.length < 2:
            raise UsageError(f"length {run.length}: without a beginning-of-text token nothing is scored: raise it")
        return TextBatches(run, windows, corrupt, rows, first_scored)

    def samples(self, done: int, model: Transformer, world: World, *, bfloat16: bool) -> list[Record]:
        """None."""
        return []

    def validation(self) -> Validation | None:
        """See `Validation.open`."""
        return Validation.open(self.run, self.corpus)


@dataclass(frozen=True)
class TextBatches:
    """Windows, corrupted."""

    run: RunConfig
    windows: pipeline.Batches
    corrupt: Objective
    rows: Rows
    first_scored: bool
    """False for a causal network without a beginning-of-text token: its rows are shorter by the first token."""

    def iterate(self, start_step: int = 0) -> Generator[Batch]:
        """The batches from `start_step` on."""
        scored = self.run.batch_size * (self.run.length - (not self.first_scored))
        with closing(self.windows.iterate(start_step)) as windows:
            for step, tokens in enumerate(windows, start_step):
                yield Batch(micro_batches(torch.from_numpy(tokens), self.run, step, self.corrupt, self.rows), scored)


def micro_batches(tokens_BL: Tensor, run: RunConfig, step: int, corrupt: Objective, rows: Rows) -> list[Corrupted]:
    """This process's part of the batch of `step`, corrupted: as many sequences at a time as the run asks for.

    In a step of short sequences these are the pieces of the long ones. All parts are scored as one batch.
    """
    parts: list[Corrupted] = []
    for number, (piece_BL, piece_rows) in enumerate(cut(tokens_BL, rows, piece_length(run, step))):
        generator = seeding.generator(run.seed, f"corruption {number}", step)
        corrupted = corrupt(piece_BL, generator, rows=piece_rows)
        # as many tokens at a time as of whole sequences
        parts += split(corrupted, run.micro_batch_size * (run.length // piece_BL.shape[1]))
    return parts


def piece_length(run: RunConfig, step: int) -> int:
    """Sequence length of `step`: `run.length`, or for the `short_share` of the steps one from U[1, length]."""
    if run.objective in objectives.CAUSAL or run.short_share == 0:
        return run.length
    generator = seeding.generator(run.seed, "short sequences", step)
    if torch.rand((), generator=generator).item() >= run.short_share:
        return run.length
    return int(torch.randint(1, run.length + 1, (), generator=generator).item())


def cut(tokens_BL: Tensor, rows: Rows, length: int) -> list[tuple[Tensor, Rows]]:
    """Cut rows into pieces of `length` tokens, and what remains of each row into one shorter piece.

    Returns one batch of equally long pieces, or two; every token is in exactly one of them.
    """
    each, rest = divmod(tokens_BL.shape[1], length)
    whole = tokens_BL[:, : each * length].reshape(-1, length)
    pieces = [(whole, Rows(rows.start * each, rows.total * each))]
    if rest:
        pieces.append((tokens_BL[:, each * length :], rows))
    return pieces
