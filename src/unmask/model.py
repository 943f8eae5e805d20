"""The Transformer of the paper, bidirectional, causal or block-causal by a switch, and its initialisation.

Llama's architecture (Nie et al., 2025, appendix; Touvron et al., 2023): RMS norms in front of each part, rotary
positions over the whole head, grouped-query attention, SwiGLU, no biases but optional ones on query, key and value
(Qwen2), and optional norms over query and key heads (Qwen3). A masked diffusion network is the bidirectional form with
one more row in the embedding, the mask token; it has no time input. An autoregressive one is the causal form, with a
cache of keys and values for generation. `unmask.sizes` has the FLOPs.

What some positions alone need is computed for those alone: the head, and all of the last block but keys and values.
`recompute` goes further: it computes some positions anew, and takes the keys and values of the others from a cache.

Shapes: B rows, L positions, S selected positions of all rows, N positions of all rows that are computed anew, D width,
E head dimension, V vocabulary, T positions that are seen, C context.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple, Self, cast

import torch
from torch import Tensor, nn
from torch.utils import checkpoint as checkpointing

from unmask.config import ModelConfig
from unmask.errors import UsageError
from unmask.kv_cache import GrowingCache, KeysAndValues
from unmask.layers import Block, Partial, head_logits, rotary_tables
from unmask.loss import weighted_cross_entropy
from unmask.parametrization import STANDARD, Parametrization
from unmask.selection import Selection
from unmask.visibility import Visibility

NOT_SCORED = -100


class _SeenBy(NamedTuple):
    """What says, beside the network's own rule, which positions see which; see `Transformer.hidden`."""

    present_BL: Tensor | None
    clean_BL: Tensor | None
    attend_LL: Tensor | None
    segment_BL: Tensor | None


