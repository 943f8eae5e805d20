"""LLaDA and Dream folders of other shapes than the recorded ones."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import unmask
from unmask.config import ModelConfig
from unmask.convert import convert
from unmask.convert.llada import IN_BLOCK, OUTSIDE
from unmask.errors import UnmaskError
from unmask.llama_names import to_llama
from unmask.model import Transformer


def network(**fields):
    shape = {"n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 32, "intermediate_size": 56, "vocab_size": 70}
    config = ModelConfig(**{**shape, "context_length": 20, "mask_id": 66, "norm_eps": 1e-4, **fields})
    model = Transformer(config)
    model.init_weights(torch.Generator().manual_seed(3))
    with torch.no_grad():
        for index, parameter in enumerate(model.parameters()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index))
            parameter.copy_(parameter + 0.2 * noise if parameter.ndim == 1 else 2 * parameter)
    return model


def llada_names(model, prefix="model.transformer."):
    whole = {ours: theirs for theirs, ours in OUTSIDE.items()}
    part_of = {ours: theirs for theirs, ours in IN_BLOCK.items()}
    named = {}
    for name, tensor in to_llama(model.state_dict(), model.config).items():
        stem, _, kind = name.rpartition(".")
        if stem in whole:
            named[f"{prefix}{whole[stem]}.{kind}"] = tensor.contiguous()
        else:
            layer, part = stem.removeprefix("model.layers.").split(".", 1)
            named[f"{prefix}blocks.{layer}.{part_of[part]}.{kind}"] = tensor.contiguous()
    return named


LLADA = {
    "model_type": "llada",
    "d_model": 32,
    "n_heads": 4,
    "n_kv_heads": 2,
    "n_layers": 2,
    "mlp_hidden_size": 56,
    "activation_type": "silu",
    "block_type": "llama",
    "layer_norm_type": "rms",
    "rms_norm_eps": 1e-4,
    "max_sequence_length": 20,
    "rope": True,
    "rope_theta": 500.0,
    "vocab_size": 70,
    "embedding_size": 70,
    "mask_token_id": 66,
    "weight_tying": False,
}
DREAM = {
    "model_type": "Dream",
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "intermediate_size": 56,
    "rms_norm_eps": 1e-4,
    "max_position_embeddings": 20,
    "rope_theta": 500,
    "rope_scaling": None,
    "vocab_size": 70,
    "mask_token_id": 66,
    "use_sliding_window": False,
    "sliding_window": 4,
}


def write(folder, weights, config):
    folder.mkdir(exist_ok=True)
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def same_logits(expected, out):
    lm = unmask.load(out, "cpu")
    for length in (1, 3, 20):
        tokens_BL = torch.randint(70, (3, length), generator=torch.Generator().manual_seed(length))
        tokens_BL[0, length // 2 :] = 66
        select_BL = tokens_BL % 2 == 0
        with torch.no_grad():
            torch.testing.assert_close(lm.logits_fn(tokens_BL), expected(tokens_BL), atol=1e-6, rtol=0)
            rows = lm.logits_fn(tokens_BL, select_BL)
            torch.testing.assert_close(rows, expected(tokens_BL)[select_BL], atol=1e-5, rtol=1e-5)
    return lm


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, {}),
        ({"n_kv_head": 4}, {"n_kv_heads": None}),
        ({"n_kv_head": 1}, {"n_kv_heads": None, "multi_query_attention": True}),
        ({"tied_embeddings": True}, {"weight_tying": True}),
        ({"qkv_bias": True}, {"include_qkv_bias": True}),
        ({"padded_rows": 2}, {"vocab_size": 68}),
        ({"intermediate_size": 128}, {"mlp_hidden_size": None, "mlp_ratio": 4}),
    ],
)
@pytest.mark.parametrize("prefix", ["model.transformer.", "transformer."])
def test_llada_of_any_shape(fields, said, prefix, tmp_path):
    model = network(rope_theta=500.0, **fields)
    source = write(tmp_path / "source", llada_names(model, prefix), {**LLADA, **said})
    found = convert("llada", source, tmp_path / "out")
    assert found.config == model.config
    lm = same_logits(model, tmp_path / "out")
    assert lm.mask_id == 66


@pytest.mark.parametrize("fields", [{}, {"n_kv_head": 1}, {"tied_embeddings": True}])
def test_dream_of_any_shape_is_shifted_by_one(fields, tmp_path):
    model = network(rope_theta=500.0, qkv_bias=True, **fields)
    weights = {name: tensor.contiguous() for name, tensor in to_llama(model.state_dict(), model.config).items()}
    said = {
        "num_key_value_heads": fields.get("n_kv_head", 2),
        "tie_word_embeddings": bool(fields.get("tied_embeddings")),
    }
    source = write(tmp_path / "source", weights, {**DREAM, **said})
    found = convert("dream", source, tmp_path / "out")
    assert (found.config.shifted, found.config.qkv_bias, found.objective) == (True, True, "mdm")

    def shifted(tokens_BL):
        raw_BLV = model(tokens_BL)
        return torch.cat([raw_BLV[:, :1], raw_BLV[:, :-1]], dim=1)

    same_logits(shifted, tmp_path / "out")
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert stored.keys() == weights.keys()


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"alibi": True}, "alibi: our network has none"),
        ({"rope": False}, "rope false"),
        ({"block_type": "sequential"}, "block_type 'sequential'"),
        ({"activation_type": "swiglu"}, "activation_type 'swiglu'"),
        ({"layer_norm_type": "default", "include_bias": True}, "include_bias: .*; layer_norm_type 'default'"),
        ({"mask_token_id": None}, "lacks mask_token_id"),
        ({"mask_token_id": 71}, "mask_id 71 must be from 0 to vocab_size 70"),
        ({"n_layers": 1}, r"blocks\.1.* belong to no part"),
        ({"n_layers": 3}, r"lacks model\.transformer\.blocks\.2"),
        ({"n_kv_heads": 4}, r"k_proj\.weight is \(16, 32\), where config\.json asks for \(32, 32\)"),
    ],
)
def test_llada_features_that_our_network_lacks_and_contradictions_are_named(said, words, tmp_path):
    source = write(tmp_path / "source", llada_names(network()), {**LLADA, **said})
    with pytest.raises(UnmaskError, match=words):
        convert("llada", source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
