import json

import lit_gpt
import pytest
import torch
from safetensors.torch import load_file, save_file

import unmask
from unmask.convert import Options, convert
from unmask.errors import UnmaskError, UsageError

SHAPE = {"layers": 2, "width": 48, "inner": 80, "vocab": 37}


def tokens(vocab, rows, length, masks=True):
    generator = torch.Generator().manual_seed(7)
    tokens_BL = torch.randint(vocab, (rows, length), generator=generator)
    masked_BL = torch.rand(rows, length, generator=generator) < 0.4
    return tokens_BL.masked_fill(masked_BL, vocab) if masks else tokens_BL


@pytest.mark.parametrize("length", [1, 5, 13])
@pytest.mark.parametrize("rope_precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (6, 2), (4, 1)])
def test_masked_networks_of_any_shape_give_the_logits_of_the_plain_network(
    heads, groups, rope_precision, length, tmp_path
):
    named = lit_gpt.weights(**SHAPE, heads=heads, groups=groups, seed=heads)
    save_file(named, tmp_path / "model.safetensors")
    found = convert("smdm", tmp_path / "model.safetensors", tmp_path / "out", Options(heads, rope_precision))
    assert (found.config.n_head, found.config.n_kv_head, found.config.mask_id) == (heads, groups, 37)
    assert (found.config.context_length, found.objective) == (2048, "mdm")
    lm = unmask.load(tmp_path / "out", "cpu")
    tokens_BL = tokens(37, 3, length)
    expected = lit_gpt.logits(named, tokens_BL, heads=heads, groups=groups, rope_dtype=getattr(torch, rope_precision))
    torch.testing.assert_close(lm.logits_fn(tokens_BL), expected, atol=1e-4, rtol=1e-4)
    masked_BL = tokens_BL == 37
    torch.testing.assert_close(lm.logits_fn(tokens_BL, masked_BL), expected[masked_BL], atol=1e-4, rtol=1e-4)


def test_an_embedding_without_a_mask_row_is_an_autoregressive_network_with_biases(tmp_path):
    named = lit_gpt.weights(**SHAPE, heads=4, groups=2, mask=False, bias=True)
    wrapped = {f"_forward_module.{name}": tensor for name, tensor in named.items()}
    torch.save({"model": wrapped, "hparams": {"lr": 0.1}, "iter_num": 5}, tmp_path / "iter.pth")
    found = convert("smdm", tmp_path / "iter.pth", tmp_path / "out", Options(num_heads=4, rope_precision="float32"))
    assert (found.objective, found.config.causal, found.config.qkv_bias) == ("arm", True, True)
    lm = unmask.load(tmp_path / "out", "cpu")
    tokens_BL = tokens(37, 2, 9, masks=False)
    expected = lit_gpt.logits(named, tokens_BL, heads=4, groups=2, causal=True)
    torch.testing.assert_close(lm.logits_fn(tokens_BL)[:, 1:], expected[:, :-1], atol=1e-4, rtol=1e-4)


def test_the_head_count_is_that_of_the_named_size(tmp_path):
    named = lit_gpt.weights(layers=6, width=256, inner=1024, heads=4, groups=4, vocab=11, dtype=torch.bfloat16)
    save_file(named, tmp_path / "model.safetensors")
    found = convert("smdm", tmp_path, tmp_path / "out")
    assert found.config.n_head == 4
    assert any("size 6M" in note for note in found.notes)
    assert found.config.rope_precision == "bfloat16"
    assert found.dtypes == ["bfloat16"]
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert stored["model.layers.5.mlp.down_proj.weight"].dtype == torch.bfloat16
    assert torch.equal(stored["model.layers.5.mlp.down_proj.weight"], named["transformer.h.5.mlp.swiglu.w3.weight"])


@pytest.mark.parametrize(
    ("heads", "words"),
    [
        (None, "no named size, .*give --num-heads"),
        (5, "--num-heads 5: does not divide width 48"),
        (16, "even multiple of n_head 16"),
    ],
)
def test_a_head_count_that_is_unknown_or_impossible_is_a_usage_error(heads, words, tmp_path):
    save_file(lit_gpt.weights(**SHAPE, heads=6, groups=3), tmp_path / "model.safetensors")
    with pytest.raises(UsageError, match=words):
        convert("smdm", tmp_path, tmp_path / "out", Options(num_heads=heads))
    assert not (tmp_path / "out").exists()


def test_a_description_beside_the_weights_is_read_and_held_against_them(tmp_path):
    save_file(lit_gpt.weights(**SHAPE, heads=6, groups=3), tmp_path / "lit.safetensors")
    said = {"n_head": 6, "n_query_groups": 3, "block_size": 64, "norm_eps": 1e-6, "rope_cos_sin": "float32"}
    (tmp_path / "lit_config.json").write_text(json.dumps(said))
    config = convert("smdm", tmp_path, tmp_path / "out").config
    assert (config.n_head, config.context_length, config.norm_eps) == (6, 64, 1e-6)
    assert config.rope_precision == "float32"
    with pytest.raises(UsageError, match=r"--num-heads 3: .*lit_config.json says 6: leave it out"):
        convert("smdm", tmp_path, tmp_path / "out", Options(num_heads=3))
    (tmp_path / "lit_config.json").write_text(json.dumps({**said, "n_layer": 3, "n_query_groups": 6}))
    with pytest.raises(UnmaskError, match=r"lit_config.json: contradicts the weights: n_layer 3, where .* have 2"):
        convert("smdm", tmp_path, tmp_path / "out")


def test_what_is_missing_superfluous_or_misshapen_is_named(tmp_path):
    named = lit_gpt.weights(**SHAPE, heads=4, groups=4)
    file = tmp_path / "model.safetensors"

    def refused(changed, words):
        save_file(changed, file)
        with pytest.raises(UnmaskError, match=words):
            convert("smdm", file, tmp_path / "out", Options(num_heads=4))

    lacking = {name: tensor for name, tensor in named.items() if name != "transformer.h.1.attn.proj.weight"}
    refused(lacking, r"lacks transformer\.h\.1\.attn\.proj\.weight")
    refused({**named, "transformer.h.0.lora_A": torch.ones(2)}, r"transformer\.h\.0\.lora_A belongs to no part")
    refused(
        {**named, "transformer.h.1.attn.proj.weight": torch.ones(48, 40)},
        r"transformer\.h\.1\.attn\.proj\.weight is \(48, 40\), where .* asks for \(48, 48\)",
    )
    refused({**named, "transformer.wte.weight": torch.ones(60, 48)}, "60 rows and the head 37")
    gate = next(name for name in named if name.startswith("transformer.h.0.mlp."))
    refused({name: tensor for name, tensor in named.items() if name != gate}, f"no matrix {gate}")
    refused({"bert.weight": torch.ones(2, 2)}, r"no matrix transformer\.wte\.weight")
