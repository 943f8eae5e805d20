"""Training objectives: nothing but corruptions, (tokens, generator) -> Corrupted(inputs, targets, weights).

The one training loss is `sum(weights * cross_entropy(network(inputs), targets)) / (B * L)`; row i of the network is
always scored against token i. Every weight below makes that loss a mean in nats per token: the bound of Nie et al.
(2025, eq. 3) for `mdm`, the exact NLL for `arm`.

Noise is drawn for the whole global batch and sliced to the rows at hand, so what a row sees depends on (seed, step,
row) and not on the number of processes. An objective of your own is a function of this form and one entry in
`OBJECTIVES`.

Shapes: B rows of this process, G rows of the global batch, L positions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from unmask.errors import UsageError, unknown_name

IGNORE = -100
"""Target of a position that is not scored."""


@dataclass(frozen=True)
class Corrupted:
    """One corrupted batch: what the network sees, what it must predict, and what each prediction weighs."""

    inputs_BL: Tensor
    targets_BL: Tensor
    """-100 where nothing is scored."""
    weights_BL: Tensor
    """float32; zero where nothing is scored."""
    clean_BL: Tensor | None = None
    """For a block-causal network: the tokens that a block sees of the blocks before it, instead of the inputs."""
    present_BL: Tensor | None = None
    """False for padding, which no position sees; None without any."""
    segment_BL: Tensor | None = None
    """Which of its row's examples each position belongs to, of which none sees another; None for one to a row."""


class Rows(NamedTuple):
    """Which rows of the global batch are at hand: `start` up to `start + B`, of `total`."""

    start: int
    total: int


class Objective(Protocol):
    """The form of an objective; `mask_id` and `bos_id` are for those that need them."""

    def __call__(
        self,
        tokens_BL: Tensor,
        generator: torch.Generator,
        /,
        *,
        mask_id: int | None = None,
        bos_id: int | None = None,
        rows: Rows | None = None,
    ) -> Corrupted:
        """Corrupt the `rows` of a global batch; `tokens_BL` are int64."""
        ...


def mdm(
    tokens_BL: Tensor,
    generator: torch.Generator,
    *,
    mask_id: int | None = None,
    bos_id: int | None = None,
    rows: Rows | None = None,
    eps: float = 1e-3,
    stratified: bool = True,
    weighting: Literal["bound", "flat"] = "bound",
) -> Corrupted:
    """Masked diffusion: mask each token with probability t, one t in [eps, 1] per row, and weigh by 1/t.

    With `stratified` the global batch takes one t from each of G equal parts of [eps, 1], in random order; without,
    each row draws its own, as the released code does. Each row's t is uniform either way. `weighting="flat"` drops
    the 1/t and puts the constant 1 / E[t] in its place, so that the loss keeps its scale but is no longer a bound.
    """
    rows = rows or Rows(0, len(tokens_BL))
    if stratified:
        parts_G = torch.randperm(rows.total, generator=generator)
        uniform_G = (parts_G + torch.rand(rows.total, generator=generator)) / rows.total
    else:
        uniform_G = torch.rand(rows.total, generator=generator)
    t_B1 = (eps + (1 - eps) * _this_process(uniform_G, tokens_BL, rows))[:, None]
    masked_BL = _row_noise(tokens_BL, rows, generator) < t_B1
    weight_B1 = 1 / t_B1 if weighting == "bound" else torch.full_like(t_B1, 2 / (1 + eps))
    return _mask(tokens_BL, masked_BL, weight_B1, mask_id, "mdm")


def any_order(
    tokens_BL: Tensor,
    generator: torch.Generator,
    *,
    mask_id: int | None = None,
    bos_id: int | None = None,
    rows: Rows | None = None,
) -> Corrupted:
    """Any-order autoregression: mask exactly m tokens, m uniform on 1..L, each weighted L/m. The same bound as `mdm`.

    (Nie et al., 2025, section 2; Ou et al., 2025.) The counts are stratified over the global batch.
    """
    rows = rows or Rows(0, len(tokens_BL))
    length = tokens_BL.shape[1]
    parts_G = torch.randperm(rows.total, generator=generator)
    uniform_G = (parts_G + torch.rand(rows.total, generator=generator)) / rows.total
    count_B1 = 1 + (_this_process(uniform_G, tokens_BL, rows)[:, None] * length).long().clamp(max=length - 1)
    rank_BL = _row_noise(tokens_BL, rows, generator).argsort(dim=1).argsort(dim=1)
    return _mask(tokens_BL, rank_BL < count_B1, length / count_B1, mask_id, "any_order")


