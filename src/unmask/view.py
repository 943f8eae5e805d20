"""The terminal view of sampling: masked positions fill in while the network reveals them.

`DenoisingView` is a context manager whose `on_step` a sampler calls. Tokens just revealed stand out, those of earlier
steps fade, given ones are bold, and masks are blocks. Where standard output is no terminal, use none.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import cast

from rich.console import Console
from rich.live import Live
from rich.text import Text

from unmask.samplers.canvas import Step

MASK = "░░"
FRESH, RECENT, EARLIER, GIVEN, MASKED = "black on bright_green", "bright_green", "green", "bold", "bright_black"


class DenoisingView:
    """Shows the first row of a batch; `pieces` gives the text of each token of a row, masks included."""

    def __init__(self, pieces: Callable[[list[int]], list[str]], mask_id: int, console: Console | None = None) -> None:
        self._pieces = pieces
        self._mask_id = mask_id
        self._live = Live(console=console, refresh_per_second=20, transient=True)

    def __enter__(self) -> DenoisingView:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.refresh()  # the last state is shown, however fast it was reached
        self._live.stop()

    def on_step(self, state: Step) -> None:
        """Draw the state after one step."""
        there = state.tokens_BL[0] >= 0  # without padding
        tokens = cast("list[int]", state.tokens_BL[0][there].tolist())
        steps = cast("list[int]", state.reveal_step_BL[0][there].tolist())
        self._live.update(self.render(tokens, steps, int(state.network_calls_B[0])))

    def render(self, tokens: list[int], steps: list[int], network_calls: int) -> Text:
        """The text of one state, with a line below that counts."""
        latest = max(steps, default=-1)
        text = Text()
        for token, piece, step in zip(tokens, self._pieces(tokens), steps, strict=True):
            if token == self._mask_id:
                text.append(MASK, MASKED)
            elif step < 0:
                text.append(piece, GIVEN)
            else:
                text.append(piece, FRESH if step == latest else RECENT if step >= latest - 2 else EARLIER)
        masked = tokens.count(self._mask_id)
        text.append(f"\n\n{masked} masked, step {latest + 1}, {network_calls} network calls", MASKED)
        return text
