"""Which positions an attention layer lets a position see: the mask that its kernel takes, if it needs one.

A causal network sees what is before, a bidirectional one everything, and a block-causal one (Arriola et al., 2025,
arXiv 2503.09573) its own block and those before it. Such a network is trained on two copies of a row: the noisy one,
whose blocks see themselves and, of the blocks before, the clean copy, which is what they will see in generation.

Shapes: B rows (1 where all are alike), Q queries, T positions that are seen.
"""

from __future__ import annotations

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
    position_T: Tensor
    clean_T: Tensor | None
    """True in the clean copy; None without one."""
    present_BT: Tensor | None
    """False for padding; None without any."""
    attend_TT: Tensor | None = None
    """What each position (row) sees, in place of the network's rule; None for that."""

    @property
    def needs_mask(self) -> bool:
        """Whether some position may not be seen by all."""
        own_rule = self.config.causal or self.config.block_length > 0
        return own_rule or self.present_BT is not None or self.attend_TT is not None

    def everywhere(self, new: int) -> Seen:
        """What the last `new` of the positions see, all of them being queries."""
        if not self.needs_mask:
            return EVERYTHING
        seen = len(self.position_T)
        if self.config.causal and self.present_BT is None and self.attend_TT is None and new in (1, seen):
            return Seen(None, causal=new > 1)
        query_1Q = torch.arange(seen - new, seen, device=self.position_T.device)[None]
        return self.of(query_1Q)

    def of(self, query_BQ: Tensor) -> Seen:
        """What the queries see; `query_BQ` are their places among the positions."""
        if not self.needs_mask:
            return EVERYTHING
        rows_B1T = None if self.present_BT is None else self.present_BT[:, None]
        rule_BQT = self._rule(query_BQ)
        if rule_BQT is None:
            assert rows_B1T is not None
            return Seen(rows_B1T[:, None], causal=False)
        mask_BQT = rule_BQT if rows_B1T is None else rule_BQT & rows_B1T
        return Seen(mask_BQT[:, None], causal=False)

    def _rule(self, query_BQ: Tensor) -> Tensor | None:
        if self.attend_TT is not None:
            return self.attend_TT[query_BQ]
        if self.config.causal:
            return self.position_T <= self.position_T[query_BQ][:, :, None]
        if not self.config.block_length:
            return None
        block_T = self.position_T // self.config.block_length
        block_BQ1 = block_T[query_BQ][:, :, None]
        if self.clean_T is None:
            return block_T <= block_BQ1
        clean_BQ1 = self.clean_T[query_BQ][:, :, None]
        own = (block_T == block_BQ1) & (self.clean_T == clean_BQ1)
        return own | ((block_T < block_BQ1) & self.clean_T)
