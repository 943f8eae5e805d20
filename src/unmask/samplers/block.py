"""The block sampler: blocks from left to right, each filled by any other sampler (semi-autoregressive decoding).

The blocks begin where the row's first mask is, or, for a network that was trained block-causally, are the network's
own. While a block is filled, the masks behind it are seen by the network but wait; with `lookahead` it sees some of
them only, down to none: the canvas then grows block by block. A row that has drawn the end-of-text token in a block is
done.

Shapes: B rows, L positions, R rows that fill a block together, E their positions up to the end of what is seen.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from unmask import logits_fn as logits_functions
from unmask.errors import UsageError, unknown_name
from unmask.logits_fn import PADDING, LogitsFn
from unmask.samplers import noise
from unmask.samplers.adaptive import entropy, threshold
from unmask.samplers.ancestral import ancestral, turns
from unmask.samplers.autoregressive import autoregressive
from unmask.samplers.canvas import Canvas, OnStep, Sampled, Sampler, Step
from unmask.samplers.confidence import confidence, margin
from unmask.samplers.first_hitting import first_hitting
from unmask.samplers.remask import remask

HELD = -2
"""The id of a mask that waits: the sampler inside a block takes it for a given token, the network sees a mask."""

DEFAULT_BLOCK_LENGTH = 32

INSIDE: dict[str, Sampler] = {
    "ancestral": ancestral,
    "autoregressive": autoregressive,
    "confidence": confidence,
    "entropy": entropy,
    "first_hitting": first_hitting,
    "margin": margin,
    "remask": remask,
    "threshold": threshold,
}
"""The samplers that can fill a block, by name."""


@torch.no_grad()
def block(
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
    inner: str | Sampler = "confidence",
    block_length: int | None = None,
    lookahead: int | None = None,
    stop_id: int | None = None,
    **options: Any,
) -> Sampled:
    """Fill the masks block by block; see `Sampler` for the arguments.

    `inner` is a name in `INSIDE` or a sampler of your own, and `options` are its own arguments. `block_length` is by
    default the network's own if it is block-causal, and 32 if not. `lookahead` is the number of masks behind a block
    that the network sees; None: all of the row. `steps` are shared out among a row's blocks by their masks. Once a row
    has drawn `stop_id` and its block is full, its other masks get it too and cost nothing.

    Raises `UsageError` on an unknown sampler or option, a `block_length` below 1 or other than the network's, a
    negative `lookahead`, and fewer steps than blocks.
    """
    sampler = _inside(inner, options)
    own_length = logits_functions.block_length(logits_fn)
    length = _checked_length(block_length, own_length)
    if lookahead is not None and lookahead < 0:
        raise UsageError(f"lookahead {lookahead}: must be 0 (the canvas grows block by block) or more")
    draw = noise.Draw(temperature, top_k, top_p, min_p)
    canvas = Canvas(logits_fn, tokens_BL, mask_id=mask_id, steps=steps, draw=draw, on_step=on_step)
    generators = noise.row_generators(generator, len(tokens_BL))
    position_L = torch.arange(tokens_BL.shape[1], device=tokens_BL.device)
    first_B1 = canvas.masked_BL.int().argmax(dim=1, keepdim=True)
    if own_length is not None:
        first_B1 = torch.zeros_like(first_B1)
    block_BL = (position_L - first_B1).div(length, rounding_mode="floor")
    turn_BL = turns(block_BL, canvas.masked_BL)
    given_BL = ~canvas.masked_BL & (tokens_BL != PADDING)
    tail_B = torch.where(given_BL, position_L + 1, 0).amax(dim=1) if tokens_BL.numel() else position_L[:0]
    steps_BT = _steps_of_blocks(turn_BL, steps, length)
    taken_B = torch.zeros_like(canvas.network_calls_B)

    for turn in range(1, int(turn_BL.max()) + 1 if turn_BL.numel() else 1):
        open_BL = (turn_BL == turn) & canvas.masked_BL
        end_B = torch.where(open_BL, (block_BL + 1) * length + first_B1, 0).amax(dim=1)
        if own_length is None:
            seen_B = (
                torch.full_like(end_B, len(position_L)) if lookahead is None else (end_B + lookahead).maximum(tail_B)
            )
        else:
            seen_B = end_B
        rows_B = open_BL.any(dim=1)
        for block_steps in sorted(set(cast("list[int]", steps_BT[rows_B, turn - 1].tolist()))):
            rows_R = (rows_B & (steps_BT[:, turn - 1] == block_steps)).nonzero()[:, 0]
            end = min(int(seen_B[rows_R].max()), len(position_L))
            open_RE, unseen_RE = open_BL[rows_R, :end], position_L[:end] >= seen_B[rows_R, None]
            block_of = _Block(canvas, rows_R, open_RE, taken_B[rows_R], canvas.network_calls_B[rows_R])
            tokens_RE = canvas.tokens_BL[rows_R, :end]
            waiting_RE = canvas.masked_BL[rows_R, :end] & ~open_RE
            tokens_RE = tokens_RE.masked_fill(waiting_RE, HELD).masked_fill(waiting_RE & unseen_RE, PADDING)
            sampled = sampler(
                _Held(logits_functions.at_rows(logits_fn, rows_R), mask_id),
                tokens_RE,
                mask_id=mask_id,
                steps=block_steps or None,
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                min_p=min_p,
                generator=[generators[row] for row in cast("list[int]", rows_R.tolist())],
                on_step=None if on_step is None else block_of.tell,
                **options,
            )
            block_of.take(sampled.tokens_BL, sampled.reveal_step_BL, sampled.network_calls_B)
            used_R = sampled.reveal_step_BL.amax(dim=1) + 1
            taken_B[rows_R] += torch.full_like(used_R, block_steps) if block_steps else used_R
        if stop_id is not None:
            stopped_B = (open_BL & (canvas.tokens_BL == stop_id)).any(dim=1) & canvas.masked_BL.any(dim=1)
            if stopped_B.any():
                canvas.stop(stopped_B.nonzero()[:, 0], stop_id, taken_B[:, None] - 1)
                canvas.step_done()
    return canvas.sampled()


def shared_out(steps: int, masks: Sequence[int]) -> list[int]:
    """`steps` shared out among blocks of so many `masks`, in proportion and at least one each. Needs enough steps."""
    total, seen, taken = sum(masks), 0, 0
    shares: list[int] = []
    for number, count in enumerate(masks):
        seen += count
        upto = max(taken + 1, min(steps * seen // total, steps - (len(masks) - 1 - number)))
        shares.append(upto - taken)
        taken = upto
    return shares


@dataclass(frozen=True)
class _Block:
    """Some rows of a canvas while a sampler fills a block of each."""

    canvas: Canvas
    rows_R: Tensor
    open_RE: Tensor
    steps_before_R: Tensor
    calls_before_R: Tensor

    def take(self, tokens_RE: Tensor, reveal_step_RE: Tensor, calls_R: Tensor) -> None:
        """Put the sampler's state into the canvas."""
        row_S, position_S = self.open_RE.nonzero(as_tuple=True)
        at = (self.rows_R[row_S], position_S)
        step_S = reveal_step_RE[self.open_RE]
        self.canvas.tokens_BL[at] = tokens_RE[self.open_RE]
        self.canvas.masked_BL[at] = step_S < 0
        self.canvas.reveal_step_BL[at] = torch.where(step_S < 0, -1, step_S + self.steps_before_R[row_S])
        self.canvas.network_calls_B[self.rows_R] = self.calls_before_R + calls_R

    def tell(self, state: Step) -> None:
        """The same, and tell the block sampler's own `on_step`."""
        self.take(state.tokens_BL, state.reveal_step_BL, state.network_calls_B)
        row_S, position_S = self.open_RE.nonzero(as_tuple=True)
        self.canvas.confidence_BL[self.rows_R[row_S], position_S] = state.confidence_BL[self.open_RE]
        self.canvas.step_done()


