"""Our models in the forms that others read: SMDM's, and plain Llama with its relatives Qwen2 and Qwen3.

SMDM takes masked and autoregressive networks; Llama autoregressive ones, for Transformers, vLLM, SGLang and llama.cpp.
Both are exact: the weights are moved and renamed, never computed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from unmask import llama_names, model_card, model_directory, weight_files
from unmask.config import ModelConfig
from unmask.convert import smdm, source_tokenizer
from unmask.convert.hf_config import CONFIG
from unmask.data.no_tokenizer import NoTokenizer
from unmask.data.tokenizer import Tokenizer, begin_with
from unmask.errors import UnmaskError, UsageError, problems_error, unknown_name
from unmask.model_directory import Stored
from unmask.weight_files import Entry

CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}


@dataclass(frozen=True)
class Exported:
    """The summary of an export."""

    format: str
    """smdm, llama, mistral, qwen2 or qwen3."""
    out: str
    tensors: int
    bytes_written: int
    notes: list[str] = field(default_factory=list[str])
    """What the reader must know, such as what the format cannot say."""


def export(target: str, model: str | Path, out: str | Path, command: str | None = None) -> Exported:
    """Write the model directory (or run) `model` as `out` in the format `target` of `TARGETS`, with a model card.

    `command` is what the card says it was made by. Raises `UsageError` for an unknown format or an `out` that holds
    other things, and `UnmaskError` for a network that the format has no place for.
    """
    if target not in TARGETS:
        raise unknown_name("format", target, TARGETS)
    out = Path(out)
    stored = model_directory.read(model)
    if out.resolve() == stored.directory.resolve():
        raise UsageError(f"{out}: is the model itself: give another folder for the result")
    if out.exists() and (not out.is_dir() or any(_name(path) not in OURS for path in out.iterdir())):
        raise UsageError(f"{out}: holds other things: give another folder for the result")
    model_directory.check_weights(stored)
    exported = TARGETS[target](stored, out)
    card = model_card.of(stored, command=command, notes=exported.notes)
    (out / "README.md").write_text(card, encoding="utf-8")
    return exported


def to_smdm(stored: Stored, out: Path) -> Exported:
    """SMDM's names, with lit-gpt's description of the network and the tokenizer's files beside the weights."""
    config = stored.config
    problems = [
        f"{feature}: SMDM's network has none"
        for feature, there in (
            ("norms over queries and keys", config.qk_norm),
            ("a shift by one", config.shifted),
            ("causal blocks", config.block_length > 0),
            (f"rope_theta {config.rope_theta:g} (but 10000)", config.rope_theta != 10000),
            (f"heads of width {config.head_dim}", config.head_dim * config.n_head != config.n_embd),
            (f"a mask token inside the vocabulary ({config.mask_id})", config.mask_id not in (None, config.vocab_size)),
            ("a mask token of an autoregressive network", config.causal and config.mask_id is not None),
        )
        if there
    ]
    if problems:
        raise UnmaskError(str(problems_error(str(stored.directory), problems)))
    weights = stored.weights

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for theirs, ours in {**smdm.OUTSIDE, **_in_blocks(config, {**smdm.IN_BLOCK, **smdm.SWIGLU})}.items():
            if ours in weights:
                yield theirs, weights[ours]
        for layer in range(config.n_layer):
            for kind in ("weight", "bias") if config.qkv_bias else ("weight",):
                parts = [weights[f"model.layers.{layer}.self_attn.{letter}_proj.{kind}"] for letter in "qkv"]
                yield f"transformer.h.{layer}.attn.attn.{kind}", smdm.fuse(parts[0], parts[1], parts[2], config)
        if config.tied_embeddings:
            yield "lm_head.weight", weights["model.embed_tokens.weight"][: config.vocab_size]

    described = {
        "name": "unmask",
        "block_size": config.context_length,
        "vocab_size": config.vocab_size - config.padded_rows,
        "padded_vocab_size": config.vocab_size,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_embd": config.n_embd,
        "n_query_groups": config.n_kv_head,
        "intermediate_size": config.intermediate_size,
        "norm_eps": config.norm_eps,
        "bias": False,
        "rotary_percentage": 1.0,
        "parallel_residual": False,
        "_norm_class": "FusedRMSNorm",
        "_mlp_class": "LLaMAMLP",
        "rope_cos_sin": config.rope_precision,
    }
    written = _write(out, tensors, {"lit_config.json": described})
    stored.tokenizer.save(out)
    notes = ["SMDM has no tied heads: the head is a copy of the embedding"] if config.tied_embeddings else []
    return Exported("smdm", str(out), len(written), sum(entry.nbytes for entry in written.values()), notes)