def mlm(
    tokens_BL: Tensor,
    generator: torch.Generator,
    *,
    mask_id: int | None = None,
    bos_id: int | None = None,
    rows: Rows | None = None,
    rate: float = 0.15,
) -> Corrupted:
    """A masked language model: each token masked with one fixed `rate`. Not a bound on any likelihood."""
    rows = rows or Rows(0, len(tokens_BL))
    masked_BL = _row_noise(tokens_BL, rows, generator) < rate
    return _mask(tokens_BL, masked_BL, torch.full((len(tokens_BL), 1), 1 / rate), mask_id, "mlm")


def span(
    tokens_BL: Tensor,
    generator: torch.Generator,
    *,
    mask_id: int | None = None,
    bos_id: int | None = None,
    rows: Rows | None = None,
    rate: float = 0.15,
    mean_span: float = 3.0,
) -> Corrupted:
    """Span corruption: masked runs of geometric length (mean `mean_span`) that cover `rate` of the tokens on average.

    A two-state Markov chain along the row, started in its stationary distribution. Not a bound on any likelihood.
    Raises `UsageError` for a rate that takes longer spans: one token at least is visible between two of them.
    """
    rows = rows or Rows(0, len(tokens_BL))
    noise_BL = _row_noise(tokens_BL, rows, generator)
    leave, enter = 1 / mean_span, rate / (1 - rate) / mean_span
    if enter > 1:
        raise UsageError(
            f"objective span: mask_rate {rate} with spans of {mean_span} tokens on average: "
            f"must be at most {mean_span / (1 + mean_span):.2f}"
        )
    masked_BL = torch.empty(tokens_BL.shape, dtype=torch.bool)
    inside_B = noise_BL[:, 0] < rate
    for position in range(tokens_BL.shape[1]):
        if position:
            inside_B = noise_BL[:, position] < torch.where(inside_B, 1 - leave, enter)
        masked_BL[:, position] = inside_B
    return _mask(tokens_BL, masked_BL, torch.full((len(tokens_BL), 1), 1 / rate), mask_id, "span")


