"""Greedy decoding of a given number of tokens after a prompt, as LAMBADA's accuracy asks for.

That many masks stand behind the prompt; in each step the most confident token is revealed (Nie et al., 2025, released
code). Whoever decodes a known answer tells the network its length; without that hint one decodes every length and takes
the one whose tokens were the most confident on average.

Shapes: B rows of one length, L positions, S masked positions of all rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from unmask.guidance import classifier_free
from unmask.likelihood.rows import BatchSize
from unmask.logits_fn import LogitsFn

CAUSAL_ROWS = 8
"""Texts that an ARM reads at a time."""


@dataclass(frozen=True)
class Decoded:
    """What greedy decoding wrote."""

    tokens: tuple[int, ...]
    """As many as asked for; fewer if `expected` was given and missed."""
    confidence: float
    """Mean log-probability of the revealed tokens, each when it was revealed."""
    network_calls: int
    matches: bool
    """Whether the tokens are those expected."""


@torch.no_grad()
def greedy(
    logits_fn: LogitsFn,
    prompts: Sequence[Sequence[int]],
    lengths: Sequence[int],
    *,
    mask_id: int,
    expected: Sequence[Sequence[int]] | None = None,
    guidance: float = 0.0,
    device: torch.device | str = "cpu",
    batch_size: int | None = None,
) -> list[Decoded]:
    """Decode `lengths[i]` tokens after `prompts[i]`, one per step.

    With `expected`, a row stops at its first token that is not the expected one.
    """
    found: dict[int, Decoded] = {}
    for indices in _batches(prompts, lengths, BatchSize.on(torch.device(device), batch_size)):
        total = len(prompts[indices[0]]) + lengths[indices[0]]
        tokens_BL = torch.full((len(indices), total), mask_id, device=device)
        wanted_BL = tokens_BL.clone()
        for row, index in enumerate(indices):
            tokens_BL[row, : len(prompts[index])] = torch.tensor(prompts[index], device=device)
            if expected is not None:
                wanted_BL[row, len(prompts[index]) :] = torch.tensor(expected[index], device=device)
        first_B = torch.tensor([len(prompts[index]) for index in indices], device=device)
        prompt_BL = torch.arange(total, device=device) < first_B[:, None]
        going_B = torch.arange(len(indices), device=device)
        confidence = [0.0] * len(indices)
        steps = 0
        while len(going_B):
            rows_fn = classifier_free(logits_fn, prompt_BL[going_B], guidance, mask_id)
            revealed_BL, confidence_B = reveal_most_confident(rows_fn, tokens_BL[going_B], mask_id)
            tokens_BL[going_B] = revealed_BL
            steps += 1
            masked_BL = revealed_BL == mask_id
            right_B = torch.ones_like(going_B, dtype=torch.bool)
            if expected is not None:
                right_B = (masked_BL | prompt_BL[going_B] | (revealed_BL == wanted_BL[going_B])).all(dim=1)
            goes_on_B = masked_BL.any(dim=1) & right_B
            columns = (going_B, confidence_B, right_B, goes_on_B)
            state = cast("list[tuple[int, float, bool, bool]]", zip(*(each.tolist() for each in columns), strict=True))
            for row, added, right, goes_on in state:
                confidence[row] += added
                if not goes_on:
                    index = indices[row]
                    written = cast("list[int]", tokens_BL[row, len(prompts[index]) :].tolist())
                    calls = steps * (2 if guidance and len(prompts[index]) else 1)
                    tokens = tuple(token for token in written if token != mask_id)
                    found[index] = Decoded(tokens, confidence[row] / steps, calls, expected is not None and right)
            going_B = going_B[goes_on_B]
    return [found[index] for index in range(len(prompts))]


@torch.no_grad()
def are_likeliest(
    logits_fn: LogitsFn,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    device: torch.device | str = "cpu",
    batch_size: int | None = None,
) -> list[bool]:
    """Whether an ARM's greedy decoding after each prompt gives the answer, from pairs of both.

    Batches are made of neighbours: pairs of similar length should stand together.
    """
    found: list[bool] = []
    rows = batch_size or CAUSAL_ROWS
    for start in range(0, len(pairs), rows):
        batch = pairs[start : start + rows]
        tokens_BL = torch.zeros(len(batch), max(sum(map(len, pair)) for pair in batch), dtype=torch.int64)
        select_BL = torch.zeros(tokens_BL.shape, dtype=torch.bool)
        for row, (prompt, answer) in enumerate(batch):  # what stands behind changes nothing
            end = len(prompt) + len(answer)
            tokens_BL[row, :end] = torch.tensor([*prompt, *answer])
            select_BL[row, len(prompt) : end] = True
        tokens_BL, select_BL = tokens_BL.to(device), select_BL.to(device)
        likeliest_S = logits_fn(tokens_BL, select_BL).argmax(dim=1)
        right_BL = ~select_BL
        right_BL[select_BL] = likeliest_S == tokens_BL[select_BL]
        found += cast("list[bool]", right_BL.all(dim=1).tolist())
    return found


def reveal_most_confident(logits_fn: LogitsFn, tokens_BL: Tensor, mask_id: int) -> tuple[Tensor, Tensor]:
    """`tokens_BL` with the likeliest token revealed where the network is surest of it, and its log-probability (B,)."""
    masked_BL = tokens_BL == mask_id
    best_S, token_S = logits_fn(tokens_BL, masked_BL).float().log_softmax(dim=1).max(dim=1)
    best_BL = torch.full(tokens_BL.shape, -torch.inf, device=tokens_BL.device).masked_scatter(masked_BL, best_S)
    likeliest_BL = tokens_BL.masked_scatter(masked_BL, token_S)
    place_B1 = best_BL.argmax(dim=1, keepdim=True)
    revealed_BL = tokens_BL.scatter(1, place_B1, likeliest_BL.gather(1, place_B1))
    return revealed_BL, best_BL.gather(1, place_B1)[:, 0]


def _batches(prompts: Sequence[Sequence[int]], lengths: Sequence[int], batch_size: BatchSize) -> Iterator[list[int]]:
    """Indices of rows of one length, as many as fit."""
    by_length: dict[int, list[int]] = {}
    for index, (prompt, length) in enumerate(zip(prompts, lengths, strict=True)):
        by_length.setdefault(len(prompt) + length, []).append(index)
    for total, indices in sorted(by_length.items()):
        rows = batch_size.rows or max(1, batch_size.positions // total)
        for start in range(0, len(indices), rows):
            yield indices[start : start + rows]
