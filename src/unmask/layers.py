"""The parts of a block of the network: grouped-query attention with rotary positions, SwiGLU, and the output head.

A block runs in one of three ways: over whole rows; over whole rows with only some positions going on (the last block,
where the head reads no others); and over some positions alone, with the keys and values of the others from a cache.

Shapes: B rows, L positions, S selected positions of all rows, Q the most selected positions of one row, N positions
of all rows that are computed anew, D width, H query heads, K key and value heads, G heads of all three kinds, E head
dimension, V vocabulary, T positions that are seen, C context.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmask.config import ModelConfig
from unmask.kv_cache import KeysAndValues, LayerPart
from unmask.selection import Selection
from unmask.visibility import Seen

THIN_ROWS = 15
"""Up to so many rows a product with a large matrix is as fast as the matrix is read."""
LARGE_MATRIX = 2**21
"""Elements of a matrix that no cache of a CPU holds between two products."""


@dataclass(frozen=True)
class Partial:
    """What one block needs to compute some positions of a batch alone; see `Transformer.recompute`."""

    cos_NE: Tensor
    sin_NE: Tensor
    seen: Seen
    """What the queries see."""
    cache: KeysAndValues
    """Has the keys and values of the others, and gets those of the computed ones."""
    layer: int
    """The block's number in it."""
    length: int
    """Positions of a row."""
    compute: Selection
    """The computed positions."""
    select: Selection
    """Those of them that attend and go on."""
    place_S: Tensor | None
    """Where these stand among the computed ones; None: they are all."""

    def going_on(self, x_N: Tensor) -> Tensor:
        """(S, ...) of the positions that go on, from (N, ...)."""
        return x_N if self.place_S is None else x_N[self.place_S]


