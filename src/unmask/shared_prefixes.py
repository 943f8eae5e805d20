"""What rows of a causal network have in common at their beginnings, computed once.

A position of such a network depends on the tokens up to it alone. Where a row begins like the one before it in the
batch, as the options of a question behind their prompt do, it takes the keys and values of that part from there, and
what stands behind the last position that is asked for is not computed at all.

Shapes: B rows, L positions, N positions that are computed, S selected positions, T positions that are seen, K key and
value heads, E head dimension, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unmask.model import Transformer
from unmask.selection import Selection

WORTHWHILE = 0.8
"""Share of the positions to be computed up to which it pays to leave the others out."""


@dataclass(frozen=True)
class PrefixTree:
    """Which positions of a batch are computed, and where the others find theirs."""

    compute_BL: Tensor
    owner_BL: Tensor
    """The row that computes the position, where it is needed."""

    @classmethod
    def of(cls, tokens_BL: Tensor, select_BL: Tensor) -> PrefixTree:
        """For rows of which the positions where `select_BL` is true are asked for.

        Only neighbours are compared: rows that begin alike should stand together.
        """
        needed_BL = select_BL.flip(1).cumsum(dim=1).flip(1) > 0
        above_BL = needed_BL.roll(1, dims=0)
        alike_BL = (tokens_BL == tokens_BL.roll(1, dims=0)).int().cumprod(dim=1) > 0
        alike_BL[0] = False
        compute_BL = needed_BL & ~(alike_BL & above_BL)
        row_B1 = torch.arange(len(tokens_BL), device=tokens_BL.device)[:, None]
        owner_BL = torch.where(compute_BL, row_B1, 0).cummax(dim=0).values
        return cls(compute_BL, owner_BL)

    @property
    def share(self) -> float:
        """Positions that are computed, of all."""
        return int(self.compute_BL.sum()) / max(1, self.compute_BL.numel())

    def logits(self, model: Transformer, tokens_BL: Tensor, select_BL: Tensor) -> Tensor:
        """`model(tokens_BL, select_BL)`, (S, V), of the tokens and the selection that the tree was made of."""
        row_S, position_S = select_BL.nonzero(as_tuple=True)
        owner_S = self.owner_BL[row_S, position_S]
        own_BL = torch.zeros_like(select_BL)
        own_BL[owner_S, position_S] = True
        cache = SharedKeys(self._place(self.compute_BL))
        logits = model.recompute(tokens_BL, self.compute_BL, own_BL, cache)
        return logits if own_BL.equal(select_BL) else logits[self._place(own_BL)[row_S, position_S]]

    def _place(self, of_BL: Tensor) -> Tensor:
        """Where each position's owner stands among those where `of_BL` is true; anywhere for what is not needed."""
        place_BL = of_BL.flatten().cumsum(dim=0).view(of_BL.shape) - 1
        return place_BL.gather(0, self.owner_BL).clamp(min=0)


class SharedKeys:
    """The keys and values of the computed positions of one block, for all rows that have them in common."""

    def __init__(self, place_BT: Tensor) -> None:
        """`place_BT` is where each position's stand among the computed ones."""
        self._place_BT = place_BT

    def put(self, layer: int, where: Selection, keys_NKE: Tensor, values_NKE: Tensor) -> None:
        """Hold those of this block in place of the last one's."""
        self._keys_NKE, self._values_NKE = keys_NKE, values_NKE

    def get(self, layer: int, length: int) -> tuple[Tensor, Tensor]:
        """Keys and values (B, K, T, E) of every row."""
        keys_BTKE, values_BTKE = self._keys_NKE[self._place_BT], self._values_NKE[self._place_BT]
        return keys_BTKE.transpose(1, 2), values_BTKE.transpose(1, 2)
