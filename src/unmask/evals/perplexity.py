"""Mean NLL per token of held-out text: the bound for masked networks, exact for autoregressive ones.

The bound of a window of L tokens is the mean over mask counts m, uniform on 1..L, of the mean cross-entropy of m
masked tokens (Nie et al., 2025, section 2; the fixed-count form). The masks of the w-th window that is evaluated are a
function of (seed, w) alone, their counts spread evenly over its draws and from window to window, so two models are
compared on the same masks and the error is small. For a block-causal network it is the mean over blocks of the same,
given the clean text before.

Shapes: W windows, L tokens in each, D draws, B rows of a batch, S masked positions, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from unmask import seeding
from unmask.logits_fn import LogitsFn

GOLDEN = (math.sqrt(5) - 1) / 2
LOGITS_AT_ONCE = 2**25
"""Largest number of logits that a batch may need."""


@dataclass(frozen=True)
class Perplexity:
    """What held-out text costs under a model."""

    loss: float
    """Nats per token."""
    standard_error: float
    """Of `loss`: over the windows (the choice of text and of masks together), over the masks of a single one; nan
    where there is but one of both."""
    bits_per_byte: float
    """`loss` in bits, per UTF-8 byte of the text."""
    windows: int
    tokens: int
    bound: bool
    """Whether `loss` is an upper bound; else it is exact."""

    def to_dict(self) -> dict[str, Any]:
        """A dict for JSON, without nan."""
        fields = asdict(self)
        if not math.isfinite(self.standard_error):
            fields["standard_error"] = None
        return fields


def validation_masks(length: int, draws: int, seed: int, window: int) -> Tensor:
    """The (D, L) masks of one window: counts stratified over the draws, positions uniform for each count."""
    offset = seeding.derived_seed(seed, "validation counts") / 2**63
    first = (offset + window * GOLDEN) % 1
    counts = [1 + min(length - 1, int(length * (draw + first) / draws)) for draw in range(draws)]
    noise_DL = torch.rand(draws, length, generator=seeding.generator(seed, "validation masks", window))
    return noise_DL.argsort(dim=1).argsort(dim=1) < torch.tensor(counts)[:, None]


def window_bounds(
    logits_fn: LogitsFn,
    tokens_WL: Tensor,
    *,
    mask_id: int,
    draws: int,
    seed: int,
    vocab_size: int,
    indices: Sequence[int],
) -> Tensor:
    """The (W,) bound of each window in nats per token.

    `indices` are the windows' places among those that are evaluated (0, 1, 2, ...), which fix their masks. Not their
    places in the text: of every 89th window, say, the counts would not be spread.
    """
    return draw_losses(
        logits_fn, tokens_WL, mask_id=mask_id, draws=draws, seed=seed, vocab_size=vocab_size, indices=indices
    ).mean(dim=1)


@torch.no_grad()
def draw_losses(
    logits_fn: LogitsFn,
    tokens_WL: Tensor,
    *,
    mask_id: int,
    draws: int,
    seed: int,
    vocab_size: int,
    indices: Sequence[int],
) -> Tensor:
    """What each draw of masks says (W, D) of the bound, in nats per token; arguments as `window_bounds`."""
    length = tokens_WL.shape[1]
    masks_RL = torch.cat([validation_masks(length, draws, seed, window) for window in indices]).to(tokens_WL.device)
    tokens_RL = tokens_WL.repeat_interleave(draws, dim=0)
    losses: list[Tensor] = []
    for tokens_BL, masks_BL in _batches(tokens_RL, masks_RL, vocab_size):
        logits_SV = logits_fn(tokens_BL.masked_fill(masks_BL, mask_id), masks_BL)
        nll_S = F.cross_entropy(logits_SV.float(), tokens_BL[masks_BL], reduction="none")
        nll_BL = torch.zeros(masks_BL.shape, device=nll_S.device).masked_scatter(masks_BL, nll_S)
        losses.append(nll_BL.sum(dim=1) / masks_BL.sum(dim=1))
    return torch.cat(losses).view(len(tokens_WL), draws)


BlockFn = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Logits (S, V) at selected ones of the masked tokens, given the clean ones: (tokens, select, clean), each (B, L)."""