@dataclass(frozen=True)
class _Held:
    """A `LogitsFn` for tokens in which `HELD` stands for masks."""

    logits_fn: LogitsFn
    mask_id: int

    def __call__(self, tokens_BL: Tensor, select_BL: Tensor | None = None, /) -> Tensor:
        return self.logits_fn(self._as_masks(tokens_BL), select_BL)

    def network_calls(self, tokens_BL: Tensor, /) -> Tensor:
        return logits_functions.network_calls(self.logits_fn, self._as_masks(tokens_BL))

    def at_rows(self, rows_R: Tensor, /) -> LogitsFn:
        return _Held(logits_functions.at_rows(self.logits_fn, rows_R), self.mask_id)

    def _as_masks(self, tokens_BL: Tensor) -> Tensor:
        return tokens_BL.masked_fill(tokens_BL == HELD, self.mask_id)


def _inside(inner: str | Sampler, options: dict[str, Any]) -> Sampler:
    if isinstance(inner, str):
        if inner not in INSIDE:
            raise unknown_name("sampler inside a block", inner, INSIDE)
        inner = INSIDE[inner]
    known = own_options(inner)
    for option in options:
        if option not in known:
            raise unknown_name("option", option, known)
    return inner


def own_options(sampler: Sampler) -> set[str]:
    """The names of the arguments that `sampler` has beyond those of every sampler."""
    common = inspect.signature(Sampler.__call__).parameters
    named = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return {
        name
        for name, parameter in inspect.signature(sampler).parameters.items()
        if name not in common and parameter.kind in named
    }


def _checked_length(block_length: int | None, own_length: int | None) -> int:
    if block_length is not None and block_length < 1:
        raise UsageError(f"block_length {block_length}: must be at least 1")
    if own_length is not None and block_length not in (None, own_length):
        raise UsageError(
            f"block_length {block_length}: the network was trained with blocks of {own_length}: leave it out"
        )
    return block_length or own_length or DEFAULT_BLOCK_LENGTH


def _steps_of_blocks(turn_BL: Tensor, steps: int | None, length: int) -> Tensor:
    """Steps (B, T) for each row's blocks; 0 stands for one for each mask."""
    blocks = int(turn_BL.max()) if turn_BL.numel() else 0
    steps_BT = torch.zeros(len(turn_BL), blocks, dtype=torch.int64, device=turn_BL.device)
    if steps is None:
        return steps_BT
    if steps < blocks:
        raise UsageError(
            f"steps {steps}: fewer than the {blocks} blocks of {length}: give at least {blocks}, or longer blocks"
        )
    for row, turn_L in enumerate(turn_BL):
        masks = cast("list[int]", turn_L.bincount()[1:].tolist())
        steps_BT[row, : len(masks)] = torch.tensor(shared_out(steps, masks), dtype=torch.int64)
    return steps_BT
