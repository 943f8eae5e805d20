"""Transformers' cache of keys and values as the one that our network writes to.

Its `generate` makes the cache, reorders its rows for beams and cuts it back for assisted decoding; the network only
puts keys and values in.

Shapes: B rows, K key and value heads, L new tokens, T tokens held, E head dimension.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from transformers.cache_utils import Cache

from unmask.config import ModelConfig
from unmask.kv_cache import LayerPart


class HfCache:
    """A `kv_cache.GrowingCache` over a `Cache` of Transformers, for one pass."""

    def __init__(self, cache: Cache, config: ModelConfig) -> None:
        self.cache = cache
        self.length = int(cache.get_seq_length())
        """Tokens held."""
        self.room = config.context_length

    def layer(self, layer: int, new: int) -> LayerPart:
        """The part of one block, where `new` tokens are about to join."""
        return _Layer(self.cache, layer, self.length + new)


@dataclass(frozen=True)
class _Layer:
    cache: Cache
    layer: int
    stop: int

    def extend(self, keys_BKLE: Tensor, values_BKLE: Tensor) -> tuple[Tensor, Tensor]:
        """Put in the new keys and values, and return all of them; a static cache has room behind them."""
        keys_BKTE, values_BKTE = self.cache.update(keys_BKLE, values_BKLE, self.layer)
        return keys_BKTE[:, :, : self.stop], values_BKTE[:, :, : self.stop]
