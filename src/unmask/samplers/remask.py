"""The remasking sampler: revealed tokens may be masked again and drawn anew.

ReMDM (Wang et al., 2025, arXiv 2503.00307).

Between two steps the share of revealed tokens goes from a to b >= a (a = 1 - t). A revealed token is masked again with
probability sigma, and a masked one is revealed with probability (b - (1 - sigma) a) / (1 - a), so that the shares, and
with them what the network was trained on, are those of the ancestral sampler, which is sigma = 0. The largest sigma is
min(1, (1 - b) / a). Nothing is masked again in the last step.

What is revealed and masked again does not depend on the tokens drawn, or only on the probabilities that they had when
they were. So steps in which a row reveals nothing are passed over without a network call.

Shapes: B rows, L positions, R rows that reveal something.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor

from unmask.errors import UsageError, unknown_name
from unmask.logits_fn import LogitsFn
from unmask.samplers import noise
from unmask.samplers.canvas import Canvas, OnStep, Sampled


class Remasking(NamedTuple):
    """A step's part of a remasking schedule."""

    revealed_before: float
    """Share of revealed tokens a that the step starts from."""
    revealed_after: float
    """Share b that it goes to, at least a."""
    sigma: float
    """Chance of a revealed token to be masked again, at most min(1, (1 - b) / a)."""


def capped(steps: int, eta: float) -> list[Remasking]:
    """Sigma is `eta`, or the largest one where that is less."""
    return [Remasking(a, b, min(eta, _largest(a, b))) for a, b in _grid(steps)]


def rescaled(steps: int, eta: float) -> list[Remasking]:
    """Sigma is the share `eta` of the largest one."""
    return [Remasking(a, b, eta * _largest(a, b)) for a, b in _grid(steps)]


def loop(steps: int, eta: float, hold: float = 0.9, share: float = 0.5) -> list[Remasking]:
    """Ancestral steps until `hold` of the tokens are revealed, `share` of all steps with `eta` there, then the rest.

    While the share of revealed tokens is held, as many are masked again as are revealed.
    """
    held = min(int(share * steps), max(steps - 2, 0))
    up = max(1, round(hold * (steps - held)))
    if not held or up >= steps - held:
        return [Remasking(a, b, 0.0) for a, b in _grid(steps)]
    rising = [Remasking(hold * k / up, hold * (k + 1) / up, 0.0) for k in range(up)]
    holding = [Remasking(hold, hold, min(eta, _largest(hold, hold)))] * held
    left = steps - held - up
    grid = [hold + (1 - hold) * k / left for k in range(left)] + [1.0]
    return [*rising, *holding, *(Remasking(a, b, 0.0) for a, b in itertools.pairwise(grid))]


SCHEDULES: dict[str, Callable[[int, float], list[Remasking]]] = {"cap": capped, "rescale": rescaled, "loop": loop}
"""The remasking schedules by name: functions of the number of steps and of eta."""


