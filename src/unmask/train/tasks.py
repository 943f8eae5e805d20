"""What a run trains on: a task brings the batches, what of them is corrupted and scored, and the validation.

There are two: windows of a corpus (`unmask.train.text_task`), and prompts with answers (`unmask.train.sft_task`). The
loop knows nothing else of them.
"""

from __future__ import annotations

import functools
from collections.abc import Generator
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from unmask import objectives
from unmask.config import RunConfig
from unmask.data.tokenizer import Tokenizer
from unmask.model import Transformer
from unmask.objectives import Corrupted, Objective
from unmask.records import Record
from unmask.train.parallel import World


class Batch(NamedTuple):
    """This process's part of the global batch of a step."""

    parts: list[Corrupted]
    """What it computes at a time."""
    scored: int
    """Positions of the global batch, over which the loss is a mean."""


class Batches(Protocol):
    """The batches of all steps."""

    def iterate(self, start_step: int = 0) -> Generator[Batch]:
        """The batches from `start_step` on, without end."""
        ...


class Validation(Protocol):
    """How well a network does on what is held out."""

    def measure(self, model: Transformer, world: World, *, bfloat16: bool) -> Record:
        """The fields of a `valid` record: split, loss, standard_error, bits_per_byte, bound, windows.

        Raises `UnmaskError` if the loss is not finite.
        """
        ...


class Task(Protocol):
    """What a run trains on."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Whose ids the batches have; it is saved with the model."""
        ...

    @property
    def digest(self) -> str:
        """What tells these data from others."""
        ...

    @property
    def facts(self) -> Record:
        """What the `start` record says of the data."""
        ...

    @property
    def warnings(self) -> list[str]:
        """What to tell before the first step."""
        ...

    def steps(self, params: int) -> int:
        """Steps of the run with `params` non-embedding parameters. Raises `UsageError` where they aren't given."""
        ...

    def tokens(self, steps: int) -> int:
        """Tokens that the network computes in the first `steps` steps."""
        ...

    def batches(self, corrupt: Objective, world: World) -> Batches:
        """The batches, corrupted. Raises `UnmaskError` if there is not enough for one."""
        ...

    def validation(self) -> Validation | None:
        """What the run asks for; None for no validation."""
        ...

    def samples(self, done: int, model: Transformer, world: World, *, bfloat16: bool) -> list[Record]:
        """What the network writes after `done` steps, if the run wants to see that: the `samples` of a record."""
        ...


def with_settings(run: RunConfig, mask_id: int | None, bos_id: int | None, block_length: int = 0) -> Objective:
    """The run's objective with the run's settings and the tokens that it needs.

    `block_length` is that of a network from elsewhere, in place of the run's.
    """
    settings: dict[str, Any] = {"mask_id": mask_id, "bos_id": bos_id}
    if run.objective == "mdm":
        settings |= {"eps": run.mask_eps, "stratified": run.stratified, "weighting": run.weighting}
    elif run.objective in ("mlm", "span"):
        settings |= {"rate": run.mask_rate}
    elif run.objective in objectives.CAUSAL and run.init_from:
        settings |= {"first_scored": bos_id is not None}  # a model from elsewhere goes on as it was trained
    elif run.objective in objectives.BLOCK_CAUSAL:
        settings |= {"block_length": block_length or run.block_length}
    return functools.partial(objectives.lookup(run.objective), **settings)


def split(corrupted: Corrupted, micro_batch_size: int) -> list[Corrupted]:
    """The micro-batches of one corrupted batch; 0 for all rows at once."""
    size = micro_batch_size or len(corrupted.inputs_BL)

    def rows(whole: Tensor | None, start: int) -> Tensor | None:
        return None if whole is None else whole[start : start + size]

    return [
        Corrupted(
            corrupted.inputs_BL[start : start + size],
            corrupted.targets_BL[start : start + size],
            corrupted.weights_BL[start : start + size],
            rows(corrupted.clean_BL, start),
            rows(corrupted.present_BL, start),
            rows(corrupted.segment_BL, start),
        )
        for start in range(0, len(corrupted.inputs_BL), size)
    ]
