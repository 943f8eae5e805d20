"""The batches of a fine-tuning run: prompts with corrupted answers, padded or packed.

The loss of a step is divided by the answer positions of its global batch (Nie et al., 2025, and its code; there, of a
micro-batch). With padding "eos" these are all positions behind a prompt, up to the end of the batch's longest example;
with "masked" what fills up is neither scored nor seen. For standard guidance the prompt of an example is masked as a
whole, by a choice of its own. With packing, what was corrupted in rows of its own is put side by side: what is learned
of an example does not depend on what it shares a row with.

Shapes: B rows of this process, G examples of the global batch, L positions of its longest example, R packed rows of the
global batch.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unmask import objectives, seeding
from unmask.data.examples import Examples, Order
from unmask.objectives import IGNORE, Corrupted, Objective, Rows
from unmask.sft_config import SftConfig
from unmask.train.parallel import World
from unmask.train.tasks import Batch, split


@dataclass(frozen=True)
class SftBatches:
    """Batches of examples, each as long as its longest, the answers corrupted."""

    run: SftConfig
    train: Examples
    order: Order
    corrupt: Objective
    world: World
    rows: Rows
    """This process's part of a global batch that is not packed."""
    eos_id: int
    mask_id: int | None
    """None for a causal network."""
    first_scored: bool
    """False for a causal network without a beginning-of-text token: its rows are shorter by the first token."""

    def iterate(self, start_step: int = 0) -> Generator[Batch]:
        """The batches from `start_step` on."""
        step = start_step
        while True:
            yield self[step]
            step += 1

    def __getitem__(self, step: int) -> Batch:
        run, numbers_G = self.run, self.order[step]
        unscored = 0 if self.first_scored else 1
        if run.packing:  # any example may stand in a row of this process
            corrupted = self._corrupted(step, Rows(0, run.batch_size), run.batch_size)
            rows = dealt(self.order.rows(step), self.world)
            corrupted = packed(corrupted, (self.train.lengths_N[numbers_G] - unscored).tolist(), rows)
        else:
            corrupted = self._corrupted(step, self.rows, run.batch_size // self.world.size)
        widths_G = self.train.lengths_N[numbers_G] if run.padding == "masked" else self.order.width(step)
        scored = int((widths_G - self.train.prompts_N[numbers_G].clip(min=unscored)).sum())
        return Batch(split(corrupted, run.micro_batch_size), scored)

    def _corrupted(self, step: int, rows: Rows, count: int) -> Corrupted:
        """`count` examples of the batch of `step`, a row each, from `rows.start` on."""
        run, causal = self.run, self.mask_id is None
        here = slice(rows.start, rows.start + count)
        numbers_B = self.order[step][here]
        tokens_BL = torch.full((count, self.order.width(step)), self.eos_id)
        for row, number in enumerate(numbers_B):
            both = [token for part in self.train[int(number)] for token in part]
            tokens_BL[row, : len(both)] = torch.tensor(both)
        place_L = torch.arange(tokens_BL.shape[1])
        prompt_BL = place_L < torch.from_numpy(self.train.prompts_N[numbers_B])[:, None]
        lengths_B1 = torch.from_numpy(self.train.lengths_N[numbers_B])[:, None]
        real_BL = place_L < lengths_B1 if run.padding == "masked" else torch.ones_like(prompt_BL)

        corrupted = self.corrupt(tokens_BL, seeding.generator(run.seed, "corruption", step), rows=rows)
        answer_BL = (real_BL & ~prompt_BL)[:, tokens_BL.shape[1] - corrupted.inputs_BL.shape[1] :]
        corrupted = objectives.only_at(corrupted, tokens_BL, answer_BL, causal=causal)
        if self.mask_id is not None and run.prompt_drop:
            drawn_G = torch.rand(rows.total, generator=seeding.generator(run.seed, "prompt drop", step))
            dropped_B1 = (drawn_G < run.prompt_drop)[here, None]
            corrupted = objectives.masked_prompts(corrupted, prompt_BL & dropped_B1, self.mask_id)
        if run.padding == "masked" and not causal:  # behind what a causal network reads, it is not seen anyway
            corrupted = objectives.padded(corrupted, real_BL)
        return corrupted


def dealt(rows: Sequence[list[int]], world: World) -> list[list[int]]:
    """This process's part of the packed rows of a batch; every process gets as many, some perhaps empty ones.

    With as many rows they have as many micro-batches, in each of which sharded processes wait for one another.
    """
    each = -(-len(rows) // world.size)
    mine = list(rows[world.rank :: world.size])
    return mine + [[]] * (each - len(mine))


def packed(corrupted: Corrupted, lengths_B: Sequence[int], rows: Sequence[Sequence[int]]) -> Corrupted:
    """The examples of `corrupted`, one in each of its rows and `lengths_B` long, side by side as `rows` says."""
    width = corrupted.inputs_BL.shape[1]
    source_RL, segment_RL = (torch.full((len(rows), width), -1) for _ in range(2))
    for row, places in enumerate(rows):
        start = 0
        for number, place in enumerate(places):
            stop = start + lengths_B[place]
            source_RL[row, start:stop] = torch.arange(lengths_B[place]) + place * width
            segment_RL[row, start:stop] = number
            start = stop
    empty_RL, source_RL = source_RL < 0, source_RL.clamp(min=0)

    def moved(values_BL: Tensor) -> Tensor:
        return values_BL.flatten()[source_RL]

    return Corrupted(
        moved(corrupted.inputs_BL),
        moved(corrupted.targets_BL).masked_fill(empty_RL, IGNORE),
        moved(corrupted.weights_BL).masked_fill(empty_RL, 0.0),
        None if corrupted.clean_BL is None else moved(corrupted.clean_BL),
        segment_BL=segment_RL,
    )