def block(
    tokens_BL: Tensor,
    generator: torch.Generator,
    *,
    mask_id: int | None = None,
    bos_id: int | None = None,
    rows: Rows | None = None,
    block_length: int = 16,
) -> Corrupted:
    """Block diffusion: masked diffusion inside blocks of `block_length` tokens, given all blocks before, unmasked.

    (Arriola et al., 2025, arXiv 2503.09573.) For a block-causal network, which gets the clean tokens beside the masked
    ones. Each block has its own number of masks, uniform on 1..its length, as in `any_order`, so that the loss is the
    mean over blocks of a bound on their NLL given the blocks before: a bound for the text, tighter for shorter blocks.
    The counts are stratified over the blocks of the global batch.
    """
    if block_length < 1:
        raise UsageError(f"block_length {block_length}: must be at least 1")
    rows = rows or Rows(0, len(tokens_BL))
    length = tokens_BL.shape[1]
    blocks = -(-length // block_length)
    parts_GK = torch.randperm(rows.total * blocks, generator=generator).view(rows.total, blocks)
    uniform_GK = (parts_GK + torch.rand(rows.total, blocks, generator=generator)) / (rows.total * blocks)
    sizes_K = torch.tensor([min(block_length, length - start) for start in range(0, length, block_length)])
    count_BK = 1 + (_this_process(uniform_GK, tokens_BL, rows) * sizes_K).long().minimum(sizes_K - 1)
    noise_BL = _row_noise(tokens_BL, rows, generator)
    rank_BKW = F.pad(noise_BL, (0, blocks * block_length - length), value=2.0).view(-1, blocks, block_length)
    rank_BKW = rank_BKW.argsort(dim=2).argsort(dim=2)
    masked_BL = (rank_BKW < count_BK[:, :, None]).flatten(1)[:, :length]
    weight_BL = (sizes_K / count_BK).repeat_interleave(block_length, dim=1)[:, :length]
    corrupted = _mask(tokens_BL, masked_BL, weight_BL, mask_id, "block")
    return replace(corrupted, clean_BL=tokens_BL)


def arm(
    tokens_BL: Tensor,
    generator: torch.Generator,
    *,
    mask_id: int | None = None,
    bos_id: int | None = None,
    rows: Rows | None = None,
    first_scored: bool = True,
) -> Corrupted:
    """Autoregression: the row moved right by one behind the beginning-of-text token; every token is scored once.

    So an ARM sees and scores exactly the tokens that an MDM does. Raises `UsageError` without a `bos_id`. With
    `first_scored` false none is needed, as for models from elsewhere that know none: the row is read as it is, each
    token scored by those before it, and what comes out is shorter by the first token.
    """
    if not first_scored:
        return Corrupted(tokens_BL[:, :-1], tokens_BL[:, 1:], torch.ones(tokens_BL[:, 1:].shape))
    if bos_id is None:
        raise UsageError("objective arm: the tokenizer has no beginning-of-text token: prepare the data with one")
    inputs_BL = torch.cat([torch.full_like(tokens_BL[:, :1], bos_id), tokens_BL[:, :-1]], dim=1)
    return Corrupted(inputs_BL, tokens_BL, torch.ones(tokens_BL.shape, device=tokens_BL.device))


OBJECTIVES: dict[str, Objective] = {
    "mdm": mdm,
    "arm": arm,
    "mlm": mlm,
    "span": span,
    "any_order": any_order,
    "block": block,
}
"""The objectives by name."""

CAUSAL = frozenset({"arm"})
"""Objectives that train a causal network and need no mask token."""

BLOCK_CAUSAL = frozenset({"block"})
"""Objectives that train a block-causal network."""

BOUNDS = frozenset({"mdm", "any_order", "block"})
"""Objectives whose loss is an upper bound on the negative log-likelihood."""


def lookup(name: str) -> Objective:
    """The objective called `name`. Raises `UsageError` with the nearest name where there is none."""
    if name not in OBJECTIVES:
        raise unknown_name("objective", name, OBJECTIVES)
    return OBJECTIVES[name]


def only_at(corrupted: Corrupted, tokens_BL: Tensor, answer_BL: Tensor, *, causal: bool) -> Corrupted:
    """`corrupted` where `answer_BL` is true; elsewhere the tokens are as they were, and nothing is scored.

    Each position keeps its weight, so that the loss is the same mean, or bound, of the answers given the rest. The
    inputs of a causal network are moved and not corrupted: they stay.
    """
    return replace(
        corrupted,
        inputs_BL=corrupted.inputs_BL if causal else corrupted.inputs_BL.where(answer_BL, tokens_BL),
        targets_BL=corrupted.targets_BL.masked_fill(~answer_BL, IGNORE),
        weights_BL=corrupted.weights_BL * answer_BL,
    )


def masked_prompts(corrupted: Corrupted, dropped_BL: Tensor, mask_id: int) -> Corrupted:
    """`corrupted` with the mask token where `dropped_BL` is true: the prompts that an example does without."""
    clean_BL = corrupted.clean_BL
    return replace(
        corrupted,
        inputs_BL=corrupted.inputs_BL.masked_fill(dropped_BL, mask_id),
        clean_BL=None if clean_BL is None else clean_BL.masked_fill(dropped_BL, mask_id),
    )


def padded(corrupted: Corrupted, present_BL: Tensor) -> Corrupted:
    """`corrupted` with padding, where `present_BL` is false, that no position sees."""
    return replace(corrupted, present_BL=present_BL)


def _this_process(values_G: Tensor, tokens_BL: Tensor, rows: Rows) -> Tensor:
    return values_G[rows.start : rows.start + len(tokens_BL)]


def _row_noise(tokens_BL: Tensor, rows: Rows, generator: torch.Generator) -> Tensor:
    """Uniform noise for the rows at hand: their part of what the global batch draws."""
    noise_GL = torch.rand(rows.total, tokens_BL.shape[1], generator=generator)
    return _this_process(noise_GL, tokens_BL, rows)


def _mask(tokens_BL: Tensor, masked_BL: Tensor, weight: Tensor, mask_id: int | None, objective: str) -> Corrupted:
    if mask_id is None:
        raise UsageError(f"objective {objective}: needs a mask token, and mask_id is None")
    masked_BL = masked_BL.to(tokens_BL.device)
    weight = weight.to(tokens_BL.device, torch.float32)
    return Corrupted(
        inputs_BL=tokens_BL.masked_fill(masked_BL, mask_id),
        targets_BL=tokens_BL.masked_fill(~masked_BL, IGNORE),
        weights_BL=masked_BL * weight,
    )
