"""A record of sampling, step by step, as plain data: what was revealed when, how confidently, and what was taken back.

`Trace` is an `on_step`; its dict is JSON for whoever draws, replays or studies a run of a sampler.
"""

from __future__ import annotations

import math
from typing import Any, cast

from unmask.samplers.canvas import Step


class Trace:
    """Collects the steps of one row of a batch, the first by default."""

    def __init__(self, row: int = 0) -> None:
        self._row = row
        self._before: list[int] | None = None
        """The step in which each position was revealed, as of the last state."""
        self.steps: list[dict[str, Any]] = []

    def on_step(self, state: Step) -> None:
        """Note what has changed in the row."""
        row = self._row
        reveal_steps = cast("list[int]", state.reveal_step_BL[row].tolist())
        tokens = cast("list[int]", state.tokens_BL[row].tolist())
        confidences = cast("list[float]", state.confidence_BL[row].tolist())
        before = self._before or [-1] * len(reveal_steps)
        revealed = [
            {
                "position": position,
                "token": tokens[position],
                "step": step,
                "confidence": None if math.isnan(confidences[position]) else confidences[position],
            }
            for position, step in enumerate(reveal_steps)
            if step >= 0 and step != before[position]
        ]
        masked_again = [p for p, step in enumerate(reveal_steps) if step < 0 <= before[p]]
        if revealed or masked_again:
            calls = int(state.network_calls_B[row])
            self.steps.append({"network_calls": calls, "revealed": revealed, "masked_again": masked_again})
        self._before = reveal_steps
