"""Causal models of Transformers whose network is ours: Llama, Mistral, Qwen2, Qwen3 and their likes; and Dream.

Dream is Qwen2's network made bidirectional, whose state at position i - 1 predicts token i. Features that our network
does not have, such as scaled rotary positions or a sliding window, are refused by name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from unmask.convert.hf_config import HfConfig
from unmask.convert.plan import Options, Piece, Plan, Weights
from unmask.errors import UsageError

CAUSAL = ("llama", "mistral", "qwen2", "qwen3")
"""Model types with our network; a Mistral without its window."""
CONTEXT = 2048
"""Where the config names none: Llama's own default."""


def plan(weights: Weights, directory: Path, options: Options) -> Plan:
    """What becomes of a causal model.

    Raises `UnmaskError` for features that our network lacks, and `UsageError` for another kind of model.
    """
    config = HfConfig.read(directory)
    if config.model_type not in CAUSAL:
        raise UsageError(
            f"{config.where}: model_type {config.model_type!r} is not one of {', '.join(CAUSAL)}, whose network is ours"
        )
    return _plan(config, weights, options, mask_id=None)


def plan_dream(weights: Weights, directory: Path, options: Options) -> Plan:
    """What becomes of a Dream model; errors as `plan`."""
    config = HfConfig.read(directory)
    if config.model_type.lower() != "dream":
        raise UsageError(f"{config.where}: model_type {config.model_type!r} is not Dream's: name another format")
    return _plan(config, weights, options, mask_id=config.get("mask_token_id", int))


def _plan(config: HfConfig, weights: Weights, options: Options, mask_id: int | None) -> Plan:
    theta = config.rope_theta()
    context = options.context_length or config.get("max_position_embeddings", int, CONTEXT)
    _refuse_what_is_not_ours(config, weights, context)
    heads = config.heads("num_attention_heads", options.num_heads)
    tied = config.get("tie_word_embeddings", bool, False)
    fields: dict[str, Any] = {
        "n_layer": config.get("num_hidden_layers", int),
        "n_head": heads,
        "n_kv_head": config.get("num_key_value_heads", int, heads),
        "head_dim": config.get("head_dim", int, 0),
        "n_embd": config.get("hidden_size", int),
        "intermediate_size": config.get("intermediate_size", int),
        "vocab_size": config.get("vocab_size", int),
        "norm_eps": config.get("rms_norm_eps", float, 1e-6),
    }
    network = config.network(
        **fields,
        context_length=context,
        mask_id=mask_id,
        causal=mask_id is None,
        shifted=mask_id is not None,
        qkv_bias="model.layers.0.self_attn.q_proj.bias" in weights.entries,
        qk_norm="model.layers.0.self_attn.q_norm.weight" in weights.entries,
        tied_embeddings=tied,
        rope_theta=theta,
        rope_precision=options.rope_precision or "float32",
    )
    ignored = {name: "computed from the config" for name in weights.entries if name.endswith("rotary_emb.inv_freq")}
    if tied and "lm_head.weight" in weights.entries:
        ignored["lm_head.weight"] = "the head is the embedding"
    return Plan(
        config=network,
        objective="arm" if mask_id is None else "mdm",
        pieces={name: [Piece(name)] for name in weights.entries if name not in ignored},
        ignored=ignored,
        tokenizer=options.tokenizer,
    )


def _refuse_what_is_not_ours(config: HfConfig, weights: Weights, context: int) -> None:
    config.only("hidden_act", ["silu", "swish"])
    config.refuse(config.fields.get("quantization_config"), "quantization_config")
    config.refuse(config.fields.get("mlp_bias"), "mlp_bias")
    config.refuse("model.layers.0.self_attn.o_proj.bias" in weights.entries, "attention_bias on the output projection")
    window = config.fields.get("sliding_window")
    # Qwen2 and Dream name a window that another field turns off; Mistral's is on where there is one
    on = config.fields.get("use_sliding_window", config.model_type == "mistral")
    if on and isinstance(window, int) and window < context:
        config.refuse(True, f"sliding_window {window} (--context-length {window} does without)")
    kinds = cast("list[Any]", config.fields.get("layer_types") or [])
    others = sorted({str(kind) for kind in kinds if kind != "full_attention"})
    config.refuse(others, f"layer_types {', '.join(others)}")
    for name in ("attn_logit_softcapping", "final_logit_softcapping"):
        config.refuse(config.fields.get(name), name)
