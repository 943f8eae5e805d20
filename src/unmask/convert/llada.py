"""LLaDA: a bidirectional Llama in the names of OLMo, with the mask token inside its vocabulary."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from unmask.config import ModelConfig
from unmask.convert.hf_config import HfConfig
from unmask.convert.plan import Options, Piece, Plan, Weights
from unmask.errors import UsageError

OUTSIDE = {"wte": "model.embed_tokens", "ln_f": "model.norm", "ff_out": "lm_head"}
"""Tensors outside the blocks: their name to Llama's."""
IN_BLOCK = {
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ff_norm": "post_attention_layernorm",
}
"""Parts of a block: their name to Llama's."""
ABSENT = (
    *("alibi", "attention_layer_norm", "input_emb_norm", "include_bias", "bias_for_layer_norm", "scale_logits"),
    "clip_qkv",
)
"""Features of OLMo's networks that ours does not have."""


def plan(weights: Weights, directory: Path, options: Options) -> Plan:
    """What becomes of a LLaDA model.

    Raises `UnmaskError` for features that our network lacks, and `UsageError` for another kind of model.
    """
    config = HfConfig.read(directory)
    if config.model_type != "llada":
        raise UsageError(f"{config.where}: model_type {config.model_type!r} is not LLaDA's: name another format")
    for feature in ABSENT:
        config.refuse(config.fields.get(feature), feature)
    config.refuse(config.fields.get("rope", True) is False, "rope false (learned or no positions)")
    config.only("block_type", ["llama"])
    config.only("block_group_size", [1])
    config.only("activation_type", ["silu"])
    config.only("layer_norm_type", ["rms"])
    config.refuse(config.fields.get("layer_norm_with_affine", True) is False, "layer_norm_with_affine false")
    heads = config.heads("n_heads", options.num_heads)
    one_key = config.get("multi_query_attention", bool, False)
    width = config.get("d_model", int)
    vocabulary = config.get("vocab_size", int)
    rows = config.optional("embedding_size") or vocabulary
    tied = config.get("weight_tying", bool, False)
    inner = config.optional("mlp_hidden_size") or config.get("mlp_ratio", int, 4) * width
    theta = config.get("rope_theta", float, 10000.0)
    fields: dict[str, Any] = {
        "n_layer": config.get("n_layers", int),
        "n_kv_head": config.get("n_kv_heads", int, 1 if one_key else heads),
        "context_length": options.context_length or config.get("max_sequence_length", int),
        "mask_id": config.get("mask_token_id", int),
        "norm_eps": config.get("rms_norm_eps", float, 1e-5),
    }
    prefix = "model.transformer." if "model.transformer.wte.weight" in weights.entries else "transformer."
    network = config.network(
        **fields,
        n_head=heads,
        n_embd=width,
        intermediate_size=inner,
        vocab_size=rows,
        padded_rows=max(0, rows - vocabulary),
        qkv_bias=f"{prefix}blocks.0.q_proj.bias" in weights.entries,
        tied_embeddings=tied,
        rope_theta=theta,
        rope_precision=options.rope_precision or "float32",
    )
    ignored = {f"{prefix}ff_out.weight": "the head is the embedding"} if tied else {}
    ignored = {name: why for name, why in ignored.items() if name in weights.entries}
    return Plan(
        config=network,
        objective="mdm",
        pieces={
            name: [Piece(_llama_name(name.removeprefix(prefix)) or name)]
            for name in [*weights.entries, *_names(network, prefix)]
            if name not in ignored
        },
        ignored=ignored,
        tokenizer=options.tokenizer,
    )


def _names(config: ModelConfig, prefix: str) -> list[str]:
    """The names of all tensors of such a network."""
    outside = [part for part in OUTSIDE if not (part == "ff_out" and config.tied_embeddings)]
    names = [f"{prefix}{part}.weight" for part in outside]
    for layer in range(config.n_layer):
        names += [f"{prefix}blocks.{layer}.{part}.weight" for part in IN_BLOCK]
        if config.qkv_bias:
            names += [f"{prefix}blocks.{layer}.{letter}_proj.bias" for letter in "qkv"]
    return names


def _llama_name(name: str) -> str | None:
    """Llama's name of the tensor that LLaDA calls `name`; None if there is none."""
    part, _, kind = name.rpartition(".")
    block = re.fullmatch(r"blocks\.(\d+)\.(\w+)", part)
    if block is not None and block[2] in IN_BLOCK:
        return f"model.layers.{block[1]}.{IN_BLOCK[block[2]]}.{kind}"
    return f"{OUTSIDE[part]}.{kind}" if part in OUTSIDE else None
