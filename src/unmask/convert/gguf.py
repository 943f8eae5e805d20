"""GGUF files of llama.cpp with a Llama, Qwen2 or Qwen3 network, quantised or not.

Transformers' own reader finds the tensors and turns quantised blocks into float32; what is stored as a float stays in
its type. llama.cpp keeps each pair of rotary dimensions side by side in Llama's queries and keys: they are put
back as Transformers has them. The tokenizer is the one that the file carries.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import tokenizers
import torch
from torch import Tensor

from unmask.config import ModelConfig
from unmask.convert.hf_config import HfConfig
from unmask.convert.plan import Options, Piece, Plan, Weights
from unmask.data.tokenizer import Tokenizer
from unmask.errors import UnmaskError, UsageError
from unmask.weight_files import Entry

ARCHITECTURES = ("llama", "qwen2", "qwen3")
OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
"""Tensors outside the blocks: llama.cpp's name to Llama's."""
IN_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""Parts of a block."""
PAIRED = "llama"
"""The architecture whose queries and keys llama.cpp reorders."""


class GgufFile:
    """The tensors and the metadata of one file."""

    def __init__(self, path: Path) -> None:
        """Raises `UsageError` if there is no such file, and `UnmaskError` if it is damaged or cut short."""
        try:
            from transformers.integrations.gguf import reader
            from transformers.integrations.gguf.dequant import dequantize
        except ImportError:
            raise UnmaskError("gguf: needs transformers 5.23 or later: pip install -U transformers") from None
        if not path.is_file():
            raise UsageError(f"{path}: no such file: give the .gguf file itself")
        # the reader's modules are not typed for outside use
        self._reader, self._dequantize = cast(Any, reader), cast(Any, dequantize)
        try:
            self._header = self._reader.GgufHeader.from_file(str(path))
            metadata, _ = self._reader.read_gguf_metadata(str(path))
        except (ValueError, KeyError, IndexError, struct.error, OverflowError, MemoryError) as error:
            raise UnmaskError(f"{path}: not a whole GGUF file ({error}): download it again") from None
        end = self._header.data_start + max((info.offset + info.nbytes for info in self._header.tensors), default=0)
        if path.stat().st_size < end:
            raise UnmaskError(f"{path}: cut short at {path.stat().st_size} of {end} bytes: download it again")
        self.path = path
        self.metadata: dict[str, Any] = dict(metadata)
        self._floats: dict[int, torch.dtype] = {0: torch.float32, 1: torch.float16, 30: torch.bfloat16}
        self.entries = {
            info.name: Entry(tuple(info.shape), self._floats.get(info.ggml_type, torch.float32))
            for info in self._header.tensors
        }
        self.quantised = sum(info.ggml_type not in self._floats for info in self._header.tensors)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Each name and its tensor, dequantised where it was quantised."""
        lazy = self._reader.load_gguf_state_dict(self._header)
        kinds: dict[str, int] = self._header.ggml_types
        for name, held in lazy.items():
            tensor: Tensor = held[...]
            if kinds[name] not in self._floats:
                tensor = self._dequantize(tensor, kinds[name]).reshape(self.entries[name].shape)
            yield name, tensor

    def tokenizer(self) -> Tokenizer | None:
        """The file's own tokenizer; None if it has none."""
        if "tokenizer.ggml.model" not in self.metadata or "tokenizer.ggml.tokens" not in self.metadata:
            return None
        from transformers.integrations.gguf import gguf_tokenizer_mapping

        mapping = cast(Any, gguf_tokenizer_mapping)
        try:
            architecture, parts, named = mapping.get_gguf_tokenizer(str(self.path))
            backend, _ = mapping.convert_gguf_tokenizer(architecture, parts)
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise UnmaskError(
                f"{self.path}: its tokenizer is not understood ({error}): give the original one with --tokenizer"
            ) from None
        # Transformers' class may bring special tokens of its own, which the network has no rows for
        content: dict[str, Any] = json.loads(backend.to_str())
        rows = len(parts["tokens"])
        content["added_tokens"] = [token for token in content["added_tokens"] if token["id"] < rows]
        backend = tokenizers.Tokenizer.from_str(json.dumps(content))
        bos = named.get("bos_token") if named.get("add_bos_token") else None
        tokenizer = Tokenizer(backend, bos=bos, eos=named.get("eos_token"), mask=None)
        template = self.metadata.get("tokenizer.chat_template")
        return tokenizer.with_chat_template(template) if isinstance(template, str) else tokenizer


