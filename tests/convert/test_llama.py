"""Causal models of Transformers, converted: the same logits, and what our network lacks refused by name."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

import unmask
from unmask.convert import Options, convert
from unmask.errors import UnmaskError, UsageError

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 71,
    "max_position_embeddings": 40,
}
CONFIGS = {
    "llama": LlamaConfig(**SHAPE, rms_norm_eps=1e-4),
    "llama, one key head, tied": LlamaConfig(**{**SHAPE, "num_key_value_heads": 1}, tie_word_embeddings=True),
    "llama, wide heads": LlamaConfig(
        **SHAPE, head_dim=10, rope_parameters={"rope_type": "default", "rope_theta": 77.0}
    ),
    "mistral": MistralConfig(**SHAPE, sliding_window=None),
    "qwen2": Qwen2Config(**SHAPE, tie_word_embeddings=True, sliding_window=8, use_sliding_window=False),
    "qwen3": Qwen3Config(**SHAPE, head_dim=12),
}


def random_model(config, seed=0):
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():  # opinionated, with norms and biases of their own
            noise = torch.randn_like(parameter)
            parameter.copy_(1 + 0.2 * noise if parameter.ndim == 1 else 0.3 * noise)
    return model.eval()


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("length", [1, 2, 17])
def test_logits_equal_transformers_on_the_same_weights(name, length, tmp_path):
    theirs = random_model(CONFIGS[name])
    theirs.save_pretrained(tmp_path / "source")
    found = convert("hf", tmp_path / "source", tmp_path / "out")
    assert found.objective == "arm"
    assert found.config.tied_embeddings == CONFIGS[name].tie_word_embeddings
    lm = unmask.load(tmp_path / "out", "cpu")
    tokens_BL = torch.randint(71, (2, length), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected_BLV = theirs(tokens_BL).logits
        torch.testing.assert_close(lm.model(tokens_BL), expected_BLV, atol=2e-5, rtol=1e-5)
    # no tokenizer, so no beginning of text: row i from the tokens before it, row 0 uniform
    logits_BLV = lm.logits_fn(tokens_BL)
    torch.testing.assert_close(logits_BLV[:, 1:], expected_BLV[:, :-1], atol=2e-5, rtol=1e-5)
    assert logits_BLV[:, 0].eq(0).all()


def test_shards_of_bfloat16_convert_bit_for_bit(tmp_path):
    theirs = random_model(CONFIGS["llama"]).bfloat16()
    theirs.save_pretrained(tmp_path / "source", max_shard_size="6KB")
    assert len(list((tmp_path / "source").glob("*.safetensors"))) > 2
    assert convert("hf", tmp_path / "source", tmp_path / "out").dtypes == ["bfloat16"]
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert stored.keys() == theirs.state_dict().keys()
    for weight, tensor in theirs.state_dict().items():
        assert stored[weight].dtype == torch.bfloat16
        assert torch.equal(stored[weight], tensor)


@pytest.fixture
def source(tmp_path):
    random_model(CONFIGS["llama"]).save_pretrained(tmp_path / "source")
    return tmp_path / "source"


def changed(source, **fields):
    path = source / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0}}, "rope scaling 'llama3'"),
        ({"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}}, "rope scaling 'linear'"),
        ({"model_type": "mistral", "sliding_window": 8}, "sliding_window 8 .*--context-length 8 does without"),
        ({"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 8}, "sliding_window 8"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types sliding_attention"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
        ({"mlp_bias": True, "hidden_act": "gelu"}, "hidden_act 'gelu': our network has none; mlp_bias"),
        ({"num_attention_heads": None}, "lacks num_attention_heads"),
        ({"vocab_size": "many"}, "vocab_size 'many' is not of type int"),
    ],
)
def test_features_that_our_network_lacks_are_refused_by_name(fields, words, source, tmp_path):
    changed(source, **fields)
    with pytest.raises(UnmaskError, match=words):
        convert("hf", source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_window_as_wide_as_the_context_is_none(tmp_path):
    theirs = random_model(MistralConfig(**SHAPE, sliding_window=8))
    theirs.save_pretrained(tmp_path / "source")
    convert("hf", tmp_path / "source", tmp_path / "out", Options(context_length=8))
    lm = unmask.load(tmp_path / "out", "cpu")
    tokens_BL = torch.arange(16).view(2, 8)
    with torch.no_grad():
        torch.testing.assert_close(lm.model(tokens_BL), theirs(tokens_BL).logits, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"num_hidden_layers": 3}, r"lacks model\.layers\.2.* which config\.json asks for"),
        ({"num_hidden_layers": 1}, r"model\.layers\.1.* belong to no part"),
        ({"num_key_value_heads": 4}, r"k_proj\.weight is \(16, 32\), where config\.json asks for \(32, 32\)"),
        ({"vocab_size": 72}, r"embed_tokens\.weight is \(71, 32\), where config\.json asks for \(72, 32\)"),
        ({"tie_word_embeddings": False, "intermediate_size": 64}, r"gate_proj\.weight is \(56, 32\)"),
    ],
)
def test_a_config_that_contradicts_the_tensors_is_named(fields, words, source, tmp_path):
    changed(source, **fields)
    with pytest.raises(UnmaskError, match=words):
        convert("hf", source, tmp_path / "out")


def test_a_number_of_heads_that_the_config_denies_is_refused(source, tmp_path):
    assert convert("hf", source, tmp_path / "out", Options(num_heads=4)).config.n_head == 4
    with pytest.raises(UnmaskError, match="--num-heads 2 contradicts num_attention_heads 4: leave it out"):
        convert("hf", source, tmp_path / "other", Options(num_heads=2))


def test_other_kinds_of_models_are_usage_errors(source, tmp_path):
    changed(source, model_type="gpt2")
    with pytest.raises(UsageError, match="model_type 'gpt2' is not one of llama"):
        convert("hf", source, tmp_path / "out")
    for other in ("llada", "dream"):
        with pytest.raises(UsageError, match="name another format"):
            convert(other, source, tmp_path / "out")
    (tmp_path / "x.gguf").touch()
    with pytest.raises(UsageError, match=r"x\.gguf: a file of llama\.cpp: open it as gguf, not as hf"):
        convert("hf", tmp_path / "x.gguf", tmp_path / "out")
    (source / "config.json").write_text("{")
    with pytest.raises(UnmaskError, match=r"config\.json: not JSON"):
        convert("hf", source, tmp_path / "out")
    (source / "config.json").unlink()
    with pytest.raises(UsageError, match=r"config\.json: no such file"):
        convert("hf", source, tmp_path / "out")


def test_weights_that_are_not_numbers_are_warned_of(tmp_path):
    theirs = random_model(CONFIGS["llama"])
    with torch.no_grad():
        theirs.model.layers[1].mlp.up_proj.weight[3, 4] = torch.nan
    theirs.save_pretrained(tmp_path / "source")
    found = convert("hf", tmp_path / "source", tmp_path / "out")
    assert found.warnings == ["model.layers.1.mlp.up_proj.weight holds NaN or infinity: its results will too"]


def test_a_conversion_that_was_killed_while_it_wrote_is_made_again(source, tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        convert("hf", source, tmp_path / "out")
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.safetensors.partial"]
    convert("hf", source, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.partial"))


def killed(self, target):
    raise KeyboardInterrupt


def test_the_result_never_replaces_anything_but_a_model_of_ours(source, tmp_path):
    with pytest.raises(UsageError, match="is the source itself"):
        convert("hf", source, source)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "diary.txt").write_text("x")
    with pytest.raises(UsageError, match="holds other things than a model of unmask"):
        convert("hf", source, tmp_path / "notes")
    with pytest.raises(UsageError, match="is a file"):
        convert("hf", source, tmp_path / "notes" / "diary.txt")
    convert("hf", source, tmp_path / "out")
    convert("hf", source, tmp_path / "out")
