"""Causal models of many shapes: logits as Transformers', and through ours to Transformers again bit for bit."""

import json

import pytest
import torch
from test_llama import random_model
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

import unmask
from unmask.cli import main
from unmask.convert import convert, export
from unmask.errors import UnmaskError

KINDS = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}
VOCABULARY = 97


def config(kind, heads, key_heads, head_dim, tied, theta, width=None, layers=2, **fields):
    rope = {"rope_type": "default", "rope_theta": theta}
    shape = {"num_attention_heads": heads, "num_key_value_heads": key_heads, "head_dim": head_dim}
    width = width or heads * head_dim
    shape |= {"hidden_size": width, "intermediate_size": 2 * width + 3, "num_hidden_layers": layers}
    if kind == "mistral":
        fields |= {"sliding_window": None}
    fields |= {"vocab_size": VOCABULARY, "max_position_embeddings": 48, "rms_norm_eps": 1e-5}
    return KINDS[kind](**shape, **fields, tie_word_embeddings=tied, rope_parameters=rope)


SHAPES = [
    ("llama", 1, 1, 8, False, 1e4),
    ("llama", 6, 2, 6, True, 1e4),
    ("llama", 7, 1, 2, False, 5e5),
    ("llama", 3, 3, 14, True, 10.0, 21),
    ("mistral", 8, 2, 4, False, 1e6),
    ("mistral", 5, 5, 22, True, 1e4, 24, 1),
    ("qwen2", 6, 3, 10, False, 1e6),
    ("qwen2", 7, 1, 4, True, 1e6, None, 3),
    ("qwen3", 4, 1, 18, False, 1e6, 41),
    ("qwen3", 9, 3, 6, True, 1e7, 30, 3),
]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape[0]}-{shape[1]}-{shape[2]}-{shape[3]}")
def test_any_ratio_of_heads_and_width_of_a_head_gives_transformers_logits_and_goes_back_bit_for_bit(shape, tmp_path):
    theirs = random_model(config(*shape), seed=SHAPES.index(shape))
    theirs.save_pretrained(tmp_path / "source")
    found = convert("hf", tmp_path / "source", tmp_path / "ours").config
    assert (found.n_head, found.n_kv_head, found.head_dim) == shape[1:4]
    lm = unmask.load(tmp_path / "ours", "cpu")
    exported = export("llama", tmp_path / "ours", tmp_path / "again")
    # Mistral without a window is a Llama, but for widths that Transformers' Llama refuses
    expected = "llama" if shape[0] == "mistral" and found.n_embd % found.n_head == 0 else shape[0]
    assert (exported.format, len(exported.notes)) == (expected, int(expected == "mistral"))
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    before, after = theirs.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    for length in (1, 3, 7, 31, 48):
        tokens_BL = torch.randint(VOCABULARY, (3, length), generator=torch.Generator().manual_seed(length))
        with torch.no_grad():
            expected_BLV = theirs(tokens_BL).logits
            torch.testing.assert_close(lm.model(tokens_BL), expected_BLV, atol=1e-4, rtol=0)
            torch.testing.assert_close(again(tokens_BL).logits, expected_BLV, atol=0, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_goes_back_bit_for_bit(dtype, tmp_path):
    theirs = random_model(config(*SHAPES[1])).to(dtype)
    theirs.save_pretrained(tmp_path / "source")
    assert convert("hf", tmp_path / "source", tmp_path / "ours").dtypes == [str(dtype).removeprefix("torch.")]
    export("llama", tmp_path / "ours", tmp_path / "again")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again").state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in theirs.state_dict().items())
    assert {tensor.dtype for tensor in again.values()} == {dtype}


SCALED = {
    "linear": {"factor": 2.0},
    "dynamic": {"factor": 2.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 12},
    "llama3": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 12},
    "longrope": {"short_factor": [1.0] * 3, "long_factor": [2.0] * 3, "original_max_position_embeddings": 12},
}


@pytest.mark.parametrize("place", ["rope_parameters", "rope_scaling"])
@pytest.mark.parametrize("kind", SCALED)
def test_scaled_rotary_positions_are_refused_by_their_name(kind, place, tmp_path):
    random_model(config(*SHAPES[1])).save_pretrained(tmp_path / "source")
    path = tmp_path / "source" / "config.json"
    fields = json.loads(path.read_text())
    # beside the plain rope_parameters too, over which Transformers takes rope_scaling
    key = "rope_type" if place == "rope_parameters" else "type"
    path.write_text(json.dumps({**fields, place: {key: kind, "rope_theta": 1e4, **SCALED[kind]}}))
    with pytest.raises(UnmaskError, match=f"config.json: rope scaling '{kind}': our network has none"):
        convert("hf", tmp_path / "source", tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_rope_theta_is_found_where_old_and_new_configs_have_it(tmp_path):
    random_model(config(*SHAPES[2])).save_pretrained(tmp_path / "source")
    path = tmp_path / "source" / "config.json"
    fields = json.loads(path.read_text())
    assert fields.pop("rope_parameters")["rope_theta"] == 5e5
    for number, told in enumerate(({"rope_theta": 5e5}, {"rope_theta": 500000, "rope_scaling": None})):
        path.write_text(json.dumps({**fields, **told}))
        assert convert("hf", tmp_path / "source", tmp_path / f"{number}").config.rope_theta == 5e5
    path.write_text(json.dumps(fields))
    assert convert("hf", tmp_path / "source", tmp_path / "none").config.rope_theta == 1e4
    kinds = {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}
    path.write_text(json.dumps({**fields, "rope_parameters": kinds}))
    with pytest.raises(UnmaskError, match="rope_parameters of full_attention, sliding_attention: our network has none"):
        convert("hf", tmp_path / "source", tmp_path / "kinds")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"head_dim": 7}, "head_dim 7 must be even"),
        ({"num_key_value_heads": 4}, "n_head 6 must be a multiple of n_kv_head 4"),
        ({"num_attention_heads": 0}, "n_head 0 must be at least 1"),
        ({"rope_theta": 0.0, "rope_parameters": None}, "rope_theta 0.0 must be positive"),
    ],
)
def test_a_config_that_no_network_can_have_is_one_line(fields, words, tmp_path, capsys):
    random_model(config(*SHAPES[1])).save_pretrained(tmp_path / "source")
    path = tmp_path / "source" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    capsys.readouterr()
    assert main(["convert", "hf", str(tmp_path / "source"), str(tmp_path / "ours")]) in (1, 2)
    error = capsys.readouterr().err
    assert f"source/config.json: model config: {words}" in error
    assert error.count("\n") == 1