@torch.no_grad()
def remask(
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
    remasking: str = "cap",
    eta: float = 0.02,
    by_confidence: bool = False,
) -> Sampled:
    """Fill the masks in `steps` steps, in which revealed tokens may be masked again; see `Sampler` for the arguments.

    `remasking` is a name in `SCHEDULES`, `eta` its strength from 0 (ancestral sampling) to 1. With `by_confidence` a
    step's sigma is shared out among the revealed tokens, more to those that were improbable when they were drawn. More
    steps than masks are of use here: they go into corrections. `reveal_step_BL` has the last reveal of each position.
    Raises `UsageError` on an unknown schedule and on an `eta` outside [0, 1].
    """
    if remasking not in SCHEDULES:
        raise unknown_name("remasking", remasking, SCHEDULES)
    if not 0 <= eta <= 1:
        raise UsageError(f"eta {eta}: must be from 0 (no remasking) to 1")
    draw = noise.Draw(temperature, top_k, top_p, min_p)
    canvas = Canvas(logits_fn, tokens_BL, mask_id=mask_id, steps=steps, draw=draw, on_step=on_step)
    generators = noise.row_generators(generator, len(tokens_BL))
    plans = _Plans(SCHEDULES[remasking], canvas.masked_BL.sum(dim=1), steps, eta)
    generated_BL = canvas.masked_BL.clone()
    reveal_BL, hide_BL = torch.zeros_like(generated_BL), torch.zeros_like(generated_BL)
    token_noise_BL = torch.empty(tokens_BL.shape, dtype=torch.float64, device=tokens_BL.device)

    while True:
        reveal_BL.fill_(False)
        while len(rows_R := plans.left(without_BL=reveal_BL)):  # until each row is at a step that reveals something
            own = [generators[row] for row in cast("list[int]", rows_R.tolist())]
            change_RL = noise.uniform(own, generated_BL[rows_R])
            token_noise_BL[rows_R] = noise.uniform(own, generated_BL[rows_R])
            masked_RL = canvas.masked_BL[rows_R]
            revealed_RL = generated_BL[rows_R] & ~masked_RL
            step_R = plans.next(rows_R)
            sigma_RL = step_R.sigma_R1
            if by_confidence:
                sigma_RL = sigma_RL * share_by_doubt(canvas.confidence_BL[rows_R], revealed_RL)
                step_R = step_R.with_sigma(sigma_RL.sum(dim=1, keepdim=True) / revealed_RL.sum(dim=1, keepdim=True))
            reveal_BL[rows_R] = masked_RL & (change_RL < step_R.reveal())
            hide_BL[rows_R] = revealed_RL & (change_RL < sigma_RL)
            idle_R = rows_R[~reveal_BL[rows_R].any(dim=1)]
            canvas.hide(idle_R, hide_BL[idle_R])
        rows_R = reveal_BL.any(dim=1).nonzero()[:, 0]
        if not len(rows_R):
            return canvas.sampled()
        select_RL = reveal_BL[rows_R]
        drawn = canvas.draw(canvas.logits(rows_R, select_RL), token_noise_BL[rows_R][select_RL])
        canvas.reveal(rows_R, select_RL, drawn, plans.taken_B[rows_R, None] - 1)
        canvas.hide(rows_R, hide_BL[rows_R])
        canvas.step_done()


def share_by_doubt(confidence_BL: Tensor, revealed_BL: Tensor) -> Tensor:
    """How the chance of being masked again is shared out (B, L): by the softmax of minus the confidence; sums to 1."""
    doubt_BL = (-confidence_BL.double()).masked_fill(~revealed_BL, -math.inf)
    return doubt_BL.softmax(dim=1).nan_to_num(0.0)  # nan in a row where nothing is revealed


class _Plans:
    """The schedule of each row, and how many of its steps it has taken."""

    def __init__(
        self, schedule: Callable[[int, float], list[Remasking]], masks_B: Tensor, steps: int | None, eta: float
    ) -> None:
        masks = cast("list[int]", masks_B.tolist())
        plans = {number: schedule(steps or number, eta) if number else [] for number in {0, *masks}}
        longest = max(map(len, plans.values()))
        rows = [[*plans[number], *[Remasking(1, 1, 0)] * (longest - len(plans[number]))] for number in masks]
        self._plans_BT3 = torch.tensor(rows, dtype=torch.float64, device=masks_B.device).view(len(masks), longest, 3)
        self._length_B = torch.tensor([len(plans[number]) for number in masks], device=masks_B.device)
        self.taken_B = torch.zeros_like(masks_B)

    def left(self, without_BL: Tensor) -> Tensor:
        """The rows that have steps left, without those where something in `without_BL` is true."""
        return ((self.taken_B < self._length_B) & ~without_BL.any(dim=1)).nonzero()[:, 0]

    def next(self, rows_R: Tensor) -> _Steps:
        """The next step of each row, which is taken with that."""
        plan_R3 = self._plans_BT3[rows_R, self.taken_B[rows_R]]
        self.taken_B[rows_R] += 1
        return _Steps(*plan_R3[:, :, None].unbind(dim=1))


class _Steps(NamedTuple):
    """`Remasking` for several rows."""

    before_R1: Tensor
    after_R1: Tensor
    sigma_R1: Tensor

    def reveal(self) -> Tensor:
        a, b = self.before_R1, self.after_R1
        return ((b - (1 - self.sigma_R1) * a) / (1 - a)).clamp(max=1).where(a < 1, 1.0)

    def with_sigma(self, sigma_R1: Tensor) -> _Steps:
        return self._replace(sigma_R1=sigma_R1.nan_to_num(0.0))  # nan where nothing is revealed yet


def _grid(steps: int) -> list[tuple[float, float]]:
    """The shares of revealed tokens before and after each step, evenly from 0 to 1."""
    return [(step / steps, (step + 1) / steps) for step in range(steps)]


def _largest(a: float, b: float) -> float:
    """The largest sigma for which the share of revealed tokens can still go from a to b; 0 where none is revealed."""
    return 0.0 if a == 0 else min(1.0, max(0.0, (1 - b) / a))
