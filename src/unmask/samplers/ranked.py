"""What the samplers share that judge every masked position and reveal the best ones.

In each step a token is drawn at every masked position of a row, each position gets a score from its logits and its
token, and the best positions are revealed, of equal ones the left. Unlike the released code, which pools the scores of
a batch, each row is on its own.

Shapes: B rows, L positions, V vocabulary, R rows that reveal something, S masked positions in them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor

from unmask.errors import unknown_name
from unmask.samplers import noise
from unmask.samplers.canvas import Canvas, Sampled
from unmask.samplers.noise import Drawn
from unmask.samplers.schedules import SCHEDULES

Judge = Callable[[Tensor, Drawn], Tensor]
"""Scores (S,), the best highest, from logits (S, V) and what was drawn from them."""


class Rule(Protocol):
    """Decides when a row has its next step that reveals something, and how many positions that reveals."""

    def next_steps(self, masks_B: Tensor, turn: int) -> Tensor:
        """The number (B,) of each row's `turn`-th such step; -1 where there is none. Both count from 0."""
        ...

    def count(self, rows_R: Tensor, turn: int, masks_R: Tensor, sorted_RL: Tensor) -> Tensor:
        """How many positions (R,) the rows reveal, from their scores, the best first (minus infinity: not masked)."""
        ...


class Scheduled:
    """As many as a schedule says, whatever the scores; the steps that it leaves empty are passed over."""

    def __init__(self, schedule: str, masks_B: Tensor, steps: int | None) -> None:
        """Raises `UsageError` on an unknown schedule."""
        if schedule not in SCHEDULES:
            raise unknown_name("schedule", schedule, SCHEDULES)
        plans: dict[int, list[tuple[int, int]]] = {0: []}
        masks = cast("list[int]", masks_B.tolist())
        for number in masks:
            if number not in plans:
                counts = SCHEDULES[schedule](number, steps or number)
                plans[number] = [(step, count) for step, count in enumerate(counts) if count]
        longest = max(map(len, plans.values()))
        padded = [[*plans[number], *[(-1, 0)] * (longest - len(plans[number]))] for number in masks]
        self._plan_BT2 = torch.tensor(padded, dtype=torch.int64, device=masks_B.device).view(len(masks), longest, 2)

    def next_steps(self, masks_B: Tensor, turn: int) -> Tensor:
        """The step of the plan."""
        if turn >= self._plan_BT2.shape[1]:
            return torch.full_like(masks_B, -1)
        return self._plan_BT2[:, turn, 0]

    def count(self, rows_R: Tensor, turn: int, masks_R: Tensor, sorted_RL: Tensor) -> Tensor:
        """The count of the plan."""
        return self._plan_BT2[rows_R, turn, 1]


@dataclass(frozen=True)
class Adaptive:
    """As many as the scores allow, at least one, and so many at least that `steps` steps are enough."""

    wanted: Callable[[Tensor], Tensor]
    """How many (R,) positions each row should reveal, from its scores (R, L), the best first."""
    steps: int | None

    def next_steps(self, masks_B: Tensor, turn: int) -> Tensor:
        """Every step reveals something."""
        return torch.where(masks_B > 0, turn, -1)

    def count(self, rows_R: Tensor, turn: int, masks_R: Tensor, sorted_RL: Tensor) -> Tensor:
        """The wanted count, or what must be revealed now, but no more than there are masks."""
        left = 0 if self.steps is None else self.steps - turn
        least_R = torch.ones_like(masks_R) if self.steps is None else -(-masks_R // max(left, 1))
        return self.wanted(sorted_RL).maximum(least_R).minimum(masks_R)


def fill_ranked(canvas: Canvas, generators: Sequence[torch.Generator], *, judge: Judge, rule: Rule) -> Sampled:
    """Reveal the positions with the best scores, step by step, as many as `rule` says."""
    length, device = canvas.tokens_BL.shape[1], canvas.tokens_BL.device
    turn = 0
    while True:
        step_B = rule.next_steps(canvas.masked_BL.sum(dim=1), turn)
        rows_R = (step_B >= 0).nonzero()[:, 0]
        if not len(rows_R):
            return canvas.sampled()
        masked_RL = canvas.masked_BL[rows_R]
        logits_SV = canvas.logits(rows_R, masked_RL)
        noise_RL = noise.uniform([generators[row] for row in cast("list[int]", rows_R.tolist())], masked_RL)
        drawn = canvas.draw(logits_SV, noise_RL[masked_RL])

        score_RL = torch.full(masked_RL.shape, -math.inf, device=device)
        score_RL = score_RL.masked_scatter(masked_RL, judge(logits_SV, drawn).float())
        sorted_RL, order_RL = score_RL.sort(dim=1, descending=True, stable=True)
        count_R = rule.count(rows_R, turn, masked_RL.sum(dim=1), sorted_RL)
        best_RL = torch.arange(length, device=device) < count_R[:, None]
        reveal_RL = torch.zeros_like(masked_RL).scatter(1, order_RL, best_RL)
        kept_S = reveal_RL[masked_RL]
        canvas.reveal(
            rows_R, reveal_RL, Drawn(drawn.tokens_S[kept_S], drawn.probability_S[kept_S]), step_B[rows_R, None]
        )
        canvas.step_done()
        turn += 1