@torch.no_grad()
def block_draw_losses(
    block_fn: BlockFn,
    tokens_WL: Tensor,
    *,
    block_length: int,
    mask_id: int,
    draws: int,
    seed: int,
    vocab_size: int,
    indices: Sequence[int],
) -> Tensor:
    """As `draw_losses`, of a block-causal network: each block has its masks, and sees the blocks before unmasked."""
    length = tokens_WL.shape[1]
    blocks = [min(block_length, length - start) for start in range(0, length, block_length)]
    masks_RL = torch.cat(
        [
            torch.cat(
                [validation_masks(size, draws, seed, window * len(blocks) + k) for k, size in enumerate(blocks)], dim=1
            )
            for window in indices
        ]
    ).to(tokens_WL.device)
    block_L = torch.arange(length, device=tokens_WL.device) // block_length
    tokens_RL = tokens_WL.repeat_interleave(draws, dim=0)
    losses: list[Tensor] = []
    for tokens_BL, masks_BL in _batches(tokens_RL, masks_RL, 2 * vocab_size):
        logits_SV = block_fn(tokens_BL.masked_fill(masks_BL, mask_id), masks_BL, tokens_BL)
        nll_S = F.cross_entropy(logits_SV.float(), tokens_BL[masks_BL], reduction="none")
        nll_BL = torch.zeros(masks_BL.shape, device=nll_S.device).masked_scatter(masks_BL, nll_S)
        sums_BK, counts_BK = (
            torch.zeros(len(tokens_BL), len(blocks), device=nll_S.device).index_add_(1, block_L, values_BL)
            for values_BL in (nll_BL, masks_BL.float())
        )
        losses.append((sums_BK / counts_BK * torch.tensor(blocks, device=nll_S.device)).sum(dim=1) / length)
    return torch.cat(losses).view(len(tokens_WL), draws)


@torch.no_grad()
def window_nlls(logits_fn: LogitsFn, tokens_WL: Tensor, *, vocab_size: int) -> Tensor:
    """The (W,) exact NLL of each window under an autoregressive `logits_fn`, in nats per token."""
    losses: list[Tensor] = []
    for tokens_BL, _ in _batches(tokens_WL, tokens_WL, vocab_size):
        logits_BLV = logits_fn(tokens_BL)
        nll = F.cross_entropy(logits_BLV.float().flatten(0, 1), tokens_BL.flatten(), reduction="none")
        losses.append(nll.view(tokens_BL.shape).mean(dim=1))
    return torch.cat(losses)


def summarise(losses: Tensor, *, length: int | Tensor, bytes_per_token: float, bound: bool) -> Perplexity:
    """Mean, error and bits per byte of the `losses` (W,) of windows, or (W, D) of each draw of their masks.

    `length` is the number of tokens in a window, or (W,) one for each: a token counts the same in a short window.
    """
    losses_WD = losses.double().view(len(losses), -1)
    lengths_W = torch.as_tensor(length, dtype=torch.float64, device=losses.device).expand(len(losses))
    losses_W = losses_WD.mean(dim=1)
    windows, draws = losses_WD.shape
    shares_W = lengths_W / lengths_W.sum()
    mean = (shares_W * losses_W).sum().item()
    if windows > 1:  # of a ratio of sums; for equal lengths the usual error of a mean
        variance = windows / (windows - 1) * (shares_W * (losses_W - mean)).square().sum().item()
    else:  # as if the draws were independent: stratified as they are, it errs on the large side
        variance = losses_WD.var().item() / draws if draws > 1 else math.nan
    return Perplexity(
        loss=mean,
        standard_error=math.sqrt(variance),
        bits_per_byte=mean / math.log(2) / bytes_per_token,
        windows=windows,
        tokens=round(lengths_W.sum().item()),
        bound=bound,
    )


def spread(total: int, wanted: int) -> list[int]:
    """`wanted` of the numbers below `total`, evenly spread; all of them if there are no more."""
    if wanted >= total:
        return list(range(total))
    return [index * total // wanted for index in range(wanted)]


def _batches(tokens_RL: Tensor, masks_RL: Tensor, vocab_size: int) -> list[tuple[Tensor, Tensor]]:
    rows = max(1, min(256, LOGITS_AT_ONCE // (tokens_RL.shape[1] * vocab_size)))
    starts = range(0, len(tokens_RL), rows)
    return [(tokens_RL[start : start + rows], masks_RL[start : start + rows]) for start in starts]
