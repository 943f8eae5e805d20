"""Evaluating masked rows: duplicates once, in batches that shrink when memory runs out, the head where it is needed.

A row is a sequence with some of its scored tokens masked. Rows of one length are evaluated together, whichever sequence
they belong to. What a row gives does not depend on the batch that it is in.

Shapes: B sequences of one length, L positions, K scored tokens of one sequence, R rows, U different rows, V vocabulary,
S positions that a batch selects, P masked tokens of the rows of a batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

import torch
from torch import Tensor

from unmask.errors import UnmaskError
from unmask.logits_fn import LogitsFn, network_calls

RowsFn = Callable[[Tensor], LogitsFn]
"""The `LogitsFn` of a batch whose rows belong to the given sequences (R,)."""
Reading = Literal["masked", "first", "causal"]
"""What is scored of a row: all masked tokens, the first of them alone, or all of them with nothing masked in the input,
as an ARM sees only what stands before."""
FIRST_BATCH = 8
"""Rows of the first batch, which tells the size of the vocabulary."""


@dataclass
class BatchSize:
    """How many rows go into a batch; made smaller when memory runs out, and kept for the next batches."""

    rows: int | None = None
    """At most so many; None chooses by the two figures below."""
    positions: int = 4096
    """Most positions of a batch."""
    logits: int = 2**25
    """Most logits of a batch."""
    vocab_size: int | None = None
    """Known from the first batch on."""
    halved: int = 0
    """How many times memory ran out."""

    @classmethod
    def on(cls, device: torch.device, rows: int | None = None) -> BatchSize:
        """What suits a `device`; `rows` given, that many."""
        return cls(rows) if device.type == "cpu" else cls(rows, positions=2**17, logits=2**29)

    def of(self, length: int, selected: int) -> int:
        """Rows of `length` positions of which `selected` need logits."""
        if self.rows is not None:
            return self.rows
        if self.vocab_size is None:
            return FIRST_BATCH
        return max(1, min(self.positions // length, self.logits // (selected * self.vocab_size)))

    def halve(self, rows: int, error: Exception) -> None:
        """Make do with half of `rows`. Raises `UnmaskError` if there was a single one."""
        if rows == 1:
            raise UnmaskError(f"not enough memory for a single sequence ({error}): shorten it") from error
        self.halved += 1
        self.rows = rows // 2


@dataclass(frozen=True)
class Sequences:
    """Sequences of one length, and the sets to mask in them."""

    tokens_BL: Tensor
    scored_BL: Tensor
    masks: Sequence[Tensor]
    """For each sequence, boolean (R, K) over its scored tokens."""
    kinds: Sequence[int]
    """Sequences of one kind have the same `LogitsFn`: a row that two of them have in common is evaluated once."""
    reading: Reading = "masked"


@dataclass(frozen=True)
class Rows:
    """The rows of several sequences, on the CPU."""

    sequence_R: Tensor
    inputs_RL: Tensor
    """Tokens, masks put in."""
    targets_RL: Tensor
    """Tokens as they are."""
    select_RL: Tensor
    """What is to be scored."""
    groups: list[list[int]] = field(default_factory=list[list[int]])
    """Rows that are alike; those without anything to score are in none."""

    @classmethod
    def of(cls, sequences: Sequences, mask_id: int) -> Rows:
        """All rows of `sequences`, the different ones sorted by what they show of the scored tokens.

        That brings rows together whose unconditional passes are alike under guidance. What an ARM reads is sorted by
        its beginning, which a network may compute once for all rows that have it.
        """
        sequence_R = torch.cat([torch.full((len(masks),), b) for b, masks in enumerate(sequences.masks)])
        targets_RL, scored_RL = sequences.tokens_BL.cpu()[sequence_R], sequences.scored_BL.cpu()[sequence_R]
        masked_RL = torch.zeros_like(scored_RL)
        masked_RL[scored_RL] = torch.cat([masks.flatten() for masks in sequences.masks])
        first_only = sequences.reading == "first"
        select_RL = masked_RL & (masked_RL.cumsum(dim=1) == 1) if first_only else masked_RL
        causal = sequences.reading == "causal"
        inputs_RL = targets_RL if causal else targets_RL.masked_fill(masked_RL, mask_id)
        alike: dict[tuple[bytes, int, bytes], list[int]] = {}
        shown_RL = (torch.zeros_like(inputs_RL) if causal else inputs_RL.masked_fill(~scored_RL, mask_id)).numpy()
        for row, (shown, values, any_selected) in enumerate(
            zip(shown_RL, inputs_RL.numpy(), _ints(select_RL.any(dim=1)), strict=True)
        ):
            if any_selected:
                kind = sequences.kinds[int(sequence_R[row])]
                alike.setdefault((shown.tobytes(), kind, values.tobytes()), []).append(row)
        return cls(sequence_R, inputs_RL, targets_RL, select_RL, [alike[key] for key in sorted(alike)])


@torch.no_grad()
def row_losses(rows_fn: RowsFn, sequences: Sequences, mask_id: int, batch_size: BatchSize) -> list[tuple[Tensor, int]]:
    """For each sequence, -log p (R, K) of the scored tokens of its rows (0 for others; float64), and its network calls.

    The calls are those that the sequence takes alone: what it has in common with others counts for each of them.
    """
    rows = Rows.of(sequences, mask_id)
    losses_RL = torch.zeros(rows.inputs_RL.shape, dtype=torch.float64)
    most_selected = max(1, int(rows.select_RL.sum(dim=1).max()))
    start = 0
    while start < len(rows.groups):
        groups = rows.groups[start : start + batch_size.of(losses_RL.shape[1], most_selected)]
        try:
            _evaluate(rows_fn, rows, groups, losses_RL, sequences.tokens_BL.device, batch_size)
        except RuntimeError as error:  # of which torch.OutOfMemoryError is one
            if not _is_out_of_memory(error):
                raise
            batch_size.halve(len(groups), error)
            continue
        start += len(groups)
    each = torch.split(losses_RL, [len(masks) for masks in sequences.masks])
    calls = _calls_alone(rows_fn, rows, sequences)
    return [(each[b][:, scored_L], calls[b]) for b, scored_L in enumerate(sequences.scored_BL.cpu())]


def _evaluate(
    rows_fn: RowsFn,
    rows: Rows,
    groups: list[list[int]],
    losses_RL: Tensor,
    device: torch.device,
    batch_size: BatchSize,
) -> None:
    """One batch: a row for each of `groups`; what they give goes into `losses_RL`."""
    first_U = torch.tensor([members[0] for members in groups])
    row_R = torch.tensor(list(itertools.chain.from_iterable(groups)))
    unique_R = torch.tensor([unique for unique, members in enumerate(groups) for _ in members])
    select_RL = rows.select_RL[row_R]
    select_UL = torch.zeros(len(groups), select_RL.shape[1], dtype=torch.int64)
    select_UL = select_UL.index_add_(0, unique_R, select_RL.long()) > 0
    logits_fn = rows_fn(rows.sequence_R[first_U].to(device))
    inputs_UL = rows.inputs_RL[first_U].to(device)
    logits_SV = logits_fn(inputs_UL, select_UL.to(device))

    place_UL = (select_UL.flatten().cumsum(dim=0) - 1).view(select_UL.shape)  # of each position in S
    place_P = place_UL[unique_R][select_RL].to(device)
    target_P = rows.targets_RL[row_R][select_RL].to(device)
    logits_SV = logits_SV.to(torch.promote_types(logits_SV.dtype, torch.float32))
    losses_P = logits_SV.logsumexp(dim=1)[place_P] - logits_SV[place_P, target_P]
    losses_RL[row_R] = losses_RL[row_R].masked_scatter(select_RL, losses_P.double().cpu())
    batch_size.vocab_size = logits_SV.shape[1]


def _calls_alone(rows_fn: RowsFn, rows: Rows, sequences: Sequences) -> list[int]:
    """Network calls of each sequence's different rows, as if no other were there."""
    own: list[list[int]] = [[] for _ in sequences.masks]
    sequence_R = _ints(rows.sequence_R)
    for members in rows.groups:
        for sequence, row in {sequence_R[row]: row for row in members}.items():
            own[sequence].append(row)
    calls: list[int] = []
    device = sequences.tokens_BL.device
    for sequence, mine in enumerate(own):
        logits_fn = rows_fn(torch.full((len(mine),), sequence, device=device))
        calls.append(int(network_calls(logits_fn, rows.inputs_RL[mine].to(device)).sum()))
    return calls


def _is_out_of_memory(error: RuntimeError) -> bool:
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in text or "t allocate memory" in text


def _ints(values: Tensor) -> list[int]:
    return cast("list[int]", values.tolist())
