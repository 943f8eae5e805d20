"""The network's weights under the names that Llama (with qk-norms, Qwen3) has in Transformers: how they lie on disk.

Ours are fused where one product serves several parts: `attention.qkv` holds the query, key and value rows in this
order, `mlp.gate_up` the gate's and then the up projection's. Nothing is computed; both ways are exact.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from unmask.config import ModelConfig

WHOLE = {
    "embedding": "model.embed_tokens",
    "norm": "model.norm",
    "head": "lm_head",
}
"""Parts outside the blocks: our name to Llama's."""
IN_BLOCK = {
    "attention_norm": "input_layernorm",
    "attention.q_norm": "self_attn.q_norm",
    "attention.k_norm": "self_attn.k_norm",
    "attention.out": "self_attn.o_proj",
    "mlp_norm": "post_attention_layernorm",
    "mlp.down": "mlp.down_proj",
}
"""Parts of a block that are the same."""
FUSED = {
    "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "mlp.gate_up": ("mlp.gate_proj", "mlp.up_proj"),
}
"""Parts of a block that are one for us and several for Llama, in the order of their rows."""


def to_llama(weights: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """A `state_dict` of ours, or a part of one, under Llama's names."""
    llama: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        part, kind = name.rsplit(".", 1)
        block = re.fullmatch(r"blocks\.(\d+)\.(.+)", part)
        if block is None:
            llama[f"{WHOLE[part]}.{kind}"] = tensor
        elif block[2] in IN_BLOCK:
            llama[f"model.layers.{block[1]}.{IN_BLOCK[block[2]]}.{kind}"] = tensor
        else:
            pieces = torch.split(tensor, rows(block[2], config))
            for theirs, piece in zip(FUSED[block[2]], pieces, strict=True):
                llama[f"model.layers.{block[1]}.{theirs}.{kind}"] = piece
    return llama


def from_llama(weights: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Weights under Llama's names as a `state_dict` of ours.

    What is missing or belongs to no part of ours is left out: compare the names with those of `to_llama` first.
    """
    ours: dict[str, Tensor] = {}
    for part, theirs in WHOLE.items():
        _join(ours, weights, f"{part}.weight", [f"{theirs}.weight"])
    for layer in range(config.n_layer):
        for part, theirs in {**{part: (name,) for part, name in IN_BLOCK.items()}, **FUSED}.items():
            for kind in ("weight", "bias"):
                names = [f"model.layers.{layer}.{name}.{kind}" for name in theirs]
                _join(ours, weights, f"blocks.{layer}.{part}.{kind}", names)
    return ours


def shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of the network of `config` under Llama's name, and its shape."""
    d, f = config.n_embd, config.intermediate_size
    q, kv = config.n_head * config.head_dim, config.n_kv_head * config.head_dim
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config.embedding_rows, d)}
    for layer in range(config.n_layer):
        block = f"model.layers.{layer}."
        attention = f"{block}self_attn."
        found[f"{block}input_layernorm.weight"] = (d,)
        for name, rows in (("q", q), ("k", kv), ("v", kv)):
            found[f"{attention}{name}_proj.weight"] = (rows, d)
            if config.qkv_bias:
                found[f"{attention}{name}_proj.bias"] = (rows,)
        if config.qk_norm:
            found |= {f"{attention}q_norm.weight": (config.head_dim,), f"{attention}k_norm.weight": (config.head_dim,)}
        found[f"{attention}o_proj.weight"] = (d, q)
        found[f"{block}post_attention_layernorm.weight"] = (d,)
        found |= {f"{block}mlp.gate_proj.weight": (f, d), f"{block}mlp.up_proj.weight": (f, d)}
        found[f"{block}mlp.down_proj.weight"] = (d, f)
    found["model.norm.weight"] = (d,)
    if not config.tied_embeddings:
        found["lm_head.weight"] = (config.vocab_size, d)
    return found


def _join(ours: dict[str, Tensor], weights: Mapping[str, Tensor], name: str, theirs: list[str]) -> None:
    if all(each in weights for each in theirs):
        ours[name] = weights[theirs[0]] if len(theirs) == 1 else torch.cat([weights[each] for each in theirs])


def rows(part: str, config: ModelConfig) -> list[int]:
    """Rows of each piece of a fused part."""
    if part == "mlp.gate_up":
        return [config.intermediate_size] * 2
    keys = config.n_kv_head * config.head_dim
    return [config.n_head * config.head_dim, keys, keys]
