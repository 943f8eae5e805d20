"""The one thing that samplers, estimators and guidance know of a network: a `LogitsFn`.

A plain function will do. One that costs more than one network call, that treats the rows of its batch differently, or
that can go on from where it was, says so by one more method each: `network_calls(tokens_BL)`, `at_rows(rows_R)` and
`incremental(rows, length)`. The functions of these names below are how the others ask.

Shapes: B rows, L positions, V vocabulary, S selected positions, R rows taken from a batch, N tokens that a cache has
not seen.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

PADDING = -1
"""The id of a position that is not there: a row that is shorter than its batch ends in them. It is never selected,
and no other position may depend on it."""


class LogitsFn(Protocol):
    """`logits_fn(tokens_BL, select_BL=None)`: position i's logits predict token i, whatever the network does inside.

    Without `select_BL` the result is (B, L, V). With a boolean `select_BL` it is (S, V), one row for each selected
    position in row-major order, and the output head is computed for those alone. Any function of this form will do,
    which is how the tests check samplers and estimators against models that are small enough to enumerate.
    """

    def __call__(self, tokens_BL: Tensor, select_BL: Tensor | None = None, /) -> Tensor:
        """Logits (B, L, V), or (S, V) of the selected positions."""
        ...


@runtime_checkable
class Costed(Protocol):
    """A `LogitsFn` that knows what it costs, such as a guided one."""

    def network_calls(self, tokens_BL: Tensor, /) -> Tensor:
        """Network calls (B,) that evaluating each row of `tokens_BL` takes, int64."""
        ...


@runtime_checkable
class RowDependent(Protocol):
    """A `LogitsFn` made for one batch, such as guidance with a prompt for each row."""

    def at_rows(self, rows_R: Tensor, /) -> LogitsFn:
        """The function for a batch made of the rows `rows_R` of that batch, which may repeat."""
        ...


class Cache(Protocol):
    """A batch of a causal network under way, with what its cache holds."""

    def __call__(self, tokens_BN: Tensor, /) -> Tensor:
        """Take the next N tokens of each row, N from 0, and give the logits (B, V) of the token after them."""
        ...

    def keep(self, rows_R: Tensor, /) -> None:
        """Go on with these rows of the batch alone."""
        ...


@runtime_checkable
class Incremental(Protocol):
    """A `LogitsFn` of a causal network with a cache of keys and values, or one around another that may be such."""

    def incremental(self, rows: int, length: int, /) -> Cache | None:
        """Start an empty cache for `rows` rows of at most `length` tokens; None if there is none to be had."""
        ...


@runtime_checkable
class BlockCausal(Protocol):
    """A `LogitsFn` of a network that was trained block-causally, or one around another that may be such."""

    @property
    def block_length(self) -> int | None:
        """Length of the blocks: a position sees its own one and those before it. None for any other network."""
        ...


def network_calls(logits_fn: LogitsFn, tokens_BL: Tensor) -> Tensor:
    """Network calls (B,) that `logits_fn(tokens_BL)` takes for each row; 1 unless the function says otherwise."""
    if isinstance(logits_fn, Costed):
        return logits_fn.network_calls(tokens_BL)
    return torch.ones(len(tokens_BL), dtype=torch.int64, device=tokens_BL.device)


def at_rows(logits_fn: LogitsFn, rows_R: Tensor) -> LogitsFn:
    """`logits_fn` for a batch made of the rows `rows_R` of the one it was made for; itself if all rows are alike."""
    return logits_fn.at_rows(rows_R) if isinstance(logits_fn, RowDependent) else logits_fn


def incremental(logits_fn: LogitsFn, rows: int, length: int) -> Cache | None:
    """An empty cache of `logits_fn` for `rows` rows of at most `length` tokens; None if it has none."""
    return logits_fn.incremental(rows, length) if isinstance(logits_fn, Incremental) else None


def block_length(logits_fn: LogitsFn) -> int | None:
    """The length of the blocks of a block-causal network; None for any other."""
    return logits_fn.block_length if isinstance(logits_fn, BlockCausal) else None