class Transformer(nn.Module):
    """The network. A new one has torch's default weights: call `init_weights`, or load a `state_dict`."""

    rotary_cos_CE: Tensor
    rotary_sin_CE: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.activation_checkpointing = False
        """Recompute each block in the backward pass instead of keeping what it needs."""
        self.embedding = nn.Embedding(config.embedding_rows, config.n_embd)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = nn.RMSNorm(config.n_embd, eps=config.norm_eps)
        self.head = None if config.tied_embeddings else nn.Linear(config.n_embd, config.vocab_size, bias=False)
        cos_CE, sin_CE = rotary_tables(config)
        self.register_buffer("rotary_cos_CE", cos_CE, persistent=False)
        self.register_buffer("rotary_sin_CE", sin_CE, persistent=False)

    @classmethod
    def of_weights(cls, config: ModelConfig, weights: Mapping[str, Tensor]) -> Self:
        """The network whose parameters are the tensors of the `state_dict` `weights`; nothing is initialised first."""
        with torch.device("meta"):
            model = cls(config)
        model.load_state_dict(weights, assign=True)
        model.rotary_cos_CE, model.rotary_sin_CE = rotary_tables(config)
        return model

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator, parametrization: Parametrization = STANDARD) -> None:
        """The paper's init: normal with std sqrt(2 / (5 D)); 1 / (sqrt(D) n_layer) for what writes into the residual.

        Times what the `parametrization` makes of it. Biases start at 0, norms at 1. Drawn in the order of
        `parameters()` on the generator's device.
        """
        width, layers = self.config.n_embd, self.config.n_layer
        for name, parameter in self.named_parameters():
            if parameter.ndim == 1:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
                continue
            writes_into_residual = name.endswith(("attention.out.weight", "mlp.down.weight"))
            std = 1 / (math.sqrt(width) * layers) if writes_into_residual else math.sqrt(2 / (5 * width))
            std *= parametrization.scale(name).init
            parameter.copy_(torch.empty(parameter.shape).normal_(0, std, generator=generator))

    def forward(
        self,
        tokens_BL: Tensor,
        select_BL: Tensor | None = None,
        cache: GrowingCache | None = None,
        *,
        present_BL: Tensor | None = None,
        clean_BL: Tensor | None = None,
        segment_BL: Tensor | None = None,
    ) -> Tensor:
        """Logits (B, L, V), or (S, V) of the positions where the boolean `select_BL` is true, in row-major order.

        With a `cache` the tokens stand behind those that it holds, and join them. No position sees another where the
        boolean `present_BL` is false: padding. With `clean_BL`, the tokens without corruption, and a `select_BL`, a
        block of a block-causal network sees of the blocks before it these instead of the tokens. Where several texts
        stand in a row, each with another number in `segment_BL`, the logits of each are those that it has alone. Raises
        `UsageError` on more tokens than the context, a cache for a network that is not causal or for rows of several
        texts, and `clean_BL` for a network that is not block-causal.
        """
        seen = {"present_BL": present_BL, "clean_BL": clean_BL, "segment_BL": segment_BL}
        hidden = self.hidden(tokens_BL, select_BL, cache, **seen)
        return head_logits(hidden, self.head_weight)

    def loss(
        self,
        inputs_BL: Tensor,
        targets_BL: Tensor,
        weights_BL: Tensor,
        *,
        attend_LL: Tensor | None = None,
        clean_BL: Tensor | None = None,
        present_BL: Tensor | None = None,
        segment_BL: Tensor | None = None,
    ) -> Tensor:
        """The scalar `sum(weights * cross_entropy)` over the positions whose target is not -100.

        Never holds the logits of more than a chunk of these positions. Under autocast only its loss is float32.
        `attend_LL` is as in `hidden`, the others as in `forward`.
        """
        scored_BL = targets_BL != NOT_SCORED
        seen = {"present_BL": present_BL, "clean_BL": clean_BL, "attend_LL": attend_LL, "segment_BL": segment_BL}
        hidden_SD = self.hidden(inputs_BL, scored_BL, None, **seen)
        return weighted_cross_entropy(hidden_SD, self.head_weight, targets_BL[scored_BL], weights_BL[scored_BL])

    def hidden(
        self,
        tokens_BL: Tensor,
        select_BL: Tensor | None = None,
        cache: GrowingCache | None = None,
        *,
        present_BL: Tensor | None = None,
        clean_BL: Tensor | None = None,
        attend_LL: Tensor | None = None,
        segment_BL: Tensor | None = None,
    ) -> Tensor:
        """What the head reads: (B, L, D), or (S, D) of the selected positions. Arguments and errors as `forward`.

        `attend_LL` says which positions (columns) each position (row) sees, in place of the network's own rule.
        """
        seen = _SeenBy(present_BL, clean_BL, attend_LL, segment_BL)
        if not self.config.shifted:
            return self._states(tokens_BL, select_BL, cache, seen)
        first_BL = None if segment_BL is None else positions(segment_BL) == 0
        if select_BL is None:
            return _moved_right(self._states(tokens_BL, None, cache, seen), first_BL)
        needed_BL = _one_before(select_BL, first_BL)
        states_ND = self._states(tokens_BL, needed_BL, cache, seen)
        return states_ND[_moved_right(_row_of_each(needed_BL), first_BL)[select_BL]]

    def recompute(
        self,
        tokens_BL: Tensor,
        compute_BL: Tensor,
        select_BL: Tensor,
        cache: KeysAndValues,
        *,
        present_BL: Tensor | None = None,
    ) -> Tensor:
        """Logits (S, V) of the selected positions, computing no others than those where `compute_BL` is true.

        The others are seen as `cache` has them, which gets the keys and values of the computed ones. That is exact
        where nothing has changed of what those others saw. What the selected positions need is computed in any case.
        """
        if self.config.shifted:
            needed_BL = _one_before(select_BL)
            row_BL = _row_of_each(needed_BL)
            states_ND = self._recomputed(tokens_BL, compute_BL | needed_BL, needed_BL, cache, present_BL)
            return head_logits(states_ND[_moved_right(row_BL)[select_BL]], self.head_weight)
        states_SD = self._recomputed(tokens_BL, compute_BL | select_BL, select_BL, cache, present_BL)
        return head_logits(states_SD, self.head_weight)

    def _states(
        self, tokens_BL: Tensor, select_BL: Tensor | None, cache: GrowingCache | None, given: _SeenBy
    ) -> Tensor:
        """The last block's states, normed, at their own positions; shapes as `hidden`."""
        start, stop = self._span(tokens_BL, cache)
        present_BL, clean_BL, attend_LL, segment_BL = given
        if segment_BL is None:
            position_BT = torch.arange(stop, device=tokens_BL.device)[None]
        elif cache is None:
            position_BT = positions(segment_BL)
        else:
            raise UsageError("a cache: for rows of one text each, and these hold several")
        clean_T = None
        if clean_BL is not None:
            assert select_BL is not None
            if not self.config.block_length:
                raise UsageError("clean tokens: for a block-causal network, and this one is not")
            tokens_BL = torch.cat([tokens_BL, clean_BL], dim=1)
            select_BL = torch.cat([select_BL, torch.zeros_like(select_BL)], dim=1)
            present_BL = None if present_BL is None else torch.cat([present_BL, present_BL], dim=1)
            segment_BL = None if segment_BL is None else torch.cat([segment_BL, segment_BL], dim=1)
            position_BT = position_BT.repeat(1, 2)
            clean_T = torch.arange(2 * stop, device=tokens_BL.device) >= stop
        visibility = Visibility(self.config, position_BT, clean_T, present_BL, attend_LL, segment_BL)
        new = tokens_BL.shape[1]
        rotary = (self.rotary_cos_CE, self.rotary_sin_CE)
        cos_BLE, sin_BLE = (table[position_BT[:, -new:]].expand(len(tokens_BL), -1, -1) for table in rotary)
        select = None if select_BL is None else Selection.of(select_BL)
        everywhere = select is None or select.is_everything
        seen = visibility.everywhere(new)
        hidden: Tensor = self.embedding(tokens_BL if present_BL is None else tokens_BL.clamp(min=0))
        for layer, block in enumerate(self.blocks):
            narrow = None if everywhere or layer + 1 < len(self.blocks) else select
            if narrow is not None:
                seen = visibility.of(narrow.padded(narrow.position_S) + start)
            layer_cache = None if cache is None else cache.layer(layer, new)
            if self.activation_checkpointing and torch.is_grad_enabled():
                hidden = recomputed(block, hidden, cos_BLE, sin_BLE, seen, layer_cache, narrow)
            else:
                hidden = block(hidden, cos_BLE, sin_BLE, seen, layer_cache, narrow)
        if cache is not None:
            cache.length = stop
        hidden = self.norm(hidden)
        return hidden.flatten(0, 1) if select is not None and select.is_everything else hidden

    def _recomputed(
        self,
        tokens_BL: Tensor,
        compute_BL: Tensor,
        select_BL: Tensor,
        cache: KeysAndValues,
        present_BL: Tensor | None,
    ) -> Tensor:
        """The last block's states (S, D), normed, of the selected positions; see `recompute`."""
        length = tokens_BL.shape[1]
        compute, select = Selection.of(compute_BL), Selection.of(select_BL)
        place_S = _row_of_each(compute_BL)[select_BL]  # of the selected positions among the computed ones
        visibility = Visibility(self.config, torch.arange(length, device=tokens_BL.device)[None], None, present_BL)
        cos_NE, sin_NE = self.rotary_cos_CE[compute.position_S], self.rotary_sin_CE[compute.position_S]
        seen = visibility.of(compute.padded(compute.position_S))
        hidden_ND: Tensor = self.embedding(tokens_BL[compute_BL])
        for layer, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            last = layer + 1 == len(self.blocks)
            if last:
                seen = visibility.of(select.padded(select.position_S))
            of_last = (select, place_S) if last else (compute, None)
            part = Partial(cos_NE, sin_NE, seen, cache, layer, length, compute, *of_last)
            hidden_ND = block.recompute(hidden_ND, part)
        return self.norm(hidden_ND)

    @property
    def head_weight(self) -> Tensor:
        """The output head; with tied embeddings their rows but the mask's."""
        return self.embedding.weight[: self.config.vocab_size] if self.head is None else self.head.weight

    def _span(self, tokens_BL: Tensor, cache: GrowingCache | None) -> tuple[int, int]:
        """The positions of the tokens, from and up to."""
        if cache is not None and not self.config.causal:
            raise UsageError("a cache that grows: needs a causal network, and this one is not")
        start = 0 if cache is None else cache.length
        stop = start + tokens_BL.shape[1]
        room = self.config.context_length if cache is None else min(self.config.context_length, cache.room)
        if stop > room:
            raise UsageError(f"{stop} tokens: more than the context of {room}: shorten the text")
        return start, stop


