"""Keys and values that a network keeps from one pass to the next.

A causal network's never change: a `GrowingCache` grows, as `KVCache` does. A bidirectional network's may be
computed anew at any position: `PositionCache` holds one of each for every position.

Shapes: B rows, K key and value heads, L new tokens, T positions, E head dimension, S computed positions of all rows.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from unmask.config import ModelConfig
from unmask.selection import Selection


class LayerPart(Protocol):
    """One block's part of a `GrowingCache`."""

    def extend(self, keys_BKLE: Tensor, values_BKLE: Tensor) -> tuple[Tensor, Tensor]:
        """Put in the new keys and values, and return all of them."""
        ...


class GrowingCache(Protocol):
    """What a causal network needs of a cache: `KVCache`, or another library's in this form."""

    length: int
    """Tokens held; the network sets it after each pass."""

    @property
    def room(self) -> int:
        """Most tokens that it can hold."""
        ...

    def layer(self, layer: int, new: int) -> LayerPart:
        """The part of one block, where `new` tokens are about to join."""
        ...


class KVCache:
    """Keys and values of the tokens that a causal network has seen, for each block; empty at first."""

    def __init__(
        self,
        config: ModelConfig,
        rows: int,
        room: int,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Room for `rows` rows of `room` tokens."""
        shape = (config.n_layer, rows, config.n_kv_head, room, config.head_dim)
        self._keys = torch.empty(shape, device=device, dtype=dtype)
        self._values = torch.empty(shape, device=device, dtype=dtype)
        self.room = room
        self.length = 0
        """Tokens held."""

    def keep(self, rows_R: Tensor) -> None:
        """Hold these rows alone."""
        self._keys, self._values = self._keys[:, rows_R], self._values[:, rows_R]

    def layer(self, layer: int, new: int) -> LayerCache:
        """The part of one block, where `new` tokens are about to join."""
        return LayerCache(self._keys[layer], self._values[layer], self.length, self.length + new)


class LayerCache:
    """One block's part of a `KVCache`."""

    def __init__(self, keys_BKTE: Tensor, values_BKTE: Tensor, start: int, stop: int) -> None:
        self._keys, self._values, self._start, self._stop = keys_BKTE, values_BKTE, start, stop

    def extend(self, keys_BKLE: Tensor, values_BKLE: Tensor) -> tuple[Tensor, Tensor]:
        """Put in the new keys and values, and return all of them."""
        self._keys[:, :, self._start : self._stop] = keys_BKLE
        self._values[:, :, self._start : self._stop] = values_BKLE
        return self._keys[:, :, : self._stop], self._values[:, :, : self._stop]


class KeysAndValues(Protocol):
    """Where `Transformer.recompute` puts the keys and values of the positions it computes, and finds all others."""

    def put(self, layer: int, where: Selection, keys_SKE: Tensor, values_SKE: Tensor, /) -> None:
        """Put in those of the positions `where`."""
        ...

    def get(self, layer: int, length: int, /) -> tuple[Tensor, Tensor]:
        """Keys and values (B, K, T, E) of the first `length` positions of the batch."""
        ...


class PositionCache:
    """Keys and values of every position of a batch, for each block of the network; what is computed anew goes in."""

    def __init__(
        self,
        config: ModelConfig,
        rows: int,
        length: int,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Room for `rows` rows of `length` positions; 0 where nothing was computed yet."""
        shape = (config.n_layer, rows, length, config.n_kv_head, config.head_dim)
        self._keys = torch.zeros(shape, device=device, dtype=dtype)
        self._values = torch.zeros(shape, device=device, dtype=dtype)
        self._rows_B: Tensor | None = None
        """Which of the rows the batch is; None: all of them, in order."""

    @property
    def rows(self) -> int:
        """Rows held."""
        return self._keys.shape[1]

    @property
    def length(self) -> int:
        """Positions held."""
        return self._keys.shape[2]

    def at_rows(self, rows_B: Tensor) -> PositionCache:
        """The same cache for a batch made of these rows, each at most once; what is put in there is in this one too."""
        view = PositionCache.__new__(PositionCache)
        view._keys, view._values, view._rows_B = self._keys, self._values, rows_B
        return view

    def grow(self, rows: int) -> None:
        """Make room for `rows` more rows."""
        self._keys, self._values = (
            torch.cat([held, torch.zeros_like(held[:, :1]).expand(-1, rows, -1, -1, -1)], dim=1)
            for held in (self._keys, self._values)
        )

    def put(self, layer: int, where: Selection, keys_SKE: Tensor, values_SKE: Tensor) -> None:
        """Put in the keys and values of the positions `where` of the batch."""
        row_S = where.row_S if self._rows_B is None else self._rows_B[where.row_S]
        at = (row_S, where.position_S)
        self._keys[layer][at] = keys_SKE.to(self._keys.dtype)
        self._values[layer][at] = values_SKE.to(self._values.dtype)

    def get(self, layer: int, length: int) -> tuple[Tensor, Tensor]:
        """Keys and values (B, K, T, E) of the first `length` positions of the batch."""
        keys_BTKE, values_BTKE = self._keys[layer, :, :length], self._values[layer, :, :length]
        if self._rows_B is not None:
            keys_BTKE, values_BTKE = keys_BTKE[self._rows_B], values_BTKE[self._rows_B]
        return keys_BTKE.transpose(1, 2), values_BTKE.transpose(1, 2)
