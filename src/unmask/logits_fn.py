"""The one thing that samplers, estimators and guidance know of a network: a `LogitsFn`.

A plain function will do. One that costs more than one network call, or that treats the rows of its batch differently,
says so by one more method each: `network_calls(tokens_BL)` and `at_rows(rows_R)`. The two functions of these names
below are how the others ask.

Shapes: B rows, L positions, V vocabulary, S selected positions, R rows taken from a batch.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


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


def network_calls(logits_fn: LogitsFn, tokens_BL: Tensor) -> Tensor:
    """Network calls (B,) that `logits_fn(tokens_BL)` takes for each row; 1 unless the function says otherwise."""
    if isinstance(logits_fn, Costed):
        return logits_fn.network_calls(tokens_BL)
    return torch.ones(len(tokens_BL), dtype=torch.int64, device=tokens_BL.device)


def at_rows(logits_fn: LogitsFn, rows_R: Tensor) -> LogitsFn:
    """`logits_fn` for a batch made of the rows `rows_R` of the one it was made for; itself if all rows are alike."""
    return logits_fn.at_rows(rows_R) if isinstance(logits_fn, RowDependent) else logits_fn