def plan(weights: Weights, file: Path, options: Options) -> Plan:
    """What becomes of a GGUF file.

    Raises `UnmaskError` for features that our network lacks, and `UsageError` for another architecture.
    """
    if not isinstance(weights, GgufFile):
        raise UsageError(f"{file}: not a GGUF file: name another format")
    metadata, where = weights.metadata, str(weights.path)
    architecture = str(metadata.get("general.architecture"))
    if architecture not in ARCHITECTURES:
        raise UsageError(
            f"{where}: architecture {architecture!r} is not one of {', '.join(ARCHITECTURES)}, whose network is ours"
        )
    parts = {name.removeprefix(f"{architecture}."): value for name, value in metadata.items()}
    config = HfConfig(parts, where)
    heads = config.heads("attention.head_count", options.num_heads)
    width = config.get("embedding_length", int)
    head_dim = config.get("attention.key_length", int, width // heads if heads else 0)
    rotary = config.get("rope.dimension_count", int, head_dim)
    context = options.context_length or config.get("context_length", int)
    config.refuse(rotary != head_dim, f"rotary positions over {rotary} of {head_dim} dimensions")
    config.only("rope.scaling.type", ["none"])
    config.refuse("rope_freqs.weight" in weights.entries, "rope scaling 'llama3' (rope_freqs)")
    config.refuse(config.get("expert_count", int, 0), "expert_count (mixture of experts)")
    window = config.get("attention.sliding_window", int, context)
    config.refuse(window < context, f"attention.sliding_window {window} (--context-length {window} does without)")
    config.refuse(config.get("split.count", int, 1) > 1, "split.count (join the parts with llama-gguf-split --merge)")
    fields: dict[str, Any] = {
        "n_layer": config.get("block_count", int),
        "n_kv_head": config.get("attention.head_count_kv", int, heads),
        "intermediate_size": config.get("feed_forward_length", int),
        "rope_theta": config.get("rope.freq_base", float, 10000.0),
        "norm_eps": config.get("attention.layer_norm_rms_epsilon", float),
    }
    config.refuse("blk.0.attn_output.bias" in weights.entries, "a bias on the attention's output projection")
    embedding = weights.entries.get("token_embd.weight")
    network = config.network(
        **fields,
        n_head=heads,
        head_dim=head_dim,
        n_embd=width,
        vocab_size=embedding.shape[0] if embedding is not None else config.get("vocab_size", int, 1),
        context_length=context,
        causal=True,
        qkv_bias="blk.0.attn_q.bias" in weights.entries,
        qk_norm="blk.0.attn_q_norm.weight" in weights.entries,
        tied_embeddings="output.weight" not in weights.entries,
        rope_precision=options.rope_precision or "float32",
    )
    pieces: dict[str, list[Piece]] = {}
    for name in weights.entries:
        piece = _piece(name, network, paired=architecture == PAIRED)
        if piece is not None:
            pieces[name] = [piece]
    notes = [f"{weights.quantised} quantised tensors became float32"] if weights.quantised else []
    return Plan(
        config=network, objective="arm", pieces=pieces, tokenizer=options.tokenizer or weights.tokenizer(), notes=notes
    )


def _piece(name: str, config: ModelConfig, *, paired: bool) -> Piece | None:
    """What the tensor `name` becomes; None if it has no place."""
    part, _, kind = name.rpartition(".")
    block = re.fullmatch(r"blk\.(\d+)\.(\w+)", part)
    if block is None:
        return Piece(f"{OUTSIDE[part]}.{kind}") if part in OUTSIDE else None
    if block[2] not in IN_BLOCK:
        return None
    ours = f"model.layers.{block[1]}.{IN_BLOCK[block[2]]}.{kind}"
    if paired and block[2] in ("attn_q", "attn_k"):
        return Piece(ours, lambda tensor: unpaired(tensor, config.head_dim))
    return Piece(ours)


def unpaired(tensor: Tensor, head_dim: int) -> Tensor:
    """Rows of queries or keys with each head's rotary pairs (2i, 2i + 1) moved to (i, i + E/2)."""
    by_pair = tensor.view(-1, head_dim // 2, 2, *tensor.shape[1:])
    return by_pair.transpose(1, 2).reshape(tensor.shape)
