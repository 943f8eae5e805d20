"""The one thing that samplers, estimators and guidance know of a network: a `LogitsFn`.

Shapes: B rows, L positions, V vocabulary, S selected positions.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class LogitsFn(Protocol):
    """`logits_fn(tokens_BL, select_BL=None)`: position i's logits predict token i, whatever the network does inside.

    Without `select_BL` the result is (B, L, V). With a boolean `select_BL` it is (S, V), one row for each selected
    position in row-major order, and the output head is computed for those alone. Any function of this form will do,
    which is how the tests check samplers and estimators against models that are small enough to enumerate.
    """

    def __call__(self, tokens_BL: Tensor, select_BL: Tensor | None = None, /) -> Tensor: ...
