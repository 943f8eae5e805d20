"""Validation: the mean loss per token of held-out windows, the same for any number of processes.

The bound for every objective that trains with masks, so that `mlm` and `span` compare with `mdm`; exact for `arm`. The
windows are spread evenly over the split, and their masks depend on their place among them alone
(`unmask.evals.perplexity`), so all runs on a corpus are measured on the same text with the same masks. Windows are
evaluated in chunks of one size, dealt to the processes: what a chunk gives does not depend on who computes it.

Shapes: W windows, C windows of a chunk, L tokens in each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from unmask.config import RunConfig
from unmask.data.source import Corpus, TokenSource
from unmask.errors import UnmaskError, UsageError
from unmask.evals import perplexity
from unmask.model import Transformer
from unmask.network_logits import CausalLogits, MaskedLogits
from unmask.records import Record
from unmask.train.parallel import World

CHUNK = 8
"""Windows at a time."""
MASK_SEED = 0
"""One for all runs, whatever their own seed."""


@dataclass(frozen=True)
class Validation:
    """The held-out windows of a run, and how to measure on them."""

    source: TokenSource
    length: int
    windows: list[int]
    """Their numbers within the split."""
    draws: int
    """Masks for each window."""
    bos_id: int | None

    @classmethod
    def open(cls, run: RunConfig, corpus: Corpus) -> Validation | None:
        """What `run` asks for; None for no validation.

        Raises `UsageError` for an unknown split, and `UnmaskError` for one that is shorter than one window.
        """
        if not run.validation_windows:
            return None
        try:
            source = corpus.split(run.validation_split)
        except UsageError as error:
            raise UsageError(
                f"{error}: hold text out with unmask prepare --valid-fraction, or give --validation-windows 0"
            ) from None
        total = len(source) // run.length
        if not total:
            raise UnmaskError(
                f"{corpus.directory}: split {source.name!r} has {len(source)} tokens, less than one window of "
                f"{run.length}: lower --length, hold out more text, or give --validation-windows 0"
            )
        windows = perplexity.spread(total, run.validation_windows)
        return cls(source, run.length, windows, run.validation_draws, corpus.tokenizer.bos_id)

    def measure(self, model: Transformer, world: World, *, bfloat16: bool) -> Record:
        """The fields of a `valid` record: split, loss, standard_error, bits_per_byte, bound, windows.

        Raises `UnmaskError` if the loss is not finite.
        """
        count = len(self.windows)
        size = min(CHUNK, count)
        chunks = [[position % count for position in range(at, at + size)] for at in range(0, count, size)]
        losses_W = torch.zeros(count, dtype=torch.float64, device=world.device)
        for at in range(0, len(chunks), world.size):
            # every process makes the same network calls, which gather sharded weights; one without a chunk of its
            # own repeats the first
            mine = at + world.rank
            chunk = chunks[mine] if mine < len(chunks) else chunks[0]
            with torch.autocast(world.device.type, torch.bfloat16, enabled=bfloat16):
                losses_C = self._losses(model, chunk, world.device)
            if mine < len(chunks):
                new = min(size, count - mine * size)  # the last chunk is filled up with windows of the first
                losses_W[chunk[:new]] = losses_C[:new].double()
        found = perplexity.summarise(
            world.sum(losses_W),
            length=self.length,
            bytes_per_token=self.source.split.bytes / self.source.split.tokens,
            bound=not model.config.causal,
        ).to_dict()
        if not math.isfinite(found["loss"]):
            raise world.told_once(
                UnmaskError(f"the loss on {self.source.name!r} is {found['loss']}: lower --learning-rate")
            )
        del found["tokens"]  # in a record, `tokens` are those of the training
        return {"split": self.source.name, **found}

    def _losses(self, model: Transformer, positions: list[int], device: torch.device) -> Tensor:
        """The loss (C,) in nats per token of the windows at `positions` of the list."""
        windows = [self.windows[position] for position in positions]
        rows = [self.source[window * self.length : (window + 1) * self.length] for window in windows]
        tokens_CL = torch.stack([torch.from_numpy(row.astype("int64")) for row in rows]).to(device)
        vocab_size = model.config.vocab_size
        if model.config.causal:
            return perplexity.window_nlls(CausalLogits(model, self.bos_id), tokens_CL, vocab_size=vocab_size)
        mask_id = model.config.mask_id
        assert mask_id is not None
        settings = {"draws": self.draws, "seed": MASK_SEED, "vocab_size": vocab_size, "mask_id": mask_id}
        if block_length := model.config.block_length:
            return perplexity.block_draw_losses(
                MaskedLogits(model).given_clean, tokens_CL, block_length=block_length, indices=positions, **settings
            ).mean(dim=1)
        return perplexity.window_bounds(MaskedLogits(model), tokens_CL, indices=positions, **settings)
