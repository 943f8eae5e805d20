"""Networks as `LogitsFn`s: one trained with masks, and an autoregressive one with its cache.

Shapes: B rows, L positions, V vocabulary, S selected positions, N tokens that a cache has not seen, K rows that a
cache still holds.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unmask.kv_cache import KVCache
from unmask.logits_fn import PADDING
from unmask.model import Transformer
from unmask.shared_prefixes import WORTHWHILE, PrefixTree, SharedKeys

MOSTLY_THERE = 0.95
"""Share of a batch that is no padding from which on computing the padding too is faster than leaving it out."""


@dataclass(frozen=True)
class MaskedLogits:
    """A network trained with masks as a `LogitsFn`."""

    model: Transformer
    skip_padding: bool = False
    """Compute nothing of padding; not for a sharded network."""

    @torch.no_grad()
    def __call__(self, tokens_BL: Tensor, select_BL: Tensor | None = None, /) -> Tensor:
        """The network's rows, which predict the tokens at their own positions."""
        there_BL = tokens_BL != PADDING
        there = int(there_BL.sum())
        if there == there_BL.numel():
            return self.model(tokens_BL, select_BL)
        if self.skip_padding and select_BL is not None and there < MOSTLY_THERE * there_BL.numel():
            place_BL = (there_BL.flatten().cumsum(dim=0).view(there_BL.shape) - 1).clamp(min=0)
            return self.model.recompute(tokens_BL, there_BL, select_BL, SharedKeys(place_BL), present_BL=there_BL)
        return self.model(tokens_BL, select_BL, present_BL=there_BL)

    @property
    def block_length(self) -> int | None:
        """Length of the network's blocks; None if it is not block-causal."""
        return self.model.config.block_length or None

    @torch.no_grad()
    def given_clean(self, tokens_BL: Tensor, select_BL: Tensor, clean_BL: Tensor) -> Tensor:
        """Logits (S, V) of a block-causal network that sees `clean_BL` in the blocks before each selected position."""
        return self.model(tokens_BL, select_BL, clean_BL=clean_BL)


@dataclass(frozen=True)
class CausalLogits:
    """An ARM as a `LogitsFn`: the network reads the row moved right by one, behind the beginning-of-text token.

    Without such a token position 0 is uniform. Positions yet to be filled influence nothing before them, so their ids
    need no row in the embedding.
    """

    model: Transformer
    bos_id: int | None
    share_prefixes: bool = False
    """Compute what neighbouring rows have in common at their beginnings once; not for a sharded network."""

    @torch.no_grad()
    def __call__(self, tokens_BL: Tensor, select_BL: Tensor | None = None, /) -> Tensor:
        """Position i's logits, from the tokens before i."""
        if self.bos_id is not None:
            bos_B1 = torch.full_like(tokens_BL[:, :1], self.bos_id)
            return self._read(torch.cat([bos_B1, self._known(tokens_BL[:, :-1])], dim=1), select_BL)
        rows, length = tokens_BL.shape
        if select_BL is None:
            return self(tokens_BL, torch.ones_like(tokens_BL, dtype=torch.bool)).view(rows, length, -1)
        uniform_S = select_BL.nonzero()[:, 1] == 0
        logits_SV = self.model.head_weight.new_zeros(len(uniform_S), self.model.config.vocab_size)
        if not uniform_S.all():
            logits_SV[~uniform_S] = self._read(self._known(tokens_BL[:, :-1]), select_BL[:, 1:])
        return logits_SV

    def _read(self, inputs_BL: Tensor, select_BL: Tensor | None) -> Tensor:
        """The network's own rows of what it reads."""
        if self.share_prefixes and select_BL is not None:
            tree = PrefixTree.of(inputs_BL, select_BL)
            if tree.share <= WORTHWHILE:
                return tree.logits(self.model, inputs_BL, select_BL)
        return self.model(inputs_BL, select_BL)

    def incremental(self, rows: int, length: int, /) -> CausalCache:
        """Generation with a cache of keys and values; see `samplers.autoregressive`."""
        return CausalCache(self.model, self.bos_id, rows, length)

    def _known(self, tokens_BL: Tensor) -> Tensor:
        return tokens_BL.masked_fill((tokens_BL < 0) | (tokens_BL >= self.model.config.embedding_rows), 0)


class CausalCache:
    """A batch of an ARM under way; see `logits_fn.Cache`."""

    def __init__(self, model: Transformer, bos_id: int | None, rows: int, length: int) -> None:
        """An empty cache for `rows` rows of at most `length` tokens, the beginning-of-text token aside."""
        weight = model.embedding.weight
        room = min(length + (bos_id is not None), model.config.context_length)
        self._model = model
        self._cache = KVCache(model.config, rows, room, device=weight.device, dtype=weight.dtype)
        self._before_KN = torch.full((rows, int(bos_id is not None)), bos_id or 0, device=weight.device)

    @torch.no_grad()
    def __call__(self, tokens_BN: Tensor, /) -> Tensor:
        """Logits (B, V) of the token after the new ones; uniform where there is none before it."""
        tokens_BN = torch.cat([self._before_KN, tokens_BN], dim=1)
        self._before_KN = self._before_KN[:, :0]
        if not tokens_BN.shape[1]:
            return torch.zeros(len(tokens_BN), self._model.config.vocab_size, device=tokens_BN.device)
        last_BN = torch.zeros_like(tokens_BN, dtype=torch.bool)
        last_BN[:, -1] = True
        return self._model(tokens_BN, last_BN, self._cache)

    def keep(self, rows_R: Tensor, /) -> None:
        """Go on with these rows alone."""
        self._cache.keep(rows_R)
        self._before_KN = self._before_KN[rows_R]