def to_llama(stored: Stored, out: Path) -> Exported:
    """Llama as Transformers has it; with biases Qwen2, with norms over queries and keys Qwen3."""
    config, weights = stored.config, stored.weights
    if not config.causal:
        raise UnmaskError(
            f"{stored.directory}: a masked network, which Llama is not: use it with AutoModelForMaskedLM as it is"
        )
    if config.qk_norm and config.qkv_bias:
        raise UnmaskError(f"{stored.directory}: norms over queries and keys, and biases too: no Llama has both")
    kind = "qwen3" if config.qk_norm else "qwen2" if config.qkv_bias else "llama"
    notes: list[str] = []
    if kind == "llama" and config.n_embd % config.n_head:
        kind = "mistral"
        notes.append(
            f"Transformers' Llama refuses {config.n_head} heads at width {config.n_embd}, its Mistral does not: "
            "written as Mistral without a window, which is the same network"
        )
    if config.rope_precision != "float32":
        notes.append("the rotary tables were rounded to bfloat16, which Llama can't say: logits differ by about 1e-3")

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for name in llama_names.shapes(config):
            rows = config.vocab_size if name == "model.embed_tokens.weight" else None  # no row for a mask token
            yield name, weights[name][:rows]

    bos_id, eos_id = stored.tokenizer.bos_id, stored.tokenizer.eos_id
    described: dict[str, Any] = {
        "architectures": [CLASSES[kind]],
        "model_type": kind,
        "vocab_size": config.vocab_size,
        "hidden_size": config.n_embd,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "num_key_value_heads": config.n_kv_head,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": config.tied_embeddings,
        "bos_token_id": bos_id,
        "eos_token_id": eos_id,
        "dtype": str(weights["model.norm.weight"].dtype).removeprefix("torch."),
    }
    if kind == "mistral":
        described["sliding_window"] = None
    generation = {"bos_token_id": bos_id, "eos_token_id": eos_id}
    written = _write(out, tensors, {CONFIG: described, "generation_config.json": generation})
    _write_tokenizer(out, stored.tokenizer, config)
    return Exported(kind, str(out), len(written), sum(entry.nbytes for entry in written.values()), notes)


TARGETS: dict[str, Callable[[Stored, Path], Exported]] = {"smdm": to_smdm, "llama": to_llama}
"""What `export` writes, by name."""
OURS = {
    *("model.safetensors", "README.md", CONFIG, "lit_config.json", "generation_config.json"),
    *("tokenizer.json", "tokenizer_config.json"),
}
"""The files of an export, which another one may replace."""


def _name(path: Path) -> str:
    """What a file is called once it is whole."""
    return path.name.removesuffix(weight_files.PARTIAL)


def _in_blocks(config: ModelConfig, parts: dict[str, str]) -> dict[str, str]:
    return {
        f"transformer.h.{layer}.{theirs}.weight": f"model.layers.{layer}.{ours}.weight"
        for layer in range(config.n_layer)
        for theirs, ours in parts.items()
    }


def _write(
    out: Path, tensors: Callable[[], Iterator[tuple[str, Tensor]]], files: dict[str, dict[str, Any]]
) -> dict[str, Entry]:
    """Write the weights, then the JSON `files`; tell what was written."""
    out.mkdir(parents=True, exist_ok=True)
    entries = {name: Entry(tuple(tensor.shape), tensor.dtype) for name, tensor in tensors()}
    weight_files.write(out / "model.safetensors", entries, tensors())
    for name, content in files.items():
        (out / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return entries


def _write_tokenizer(out: Path, tokenizer: Tokenizer, config: ModelConfig) -> None:
    """The tokenizer without the mask token, putting the beginning-of-text token in front as scoring here does."""
    if isinstance(tokenizer, NoTokenizer):
        return
    backend = source_tokenizer.without_mask(tokenizer)
    names = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id}
    named = {key: None if row is None else backend.id_to_token(row) for key, row in names.items()}
    begin_with(backend, tokenizer.bos_id)
    backend.save(str(out / "tokenizer.json"))
    described: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": config.context_length,
        "add_bos_token": tokenizer.bos_id is not None,
        **named,
        "pad_token": named["eos_token"],
        "padding_side": "left",
    }
    if tokenizer.chat_template is not None:
        described["chat_template"] = tokenizer.chat_template
    (out / "tokenizer_config.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
