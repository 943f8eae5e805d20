"""What all samplers share: the form of a sampler, its result, and the canvas on which it reveals tokens.

Shapes: B rows, L positions, V vocabulary, R rows that a step works on, S positions that it selects in them (row-major).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from unmask.errors import UsageError
from unmask.logits_fn import LogitsFn, at_rows, network_calls
from unmask.samplers.noise import Draw, Drawn


@dataclass(frozen=True)
class Sampled:
    """A filled batch, and what it took."""

    tokens_BL: Tensor
    network_calls_B: Tensor
    """Network calls that each row needed; more than one per evaluation under guidance."""
    reveal_step_BL: Tensor
    """The step, from 0, in which each position was revealed; -1 where the token was given."""


@dataclass(frozen=True)
class Step:
    """The state after one step, a copy, as `on_step` gets it."""

    tokens_BL: Tensor
    reveal_step_BL: Tensor
    """-1 where the token was given or is still masked."""
    confidence_BL: Tensor
    """Probability that the network gave to each revealed token; nan elsewhere."""
    network_calls_B: Tensor


OnStep = Callable[[Step], None]


class Sampler(Protocol):
    """The form of a sampler; further keyword arguments are its own and have defaults."""

    def __call__(
        self,
        logits_fn: LogitsFn,
        tokens_BL: Tensor,
        *,
        mask_id: int,
        steps: int | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float = 1.0,
        min_p: float = 0.0,
        generator: torch.Generator | Sequence[torch.Generator],
        on_step: OnStep | None = None,
    ) -> Sampled:
        """Fill the positions of `tokens_BL` (int64) that hold `mask_id`.

        `steps` None stands for as many as the row has masks. `temperature`, `top_k`, `top_p` and `min_p` are those of
        `noise.Draw`. `generator` is one generator, from which one for each row is derived by the row's index, or one
        for each row. `on_step` is called after each step. Raises `UsageError` on steps below 1 and where `Draw` does.
        """
        ...


class Canvas:
    """The tokens of a batch while a sampler reveals them, with the count of calls and the record of steps."""

    def __init__(
        self,
        logits_fn: LogitsFn,
        tokens_BL: Tensor,
        *,
        mask_id: int,
        steps: int | None,
        draw: Draw,
        on_step: OnStep | None,
    ) -> None:
        if steps is not None and steps < 1:
            raise UsageError(f"steps {steps}: must be at least 1")
        if tokens_BL.ndim != 2:
            raise UsageError(f"tokens have shape {tuple(tokens_BL.shape)}: must be (rows, positions)")
        self.tokens_BL = tokens_BL.clone()
        self.masked_BL = tokens_BL == mask_id
        self.reveal_step_BL = torch.full_like(tokens_BL, -1)
        self.confidence_BL = torch.full(tokens_BL.shape, math.nan, device=tokens_BL.device)
        self.network_calls_B = torch.zeros(len(tokens_BL), dtype=torch.int64, device=tokens_BL.device)
        self.draw = draw
        self._logits_fn = logits_fn
        self._mask_id = mask_id
        self._on_step = on_step

    def logits(self, rows_R: Tensor, select_RL: Tensor) -> Tensor:
        """Evaluate rows `rows_R` of the batch: float32 (S, V) at `select_RL`, minus infinity for the mask token."""
        tokens_RL = self.tokens_BL[rows_R]
        logits_fn = at_rows(self._logits_fn, rows_R)
        self.network_calls_B[rows_R] += network_calls(logits_fn, tokens_RL)
        return self.allowed(logits_fn(tokens_RL, select_RL))

    def allowed(self, logits_SV: Tensor) -> Tensor:
        """The logits in float32, with minus infinity for the mask token where the network has an output for it."""
        logits_SV = logits_SV.float()
        if self._mask_id < logits_SV.shape[1]:
            logits_SV = logits_SV.index_fill(1, torch.tensor([self._mask_id], device=logits_SV.device), -math.inf)
        return logits_SV

    def reveal(self, rows_R: Tensor, select_RL: Tensor, drawn: Drawn, step_RL: Tensor) -> None:
        """Put the drawn tokens where `select_RL` is true in rows `rows_R`; `step_RL`, or (R, 1), is to be recorded."""
        row_S, position_S = select_RL.nonzero(as_tuple=True)
        at = (rows_R[row_S], position_S)
        self.tokens_BL[at] = drawn.tokens_S
        self.masked_BL[at] = False
        self.confidence_BL[at] = drawn.probability_S
        self.reveal_step_BL[at] = step_RL.expand(select_RL.shape)[select_RL]

    def hide(self, rows_R: Tensor, select_RL: Tensor) -> None:
        """Mask again the positions where `select_RL` is true in rows `rows_R`."""
        row_S, position_S = select_RL.nonzero(as_tuple=True)
        at = (rows_R[row_S], position_S)
        self.tokens_BL[at] = self._mask_id
        self.masked_BL[at] = True
        self.confidence_BL[at] = math.nan
        self.reveal_step_BL[at] = -1

    def stop(self, rows_R: Tensor, stop_id: int, step_B1: Tensor) -> None:
        """Fill all masks of rows `rows_R` with the end-of-text token, as revealed in the steps `step_B1` (B, 1)."""
        rest_RL = self.masked_BL[rows_R]
        stops_S = torch.full((int(rest_RL.sum()),), stop_id, device=self.tokens_BL.device)
        self.reveal(rows_R, rest_RL, Drawn(stops_S, torch.ones(len(stops_S), device=stops_S.device)), step_B1[rows_R])

    def step_done(self) -> None:
        """Tell `on_step`, if there is one."""
        if self._on_step is not None:
            state = (self.tokens_BL, self.reveal_step_BL, self.confidence_BL, self.network_calls_B)
            self._on_step(Step(*(tensor.clone() for tensor in state)))

    def sampled(self) -> Sampled:
        """The result, once nothing is masked any more."""
        assert not self.masked_BL.any()
        return Sampled(self.tokens_BL, self.network_calls_B, self.reveal_step_BL)
