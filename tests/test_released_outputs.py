"""Samplers, estimators and guidance against what the paper's released code gave for its own networks."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from unmask import likelihood
from unmask.config import ModelConfig
from unmask.guidance import classifier_free
from unmask.llama_names import from_llama
from unmask.model import Transformer
from unmask.network_logits import CausalLogits, MaskedLogits
from unmask.samplers import autoregressive, confidence

REFERENCE = Path(__file__).parents[2] / "shared" / "reference" / "smdm_checkpoints"

pytestmark = pytest.mark.skipif(not REFERENCE.is_dir(), reason="the recorded reference outputs are not there")


def released(name, rope_precision=None):
    """The network `name`, its recorded case, and its description."""
    meta = json.loads((REFERENCE / name / "meta.json").read_text())
    groups, head_dim = meta["n_query_groups"], meta["n_embd"] // meta["n_head"]
    queries = meta["n_head"] // groups * head_dim
    weights = load_file(REFERENCE / name / "model.safetensors")
    llama = {
        "model.embed_tokens.weight": weights["transformer.wte.weight"],
        "model.norm.weight": weights["transformer.ln_f.weight"],
        "lm_head.weight": weights["lm_head.weight"],
    }
    for layer in range(meta["n_layer"]):
        theirs, ours = f"transformer.h.{layer}", f"model.layers.{layer}"
        fused = weights[f"{theirs}.attn.attn.weight"].view(groups, -1, meta["n_embd"])
        parts = fused.split([queries, head_dim, head_dim], dim=1)
        for letter, part in zip("qkv", parts, strict=True):
            llama[f"{ours}.self_attn.{letter}_proj.weight"] = part.reshape(-1, meta["n_embd"])
        for new, old in (
            ("self_attn.o_proj", "attn.proj"),
            ("mlp.gate_proj", "mlp.swiglu.w1"),
            ("mlp.up_proj", "mlp.swiglu.w2"),
            ("mlp.down_proj", "mlp.swiglu.w3"),
            ("input_layernorm", "norm_1"),
            ("post_attention_layernorm", "norm_2"),
        ):
            llama[f"{ours}.{new}.weight"] = weights[f"{theirs}.{old}.weight"]
    config = ModelConfig(
        n_layer=meta["n_layer"],
        n_head=meta["n_head"],
        n_kv_head=groups,
        n_embd=meta["n_embd"],
        intermediate_size=meta["intermediate_size"],
        vocab_size=meta["vocab_size"],
        context_length=meta["block_size"],
        mask_id=meta["mask_id"],
        causal=meta["kind"] == "arm",
        rope_precision=rope_precision or meta["rope_cos_sin"],
        norm_eps=meta["norm_eps"],
    )
    model = Transformer(config)
    model.load_state_dict(from_llama(llama, config))
    return model.eval(), load_file(REFERENCE / name / "case.safetensors"), meta


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
