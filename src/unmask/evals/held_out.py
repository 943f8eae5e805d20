"""What held-out text costs under a `LanguageModel`: its windows, in batches, to one `Perplexity`.

Shapes: W windows, L tokens in each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unmask.errors import UsageError
from unmask.evals import perplexity
from unmask.evals.perplexity import Perplexity
from unmask.language_model import LanguageModel

CHUNK = 16
"""Windows between two reports of progress."""


class Tokens(Protocol):
    """A long array of tokens, such as a `TokenSource`."""

    def __len__(self) -> int: ...
    def __getitem__(self, key: slice, /) -> npt.NDArray[Any]: ...


@dataclass(frozen=True)
class Windows:
    """Held-out text in windows of one length."""

    tokens_WL: Tensor
    indices: tuple[int, ...]
    """The windows' numbers, which fix their masks."""
    bytes_per_token: float

    @classmethod
    def of(cls, tokens: Tokens, length: int, bytes_per_token: float, wanted: int = 0) -> Windows:
        """`wanted` windows of `length` tokens spread evenly over `tokens`; 0 for all. What fills no window is left out.

        Raises `UsageError` if there are fewer tokens than one window.
        """
        total = len(tokens) // length
        if total == 0:
            raise UsageError(f"{len(tokens)} tokens are less than one window of {length}: give more text")
        indices = perplexity.spread(total, wanted or total)
        rows = np.stack([tokens[index * length : (index + 1) * length] for index in indices]).astype(np.int64)
        return cls(torch.from_numpy(rows), tuple(indices), bytes_per_token)


def measure(
    lm: LanguageModel,
    windows: Windows,
    *,
    draws: int = 1,
    seed: int = 0,
    on_window: Callable[[int, int], None] | None = None,
) -> Perplexity:
    """The mean NLL per token of `windows`: exact for an ARM, else the bound from `draws` masks for each window.

    The masks depend on `seed` and the window's number alone. `on_window(done, total)` reports progress.
    """
    losses: list[Tensor] = []
    total = len(windows.indices)
    for start in range(0, total, CHUNK):
        tokens_WL = windows.tokens_WL[start : start + CHUNK].to(lm.device)
        losses.append(_losses(lm, tokens_WL, windows.indices[start : start + CHUNK], draws, seed).cpu())
        if on_window is not None:
            on_window(min(start + CHUNK, total), total)
    return perplexity.summarise(
        torch.cat(losses),
        length=windows.tokens_WL.shape[1],
        bytes_per_token=windows.bytes_per_token,
        bound=not lm.config.causal,
    )


def _losses(lm: LanguageModel, tokens_WL: Tensor, indices: Sequence[int], draws: int, seed: int) -> Tensor:
    vocab_size = lm.config.vocab_size
    if lm.config.causal:
        return perplexity.window_nlls(lm.logits_fn, tokens_WL, vocab_size=vocab_size)
    return perplexity.window_bounds(
        lm.logits_fn,
        tokens_WL,
        mask_id=lm.mask_id,
        draws=draws,
        seed=seed,
        vocab_size=vocab_size,
        indices=indices,
    )
