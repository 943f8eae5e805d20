"""Converted checkpoints, samplers, estimators and guidance against what other implementations recorded for them."""

import functools
import json
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import unmask
from unmask import convert, likelihood
from unmask.guidance import classifier_free
from unmask.network_logits import CausalLogits, MaskedLogits
from unmask.samplers import autoregressive, confidence

REFERENCE = Path(__file__).parents[2] / "shared" / "reference"

pytestmark = pytest.mark.skipif(not REFERENCE.is_dir(), reason="the recorded reference outputs are not there")


@functools.cache
def converted(kind, name, rope_precision=None):
    """The language model that the checkpoint `name` of this kind becomes."""
    with tempfile.TemporaryDirectory() as out:
        convert.convert(kind, REFERENCE / name, out, convert.Options(rope_precision=rope_precision))
        return unmask.load(out, "cpu")


def released(name, rope_precision=None):
    """The network of the SMDM checkpoint `name`, its recorded case, and its description."""
    folder = REFERENCE / "smdm_checkpoints" / name
    meta = json.loads((folder / "meta.json").read_text())
    lm = converted("smdm", f"smdm_checkpoints/{name}", rope_precision or meta["rope_cos_sin"])
    return lm.model, load_file(folder / "case.safetensors"), meta


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("smdm", "smdm_checkpoints/mdm_mha"),
        ("smdm", "smdm_checkpoints/mdm_mha_bf16_rope"),
        ("llada", "llada_checkpoint"),
        ("dream", "dream_checkpoint"),
    ],
)
def test_logits_of_converted_masked_networks(kind, name):
    lm = converted(kind, name)
    case = load_file(REFERENCE / name / "case.safetensors")
    tokens_BL, expected_BLV = case["input_ids"], case["logits"]
    torch.testing.assert_close(lm.logits_fn(tokens_BL), expected_BLV, atol=1e-4, rtol=0)
    masked_BL = tokens_BL == lm.mask_id
    assert masked_BL.any()
    assert not masked_BL.all()
    for select_BL in (masked_BL, ~masked_BL):
        torch.testing.assert_close(lm.logits_fn(tokens_BL, select_BL), expected_BLV[select_BL], atol=1e-4, rtol=0)


def test_logits_of_the_converted_autoregressive_network():
    model, case, _ = released("arm_mha")
    logits_fn, tokens_BL, expected_BLV = CausalLogits(model, None), case["input_ids"], case["logits"]
    with torch.no_grad():
        torch.testing.assert_close(model(tokens_BL), expected_BLV, atol=1e-4, rtol=0)
    for length in (1, 2, 13, 48):
        logits_BLV = logits_fn(tokens_BL[:, :length])
        torch.testing.assert_close(logits_BLV[:, 1:], expected_BLV[:, : length - 1], atol=1e-4, rtol=0)


def test_rounding_the_rotary_tables_is_what_tells_the_two_masked_networks_apart():
    rounded, case, _ = released("mdm_mha_bf16_rope")
    exact, _, _ = released("mdm_mha_bf16_rope", rope_precision="float32")
    with torch.no_grad():
        assert (exact(case["input_ids"]) - case["logits"]).abs().max() > 1e-3
        assert (rounded(case["input_ids"]) - case["logits"]).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["mdm_mha", "mdm_mha_bf16_rope"])
@pytest.mark.parametrize("weight", [0.0, 0.8])
def test_greedy_decoding_with_the_released_schedule(name, weight):
    model, case, meta = released(name)
    recorded_BL = case[f"greedy_10_steps_w{weight}"]
    prompt_BL = torch.arange(48).expand(2, 48) < 12
    tokens_BL = torch.full((2, 48), meta["mask_id"])
    tokens_BL[prompt_BL] = case["target_ids"][:2][prompt_BL]
    sampled = confidence(
        classifier_free(MaskedLogits(model), prompt_BL, weight, meta["mask_id"]),
        tokens_BL,
        mask_id=meta["mask_id"],
        steps=10,
        schedule="released",
        generator=torch.Generator(),
    )
    assert torch.equal(sampled.tokens_BL, recorded_BL)
    assert sampled.network_calls_B.tolist() == [20 if weight else 10] * 2


@pytest.mark.parametrize("name", ["mdm_mha", "mdm_mha_bf16_rope"])
@pytest.mark.parametrize("weight", [0.0, 0.5, 1.6])
def test_chain_rule_likelihood_under_guidance(name, weight):
    model, _, meta = released(name)
    tokens_L = torch.tensor(meta["prefix_ids"] + meta["continuation_ids"])
    scored_L = torch.arange(len(tokens_L)) >= len(meta["prefix_ids"])
    logits_fn = classifier_free(MaskedLogits(model), ~scored_L[None], weight, meta["mask_id"])
    estimate = likelihood.chain_rule(logits_fn, tokens_L, scored_L, mask_id=meta["mask_id"])
    assert -estimate.log_likelihood == pytest.approx(meta[f"chain_rule_nll_w{weight}"], abs=1e-3)


def test_greedy_continuation_of_the_autoregressive_network():
    # its logits were recorded with float32 rotary tables, but its generation with bfloat16 ones
    model, case, meta = released("arm_mha", rope_precision="bfloat16")
    recorded_L = case["greedy_continuation"][0]
    # the recorded row has no beginning of text: its first token stands there
    tokens_BL = torch.full((1, 47), meta["vocab_size"])
    tokens_BL[0, :11] = case["input_ids"][0, 1:12]
    logits_fn = CausalLogits(model, bos_id=int(recorded_L[0]))
    for fn in (logits_fn, lambda tokens, select=None: logits_fn(tokens, select)):  # with the cache and without
        sampled = autoregressive(
            fn, tokens_BL, mask_id=meta["vocab_size"], temperature=0.0, generator=torch.Generator()
        )
        assert torch.equal(sampled.tokens_BL[0], recorded_L[1:])