class Block(nn.Module):
    """Attention and SwiGLU, each behind a norm and added to what came in."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.n_embd, eps=config.norm_eps)
        self.attention = Attention(config)
        self.mlp_norm = nn.RMSNorm(config.n_embd, eps=config.norm_eps)
        self.mlp = SwiGLU(config)

    def forward(
        self,
        x_BLD: Tensor,
        cos_BLE: Tensor,
        sin_BLE: Tensor,
        seen: Seen,
        cache: LayerPart | None,
        select: Selection | None,
    ) -> Tensor:
        """(B, L, D), or (S, D) with a `select`: only the selected positions attend and go on."""
        attended = self.attention(self.attention_norm(x_BLD), cos_BLE, sin_BLE, seen, cache, select)
        x = (x_BLD if select is None else select.take(x_BLD)) + attended
        return x + self.mlp(self.mlp_norm(x))

    def recompute(self, x_ND: Tensor, part: Partial) -> Tensor:
        """(S, D) of the positions that go on, from the computed ones."""
        x = part.going_on(x_ND) + self.attention.recompute(self.attention_norm(x_ND), part)
        return x + self.mlp(self.mlp_norm(x))


class Attention(nn.Module):
    """Grouped-query attention with rotary positions."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_head, self.n_kv_head = config.n_head, config.n_kv_head
        self.head_dim = config.head_dim
        groups = config.n_head + 2 * config.n_kv_head
        self.qkv = nn.Linear(config.n_embd, groups * config.head_dim, bias=config.qkv_bias)
        self.out = nn.Linear(config.n_head * config.head_dim, config.n_embd, bias=False)
        self.q_norm = nn.RMSNorm(config.head_dim, eps=config.norm_eps) if config.qk_norm else None
        self.k_norm = nn.RMSNorm(config.head_dim, eps=config.norm_eps) if config.qk_norm else None

    def forward(
        self,
        x_BLD: Tensor,
        cos_BLE: Tensor,
        sin_BLE: Tensor,
        seen: Seen,
        cache: LayerPart | None,
        select: Selection | None,
    ) -> Tensor:
        """(B, L, D), or (S, D) with a `select`."""
        if select is not None:
            return self._selected(x_BLD, cos_BLE, sin_BLE, seen, cache, select)
        qkv_BLGE = self._heads(self.qkv(x_BLD))
        q_BLHE, k_BLKE, v_BLKE = self._turned(qkv_BLGE, cos_BLE, sin_BLE)
        k_BKTE, v_BKTE = _extended(cache, k_BLKE, v_BLKE)
        out_BHLE = self._attend(q_BLHE.transpose(1, 2), k_BKTE, v_BKTE, seen)
        return self.out(out_BHLE.transpose(1, 2).flatten(2))

    def recompute(self, x_ND: Tensor, part: Partial) -> Tensor:
        """(S, D) of the positions that go on, from the computed ones."""
        q_NHE, k_NKE, v_NKE = self._turned(self._heads(self.qkv(x_ND)), part.cos_NE, part.sin_NE)
        part.cache.put(part.layer, part.compute, k_NKE, v_NKE)
        k_BKTE, v_BKTE = part.cache.get(part.layer, part.length)
        q_BQHE = part.select.padded(part.going_on(q_NHE))
        out_BHQE = self._attend(q_BQHE.transpose(1, 2), k_BKTE.to(q_NHE.dtype), v_BKTE.to(q_NHE.dtype), part.seen)
        return self.out(part.select.unpadded(out_BHQE.transpose(1, 2)).flatten(1))

    def _selected(
        self,
        x_BLD: Tensor,
        cos_BLE: Tensor,
        sin_BLE: Tensor,
        seen: Seen,
        cache: LayerPart | None,
        select: Selection,
    ) -> Tensor:
        """Keys and values of all positions, queries of the selected ones: one row of Q, padded, for each of B."""
        q_SHE, kv_BLGE = self._queries_of(select, x_BLD)
        q_SHE = q_SHE if self.q_norm is None else self.q_norm(q_SHE)
        q_SHE = rotate(q_SHE, select.take(cos_BLE)[:, None], select.take(sin_BLE)[:, None])
        k_BLKE = kv_BLGE[:, :, : self.n_kv_head]
        k_BLKE = rotate(
            k_BLKE if self.k_norm is None else self.k_norm(k_BLKE), cos_BLE[:, :, None], sin_BLE[:, :, None]
        )
        k_BKTE, v_BKTE = _extended(cache, k_BLKE, kv_BLGE[:, :, self.n_kv_head :])
        q_BHQE = select.padded(q_SHE).transpose(1, 2)
        out_BHQE = self._attend(q_BHQE, k_BKTE, v_BKTE, seen)
        return self.out(select.unpadded(out_BHQE.transpose(1, 2)).flatten(1))

    def _queries_of(self, select: Selection, x_BLD: Tensor) -> tuple[Tensor, Tensor]:
        """Queries (S, H, E) of the selected positions, and keys and values (B, L, 2 K, E) of all."""
        if type(self.qkv) is not nn.Linear:  # with an adapter around it: only its own forward knows what it computes
            qkv_BLGE = self._heads(self.qkv(x_BLD))
            return select.take(qkv_BLGE[:, :, : self.n_head]), qkv_BLGE[:, :, self.n_head :]
        width = self.n_head * self.head_dim
        weight, bias = self.qkv.weight, cast("Tensor | None", self.qkv.bias)
        bias_q, bias_kv = (None, None) if bias is None else (bias[:width], bias[width:])
        q_SHE = self._heads(F.linear(select.take(x_BLD), weight[:width], bias_q))
        return q_SHE, self._heads(F.linear(x_BLD, weight[width:], bias_kv))

    def _turned(self, qkv: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys, both normed where the network does so and turned to their positions, and values."""
        turned = self.n_head + self.n_kv_head
        qk = qkv[..., :turned, :]
        if self.q_norm is not None and self.k_norm is not None:
            q, k = qk[..., : self.n_head, :], qk[..., self.n_head :, :]
            qk = torch.cat([self.q_norm(q), self.k_norm(k)], dim=-2)
        qk = rotate(qk, cos[..., None, :], sin[..., None, :])
        return qk[..., : self.n_head, :], qk[..., self.n_head :, :], qkv[..., turned:, :]

    def _heads(self, x: Tensor) -> Tensor:
        """(..., G, E) from (..., G * E)."""
        return x.reshape(*x.shape[:-1], x.shape[-1] // self.head_dim, self.head_dim)

    def _attend(self, q_BHQE: Tensor, k_BKTE: Tensor, v_BKTE: Tensor, seen: Seen) -> Tensor:
        grouped = self.n_head != self.n_kv_head
        return F.scaled_dot_product_attention(
            q_BHQE, k_BKTE, v_BKTE, attn_mask=seen.mask, is_causal=seen.causal, enable_gqa=grouped
        )


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_up = nn.Linear(config.n_embd, 2 * config.intermediate_size, bias=False)
        self.down = nn.Linear(config.intermediate_size, config.n_embd, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The same shape, (..., D)."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


def _extended(cache: LayerPart | None, k_BLKE: Tensor, v_BLKE: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values that the queries see, heads first."""
    k_BKLE, v_BKLE = k_BLKE.transpose(1, 2), v_BLKE.transpose(1, 2)
    return (k_BKLE, v_BKLE) if cache is None else cache.extend(k_BKLE, v_BKLE)


def head_logits(hidden: Tensor, head_VD: Tensor) -> Tensor:
    """Logits (..., V), `hidden @ head.T`.

    For a few rows and a large head on a CPU the product is turned round, which reads the head once; BLAS reads it once
    for each row otherwise, and a sampler that reveals two tokens a step has two rows.
    """
    thin = hidden.ndim == 2 and 1 < len(hidden) <= THIN_ROWS and head_VD.numel() >= LARGE_MATRIX
    if thin and hidden.device.type == "cpu" and hidden.dtype == torch.float32 and not torch.is_grad_enabled():
        return torch.mm(head_VD, hidden.T).T.contiguous()
    return F.linear(hidden, head_VD)


def rotary_tables(config: ModelConfig) -> tuple[Tensor, Tensor]:
    """Cosines and sines (C, E) of the rotary angles, both halves of a head alike, rounded to the config's precision."""
    half = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    frequency = 1.0 / (config.rope_theta**half)
    angle_C = torch.outer(torch.arange(config.context_length, dtype=torch.float32), frequency)
    precision = torch.bfloat16 if config.rope_precision == "bfloat16" else torch.float32
    cos, sin = (table.to(precision).float().repeat(1, 2) for table in (angle_C.cos(), angle_C.sin()))
    return cos, sin


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (i, i + E/2) of the last dimension by its angle; `cos` and `sin` broadcast against `x`."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
