"""Selected positions of a batch, of which each row may have another number, and how to gather them.

Shapes: B rows, L positions, S selected positions in row-major order, Q the most of them in one row.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Selection:
    """The positions where a boolean (B, L) is true."""

    row_S: Tensor
    position_S: Tensor
    slot_S: Tensor
    """Which of its row's selected positions each one is, from 0."""
    rows: int
    widest: int
    """Q."""
    is_everything: bool
    """Whether all B * L positions are selected."""

    @classmethod
    def of(cls, select_BL: Tensor) -> Selection:
        """The selection that `select_BL` marks. Waits for the device once."""
        row_S, position_S = select_BL.nonzero(as_tuple=True)
        before_BL = select_BL.cumsum(dim=1) - 1
        slot_S = before_BL[row_S, position_S]
        widest = int(slot_S.max()) + 1 if len(slot_S) else 0
        return cls(row_S, position_S, slot_S, len(select_BL), widest, len(row_S) == select_BL.numel())

    def take(self, x: Tensor) -> Tensor:
        """(S, ...) from (B, L, ...)."""
        return x[self.row_S, self.position_S]

    def padded(self, x: Tensor) -> Tensor:
        """(B, Q, ...) from (S, ...): each row's positions from the left, zeros behind them."""
        padded = x.new_zeros(self.rows, self.widest, *x.shape[1:])
        return padded.index_put((self.row_S, self.slot_S), x)

    def unpadded(self, padded: Tensor) -> Tensor:
        """(S, ...) from (B, Q, ...)."""
        return padded[self.row_S, self.slot_S]
