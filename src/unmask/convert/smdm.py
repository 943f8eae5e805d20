"""The checkpoints of "Scaling up Masked Diffusion Models on Text", and of lit-gpt and TinyLlama, whose names they use.

`attn.attn` holds, for each query group, the group's query heads, its key and its value. Heads leave no trace in the
tensors: their number is that of the named size with this shape, or is given. The embedding tells a masked network from
an autoregressive one: it has one row more than the head, the mask's. The rotary tables were bfloat16 in training.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from unmask import sizes
from unmask.config import ModelConfig, RopePrecision
from unmask.convert.plan import Options, Piece, Plan, Weights, entry_of, layer_count
from unmask.errors import UnmaskError, UsageError
from unmask.weight_files import Entry

OUTSIDE = {
    "transformer.wte.weight": "model.embed_tokens.weight",
    "transformer.ln_f.weight": "model.norm.weight",
    "lm_head.weight": "lm_head.weight",
}
"""Tensors outside the blocks: their name to Llama's."""
IN_BLOCK = {
    "attn.proj": "self_attn.o_proj",
    "norm_1": "input_layernorm",
    "norm_2": "post_attention_layernorm",
}
"""Parts of a block that are the same."""
SWIGLU = {"mlp.swiglu.w1": "mlp.gate_proj", "mlp.swiglu.w2": "mlp.up_proj", "mlp.swiglu.w3": "mlp.down_proj"}
LIT_SWIGLU = {"mlp.fc_1": "mlp.gate_proj", "mlp.fc_2": "mlp.up_proj", "mlp.proj": "mlp.down_proj"}
"""How SMDM writes a SwiGLU, and how lit-gpt does elsewhere."""
SIDECARS = ("lit_config.json", "config.json", "meta.json")
"""Where lit-gpt's description of the network may lie beside the weights."""
WRAPPERS = re.compile(r"^(?:_forward_module\.|module\.|_orig_mod\.|model\.)+")
CONTEXT = 2048
"""Of all released models."""


