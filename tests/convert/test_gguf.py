"""GGUF files written by llama.cpp's own package, read back."""

import math

import numpy as np
import pytest
import torch

import unmask
from unmask.config import ModelConfig
from unmask.convert import convert
from unmask.errors import UnmaskError, UsageError
from unmask.llama_names import to_llama
from unmask.model import Transformer

gguf = pytest.importorskip("gguf", reason="gguf, with which the test writes its files, is not installed")

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
SHAPE = {"n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 64, "intermediate_size": 96, "vocab_size": 260}


def network(**fields):
    model = Transformer(ModelConfig(**SHAPE, context_length=30, causal=True, rope_theta=700.0, norm_eps=1e-4, **fields))
    with torch.no_grad():
        for index, parameter in enumerate(model.parameters()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index))
            parameter.copy_(1 + 0.2 * noise if parameter.ndim == 1 else 0.2 * noise)
    return model


def permuted(rows, heads):
    """llama.cpp's order of Llama's queries and keys, as its converter makes it."""
    return rows.reshape(heads, 2, -1, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def write(path, model, architecture="llama", kind=None, tokens=True, **metadata):
    config = model.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config.n_layer)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.n_head)
    writer.add_head_count_kv(config.n_kv_head)
    writer.add_key_length(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    for name, value in metadata.items():
        key = f"{architecture}.{name.replace('__', '.')}"
        writer.add_string(key, value) if isinstance(value, str) else writer.add_uint32(key, value)
    if tokens:
        letters = [chr(c) for c in (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))]
        letters += [chr(256 + n) for n in range(256 - len(letters))]
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("smollm")
        writer.add_token_list([*letters, "th", "the", "<|begin|>", "<|end|>"])
        writer.add_token_types([1] * 258 + [3, 3])
        writer.add_token_merges(["t h", "th e"])
        writer.add_bos_token_id(258)
        writer.add_eos_token_id(259)
        writer.add_add_bos_token(False)
        writer.add_chat_template("{{ messages[0]['content'] }}")
    for name, tensor in to_llama(model.state_dict(), config).items():
        stem, _, suffix = name.rpartition(".")
        layer, _, part = stem.removeprefix("model.layers.").partition(".")
        theirs = f"blk.{layer}.{NAMES[part]}" if stem.startswith("model.layers.") else NAMES[stem]
        array = tensor.numpy()
        if architecture == "llama" and part in ("self_attn.q_proj", "self_attn.k_proj"):
            array = permuted(array, config.n_head if part == "self_attn.q_proj" else config.n_kv_head)
        if kind is not None and array.ndim == 2:
            writer.add_tensor(f"{theirs}.{suffix}", gguf.quants.quantize(array, kind), raw_dtype=kind)
        else:
            writer.add_tensor(f"{theirs}.{suffix}", np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("architecture", "fields"),
    [
        ("llama", {}),
        ("llama", {"tied_embeddings": True}),
        ("qwen2", {"qkv_bias": True}),
        ("qwen3", {"qk_norm": True, "head_dim": 20}),
    ],
)
def test_logits_are_those_of_the_network_that_was_written(architecture, fields, tmp_path):
    model = network(**fields)
    path = write(tmp_path / "model.gguf", model, architecture)
    found = convert("gguf", path, tmp_path / "out")
    lm = unmask.load(tmp_path / "out", "cpu")
    assert lm.config == ModelConfig(**{**vars(model.config), "norm_eps": lm.config.norm_eps})
    assert math.isclose(lm.config.norm_eps, 1e-4, rel_tol=1e-6)
    assert found.dtypes == ["float32"]
    tokens_BL = torch.randint(260, (2, 11), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(lm.model(tokens_BL), model(tokens_BL), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1"])
def test_each_type_is_kept_or_dequantised_as_llama_cpp_does(kind, tmp_path):
    ggml = gguf.GGMLQuantizationType[kind]
    model = network()
    path = write(tmp_path / "model.gguf", model, kind=ggml)
    found = convert("gguf", path, tmp_path / "out")
    stored = unmask.load(tmp_path / "out", "cpu").model.state_dict()
    up = model.blocks[1].mlp.down.weight.detach().numpy()
    expected = torch.from_numpy(np.array(gguf.quants.dequantize(gguf.quants.quantize(up, ggml), ggml)))
    assert torch.equal(stored["blocks.1.mlp.down.weight"], expected)
    wide = {"F16": ["float16", "float32"], "BF16": ["bfloat16", "float32"]}
    assert found.dtypes == wide.get(kind, ["float32"])


def test_the_tokenizer_of_the_file_comes_along(tmp_path):
    convert("gguf", write(tmp_path / "model.gguf", network()), tmp_path / "out")
    lm = unmask.load(tmp_path / "out", "cpu")
    assert lm.tokenizer.decode(lm.tokenizer.encode("the other")) == "the other"
    assert lm.tokenizer.encode("the")[0] == 257
    assert (lm.tokenizer.bos_id, lm.tokenizer.eos_id) == (None, 259)  # the file says that no bos is added
    assert lm.generate("the", max_new_tokens=3).tokens[0] == 257
    assert lm.tokenizer.chat_template == "{{ messages[0]['content'] }}"
    without = write(tmp_path / "bare.gguf", network(), tokens=False)
    assert not convert("gguf", without, tmp_path / "bare").tokenizer


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"rope__scaling__type": "yarn"}, r"rope\.scaling\.type 'yarn'"),
        ({"expert_count": 8}, "expert_count"),
        ({"attention__sliding_window": 4}, r"attention\.sliding_window 4"),
        ({"rope__dimension_count": 4}, "rotary positions over 4 of 16"),
        ({"split__count": 2}, r"split\.count"),
    ],
)
def test_features_that_our_network_lacks_are_refused_by_name(metadata, words, tmp_path):
    path = write(tmp_path / "model.gguf", network(), **metadata)
    with pytest.raises(UnmaskError, match=words):
        convert("gguf", path, tmp_path / "out")


def test_broken_files_are_named(tmp_path):
    path = write(tmp_path / "model.gguf", network())
    whole = path.read_bytes()
    for kept in (0, 3, 20, 200, len(whole) // 2, len(whole) - 100):
        path.write_bytes(whole[:kept])
        with pytest.raises(UnmaskError, match=r"model\.gguf: (not a whole GGUF file|cut short)"):
            convert("gguf", path, tmp_path / "out")
    with pytest.raises(UsageError, match="no such file"):
        convert("gguf", tmp_path / "absent.gguf", tmp_path / "out")
    write(tmp_path / "other.gguf", network(), architecture="gemma")
    with pytest.raises(UsageError, match="architecture 'gemma'"):
        convert("gguf", tmp_path / "other.gguf", tmp_path / "out")
    with pytest.raises(UsageError, match=r"holds 2 \.gguf files"):
        convert("gguf", tmp_path, tmp_path / "out")
