"""What held-out text costs under a `LanguageModel`: its windows, in batches, to one `Perplexity`.

Text is laid out as in training: one document after the other, each with an end-of-text token, cut into windows of one
length. What is left at the end is a shorter window of its own where one asks for all of a text.

Shapes: W windows, L tokens in each, D draws of masks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
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
from unmask.network_logits import MaskedLogits

CHUNK = 16
"""Windows between two reports of progress."""
FEWEST_DRAWS, FEWEST_EVALUATIONS = 2, 128
"""Masks for each window, and for the whole text, where nobody says how many."""


class Tokens(Protocol):
    """A long array of tokens, such as a `TokenSource`."""

    def __len__(self) -> int: ...
    def __getitem__(self, key: slice, /) -> npt.NDArray[Any]: ...


@dataclass(frozen=True)
class Windows:
    """Held-out text in windows of one length, and perhaps a shorter last one."""

    tokens: Tokens
    length: int
    indices: tuple[int, ...]
    """The places in the text of the windows of that length."""
    bytes_per_token: float
    rest: int = 0
    """Tokens of the shorter window at the end of the text; 0 for none."""

    @classmethod
    def of(
        cls, tokens: Tokens, length: int, bytes_per_token: float, wanted: int = 0, *, with_rest: bool = False
    ) -> Windows:
        """`wanted` windows of `length` tokens spread evenly over `tokens`; 0 for all.

        What fills no window is left out, unless all are wanted `with_rest`. Raises `UsageError` if there is no window.
        """
        total, rest = divmod(len(tokens), length)
        indices = perplexity.spread(total, wanted or total)
        rest = rest if with_rest and len(indices) == total else 0
        if not indices and not rest:
            raise UsageError(f"{len(tokens)} tokens are less than one window of {length}: give more text")
        return cls(tokens, length, tuple(indices), bytes_per_token, rest)

    def __len__(self) -> int:
        return len(self.indices) + (self.rest > 0)

    @property
    def lengths(self) -> Tensor:
        """The number of tokens (W,) in each window."""
        return torch.tensor([self.length] * len(self.indices) + [self.rest] * (self.rest > 0))

    def chunks(self) -> Iterator[tuple[range, Tensor]]:
        """The windows' numbers from 0, and their tokens (W, L): a few of one length at a time."""
        full = len(self.indices)
        for start in range(0, full, CHUNK):
            numbers = range(start, min(start + CHUNK, full))
            places = [self.indices[number] * self.length for number in numbers]
            yield numbers, _as_tensor([self.tokens[place : place + self.length] for place in places])
        if self.rest:
            yield range(full, full + 1), _as_tensor([self.tokens[len(self.tokens) - self.rest :]])


def encode(lm: LanguageModel, texts: Iterable[str | Iterable[str]]) -> tuple[npt.NDArray[np.int32], int]:
    """`texts` one after the other in the model's tokens, each with an end-of-text token, and their UTF-8 bytes.

    A long text may come in blocks. One with nothing but white space is left out, as `unmask prepare` does.
    """
    eos_id = lm.tokenizer.eos_id
    pieces: list[npt.NDArray[np.int32]] = [np.empty(0, dtype=np.int32)]
    size = 0

    def counted(blocks: Iterable[str]) -> Iterator[str]:
        nonlocal size
        for block in blocks:
            yield block
            size += len(block.encode())

    for text in texts:
        if isinstance(text, str) and not text.strip():
            continue
        blocks = [text] if isinstance(text, str) else text
        pieces += [np.array(ids, dtype=np.int32) for ids in lm.tokenizer.encode_stream(counted(blocks))]
        if eos_id is not None:
            pieces.append(np.array([eos_id], dtype=np.int32))
    return np.concatenate(pieces), size


def enough_draws(windows: int) -> int:
    """Masks for each of `windows` windows: few for a long text, more for a short one."""
    return max(FEWEST_DRAWS, -(-FEWEST_EVALUATIONS // windows))


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
    return perplexity.summarise(
        window_losses(lm, windows, draws=draws, seed=seed, on_window=on_window),
        length=windows.lengths,
        bytes_per_token=windows.bytes_per_token,
        bound=not lm.config.causal,
    )


def window_losses(
    lm: LanguageModel,
    windows: Windows,
    *,
    draws: int = 1,
    seed: int = 0,
    on_window: Callable[[int, int], None] | None = None,
) -> Tensor:
    """The NLL of each window in nats per token: (W,) exact for an ARM, else what each draw says of the bound (W, D)."""
    losses: list[Tensor] = []
    for numbers, tokens_WL in windows.chunks():
        losses.append(_losses(lm, tokens_WL.to(lm.device), numbers, draws, seed).cpu())
        if on_window is not None:
            on_window(numbers.stop, len(windows))
    return torch.cat(losses)


def _losses(lm: LanguageModel, tokens_WL: Tensor, numbers: range, draws: int, seed: int) -> Tensor:
    """(W,) for an ARM, else (W, D)."""
    vocab_size = lm.config.vocab_size
    if lm.config.causal:
        return perplexity.window_nlls(lm.logits_fn, tokens_WL, vocab_size=vocab_size)
    settings = {"draws": draws, "seed": seed, "vocab_size": vocab_size, "mask_id": lm.mask_id}
    if block_length := lm.config.block_length:
        return perplexity.block_draw_losses(
            MaskedLogits(lm.model).given_clean, tokens_WL, block_length=block_length, indices=numbers, **settings
        )
    return perplexity.draw_losses(lm.logits_fn, tokens_WL, indices=numbers, **settings)


def _as_tensor(rows: list[npt.NDArray[Any]]) -> Tensor:
    return torch.from_numpy(np.stack(rows).astype(np.int64))