def plan(weights: Weights, directory: Path, options: Options) -> Plan:
    """What becomes of these weights; `directory` may hold a description of the network.

    Raises `UsageError` if the head count is neither known nor given, and `UnmaskError` if a tensor that tells the
    shape is missing.
    """
    where = str(directory)
    plain = {WRAPPERS.sub("", name): name for name in weights.entries}
    entries = {name: weights.entries[theirs] for name, theirs in plain.items()}
    said, sidecar = _description(directory)
    layers = layer_count(entries, "transformer.h.", ".attn.attn.weight")
    embedding = entry_of(entries, "transformer.wte.weight", where)
    head = entry_of(entries, "lm_head.weight", where)
    fused = entry_of(entries, "transformer.h.0.attn.attn.weight", where)
    gate = entries.get("transformer.h.0.mlp.swiglu.w1.weight")
    if gate is None:
        lit = any(".mlp.fc_" in name for name in entries)
        gate = entry_of(entries, f"transformer.h.0.{'mlp.fc_1' if lit else 'mlp.swiglu.w1'}.weight", where)
    width, inner, vocab = embedding.shape[1], gate.shape[0], head.shape[0]
    masks = embedding.shape[0] - vocab
    if masks not in (0, 1):
        raise UnmaskError(
            f"{where}: the embedding has {embedding.shape[0]} rows and the head {vocab}: a masked network has one row "
            "more than its head, an autoregressive one as many"
        )
    notes: list[str] = []
    given = options.num_heads
    if given is not None and said.get("n_head", given) != given:
        raise UsageError(f"--num-heads {given}: {sidecar} says {said['n_head']}: leave it out, or take the file away")
    heads = _heads(given, said.get("n_head"), (layers, width, inner), fused, where, notes)
    head_dim = width // heads
    groups = (fused.shape[0] // head_dim - heads) // 2
    precision: RopePrecision | None = options.rope_precision or said.get("rope_cos_sin")
    if precision is None:
        precision = "bfloat16"
        notes.append("rotary tables rounded to bfloat16, as the released models were trained (--rope-precision)")
    context = options.context_length or said.get("block_size")
    if context is None:
        context = CONTEXT
        notes.append(f"context of {CONTEXT} tokens, that of the released models (--context-length)")
    config = ModelConfig(
        n_layer=layers,
        n_head=heads,
        n_kv_head=groups,
        n_embd=width,
        intermediate_size=inner,
        vocab_size=vocab,
        context_length=context,
        mask_id=vocab if masks else None,
        causal=not masks,
        qkv_bias="transformer.h.0.attn.attn.bias" in entries,
        rope_theta=float(said.get("rope_base", 10000.0)),
        rope_precision=precision,
        norm_eps=float(said.get("norm_eps", 1e-5)),
    )
    _check_description(said, sidecar, config)
    return Plan(
        config=config,
        objective="mdm" if masks else "arm",
        pieces={plain.get(name, name): pieces for name, pieces in pieces_of(config, entries).items()},
        tokenizer=options.tokenizer,
        notes=notes,
    )


def pieces_of(config: ModelConfig, entries: Mapping[str, Entry]) -> dict[str, list[Piece]]:
    """What each of lit-gpt's tensors becomes."""
    pieces = {theirs: [Piece(name)] for theirs, name in OUTSIDE.items()}
    swiglu = LIT_SWIGLU if "transformer.h.0.mlp.fc_1.weight" in entries else SWIGLU
    for layer in range(config.n_layer):
        theirs, ours = f"transformer.h.{layer}", f"model.layers.{layer}"
        for part, name in {**IN_BLOCK, **swiglu}.items():
            pieces[f"{theirs}.{part}.weight"] = [Piece(f"{ours}.{name}.weight")]
        for kind in ("weight", "bias") if config.qkv_bias else ("weight",):
            pieces[f"{theirs}.attn.attn.{kind}"] = [
                Piece(f"{ours}.self_attn.{letter}_proj.{kind}", _part(config, index))
                for index, letter in enumerate("qkv")
            ]
    return pieces


def _part(config: ModelConfig, index: int) -> Any:
    """Takes queries (0), keys (1) or values (2) out of a matrix that is fused per query group."""

    def take(fused: Tensor) -> Tensor:
        return split(fused, config)[index]

    return take


def split(fused: Tensor, config: ModelConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of rows that are fused per query group."""
    groups, head_dim = config.n_kv_head, config.head_dim
    rest = fused.shape[1:]
    by_group = fused.view(groups, -1, *rest)
    q, k, v = torch.split(by_group, [config.n_head // groups * head_dim, head_dim, head_dim], dim=1)
    return q.reshape(-1, *rest), k.reshape(-1, *rest), v.reshape(-1, *rest)


def fuse(q: Tensor, k: Tensor, v: Tensor, config: ModelConfig) -> Tensor:
    """The inverse of `split`."""
    groups, rest = config.n_kv_head, q.shape[1:]
    return torch.cat([part.view(groups, -1, *rest) for part in (q, k, v)], dim=1).reshape(-1, *rest)


def _heads(
    given: int | None,
    described: int | None,
    shape: tuple[int, int, int],
    fused: Entry,
    where: str,
    notes: list[str],
) -> int:
    layers, width, inner = shape
    named = {
        (size.n_layer, size.n_embd, size.intermediate_size): size
        for size in (*sizes.SMALL.values(), *sizes.FAMILY.values())
    }.get(shape)
    heads = given or described
    if heads is None and named is not None and fused.shape[0] == 3 * width:
        heads = named.n_head
        notes.append(f"{heads} heads, those of the size {named.name} (--num-heads)")
    if heads is None:
        raise UsageError(
            f"{where}: {layers} layers of width {width} and {inner} are no named size, and tensors do not tell the "
            "number of heads: give --num-heads"
        )
    if width % heads or fused.shape[0] % (width // heads) or (fused.shape[0] // (width // heads) - heads) < 2:
        raise UsageError(
            f"{'--num-heads' if given else where + ': n_head'} {heads}: does not divide width {width} and the "
            f"{fused.shape[0]} rows of queries, keys and values"
        )
    groups, odd = divmod(fused.shape[0] // (width // heads) - heads, 2)
    if odd or heads % groups:
        raise UsageError(
            f"{'--num-heads' if given else where + ': n_head'} {heads}: the {fused.shape[0]} rows of queries, keys "
            f"and values would leave {groups} key heads, which do not divide it"
        )
    return heads


def _description(directory: Path) -> tuple[dict[str, Any], Path]:
    """lit-gpt's fields from a file beside the weights; none if there is no such file."""
    for name in SIDECARS:
        path = directory / name
        if not path.is_file():
            continue
        try:
            fields: Any = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UnmaskError(f"{path}: not JSON ({error}): restore it, or take it away") from None
        if isinstance(fields, dict) and "n_head" in fields:
            return cast("dict[str, Any]", fields), path
    return {}, directory


def _check_description(said: Mapping[str, Any], path: Path, config: ModelConfig) -> None:
    found = {
        "n_layer": config.n_layer,
        "n_embd": config.n_embd,
        "intermediate_size": config.intermediate_size,
        "n_query_groups": config.n_kv_head,
        "padded_vocab_size": config.vocab_size,
    }
    wrong = [
        f"{name} {said[name]}, where the tensors have {value}"
        for name, value in found.items()
        if said.get(name, value) != value
    ]
    if said.get("kind") in ("mdm", "arm") and (said["kind"] == "arm") != config.causal:
        wrong.append(f"kind {said['kind']}, where the tensors are an {'arm' if config.causal else 'mdm'}'s")
    if wrong:
        raise UnmaskError(f"{path}: contradicts the weights: {'; '.join(wrong)}: correct it, or take it away")