def positions(segment_BL: Tensor) -> Tensor:
    """(B, L): of each place of a row of several texts the position in its own, from 0."""
    place_L = torch.arange(segment_BL.shape[1], device=segment_BL.device)
    first_BL = torch.ones_like(segment_BL, dtype=torch.bool)
    first_BL[:, 1:] = segment_BL[:, 1:] != segment_BL[:, :-1]
    return place_L - place_L.where(first_BL, 0).cummax(dim=1).values


def _moved_right(x: Tensor, first_BL: Tensor | None = None) -> Tensor:
    """(B, L, ...): what stood at position i - 1 at position i, and the first at the first too.

    `first_BL` marks the first position of each text where a row has several.
    """
    moved = torch.cat([x[:, :1], x[:, :-1]], dim=1)
    return moved if first_BL is None else x.where(first_BL.view(*first_BL.shape, *[1] * (x.ndim - 2)), moved)


def _one_before(select_BL: Tensor, first_BL: Tensor | None = None) -> Tensor:
    """The positions before the selected ones, and of a text the first if it is selected."""
    if first_BL is None:
        first_BL = torch.zeros_like(select_BL)
        first_BL[:, :1] = True
    before_BL = torch.cat([(select_BL & ~first_BL)[:, 1:], torch.zeros_like(select_BL[:, :1])], dim=1)
    return before_BL | (select_BL & first_BL)


def _row_of_each(select_BL: Tensor) -> Tensor:
    """Where each selected position stands among the selected ones of all rows."""
    return select_BL.flatten().cumsum(0).view(select_BL.shape) - 1


def recomputed(block: nn.Module, *arguments: object) -> Tensor:
    """`block(*arguments)`, of which the backward pass keeps the arguments alone and computes the rest once more."""
    return cast(Tensor, checkpointing.checkpoint(block, *arguments, use_reentrant=False))  # pyright: ignore[reportUnknownMemberType]
