"""Which positions an attention layer lets a position see: the mask that its kernel takes, if it needs one.

A causal network sees what is before, a bidirectional one everything, and a block-causal one (Arriola et al., 2025,
arXiv 2503.09573) its own block and those before it. Such a network is trained on two copies of a row: the noisy one,
whose blocks see themselves and, of the blocks before, the clean copy, which is what they will see in generation.
Where several texts stand in one row, its segments, the rule is that of each of them alone.

Shapes: B rows (1 where all are alike), Q queries, T positions that are seen.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from unmask.config import ModelConfig


class Seen(NamedTuple):
    """What `scaled_dot_product_attention` is told."""

    mask: Tensor | None
    """Boolean (B, 1, Q, T), True where the query sees the position; None for everything."""
    causal: bool
    """The kernel's own triangle, for as many queries as positions."""


EVERYTHING = Seen(None, causal=False)


@dataclass(frozen=True)
class Visibility:
    """The positions that are there to be seen in one pass, and the network's rule."""

    config: ModelConfig
    position_BT: Tensor
    """Of each place the position, which begins at 0 in every segment."""
    clean_T: Tensor | None
    """True in the clean copy; None without one."""
    present_BT: Tensor | None
    """False for padding; None without any."""
    attend_TT: Tensor | None = None
    """What each position (row) sees, in place of the network's rule; None for that."""
    segment_BT: Tensor | None = None
    """Which text each place belongs to, of which none sees another; None where a row is one text."""

    @property
    def needs_mask(self) -> bool:
        """Whether some position may not be seen by all."""
        own_rule = self.config.causal or self.config.block_length > 0
        return own_rule or any(each is not None for each in (self.present_BT, self.attend_TT, self.segment_BT))

    def everywhere(self, new: int) -> Seen:
        """What the last `new` of the positions see, all of them being queries."""
        if not self.needs_mask:
            return EVERYTHING
        seen = self.position_BT.shape[1]
        plain = self.present_BT is None and self.attend_TT is None and self.segment_BT is None
        if self.config.causal and plain and new in (1, seen):
            return Seen(None, causal=new > 1)
        query_1Q = torch.arange(seen - new, seen, device=self.position_BT.device)[None]
        return self.of(query_1Q)

    def of(self, query_BQ: Tensor) -> Seen:
        """What the queries see; `query_BQ` are their places among the positions."""
        if not self.needs_mask:
            return EVERYTHING
        parts: list[Tensor] = []
        if (rule_BQT := self._rule(query_BQ)) is not None:
            parts.append(rule_BQT)
        if self.segment_BT is not None:
            parts.append(self.segment_BT[:, None] == _at(self.segment_BT, query_BQ))
        if self.present_BT is not None:
            parts.append(self.present_BT[:, None])
        mask_BQT = functools.reduce(torch.logical_and, parts)
        if self.present_BT is not None and self.config.causal:  # padding in front would see nothing, and give NaN
            places_T = torch.arange(self.position_BT.shape[1], device=query_BQ.device)
            mask_BQT = mask_BQT | (places_T == query_BQ[:, :, None])
        return Seen(mask_BQT[:, None], causal=False)

    def _rule(self, query_BQ: Tensor) -> Tensor | None:
        if self.attend_TT is None and not self.config.causal and not self.config.block_length:
            return None
        position_B1T, position_BQ1 = self.position_BT[:, None], _at(self.position_BT, query_BQ)
        if self.attend_TT is not None:
            return self.attend_TT[position_BQ1, position_B1T]
        if self.config.causal:
            return position_B1T <= position_BQ1
        block_B1T, block_BQ1 = position_B1T // self.config.block_length, position_BQ1 // self.config.block_length
        if self.clean_T is None:
            return block_B1T <= block_BQ1
        clean_BQ1 = self.clean_T[query_BQ][:, :, None]
        own = (block_B1T == block_BQ1) & (self.clean_T == clean_BQ1)
        return own | ((block_B1T < block_BQ1) & self.clean_T)


def _at(values_BT: Tensor, query_BQ: Tensor) -> Tensor:
    """(B, Q, 1) of the values at the queries' places."""
    rows = max(len(values_BT), len(query_BQ))
    return values_BT.expand(rows, -1).gather(1, query_BQ.expand(rows, -1))[:, :, None]
