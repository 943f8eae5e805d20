"""The network: against Transformers' Llama, against itself without shortcuts, and its loss against the plain one."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from unmask import sizes
from unmask.config import ModelConfig
from unmask.errors import UsageError
from unmask.kv_cache import KVCache, PositionCache
from unmask.llama_names import from_llama, shapes, to_llama
from unmask.loss import weighted_cross_entropy
from unmask.model import Transformer

V = 61


def build(**fields):
    shape = {"n_layer": 3, "n_head": 4, "n_kv_head": 2, "n_embd": 32, "intermediate_size": 48}
    config = ModelConfig(**{**shape, "vocab_size": V, "context_length": 24, "mask_id": V, **fields})
    model = Transformer(config)
    model.init_weights(torch.Generator().manual_seed(1))
    with torch.no_grad():  # larger than the init, so that attention is not uniform; biases and norms of their own
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2))
            parameter.copy_(parameter + 0.2 * noise if parameter.ndim == 1 else 3 * parameter)
    return model


SHAPES = {
    "mdm": {},
    "arm": {"causal": True, "mask_id": None},
    "plain attention": {"n_kv_head": 4},
    "biases and tied": {"qkv_bias": True, "tied_embeddings": True, "causal": True},
    "shifted": {"shifted": True},
    "normed wide heads": {"qk_norm": True, "head_dim": 12, "causal": True},
    "block-causal": {"block_length": 4},
}


def tokens(rows, length, seed=0):
    return torch.randint(V, (rows, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("heads", [1, 2, 4])
def test_logits_equal_those_of_transformers_llama_on_the_same_weights(heads, bias):
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    model = build(causal=True, mask_id=None, n_kv_head=heads, qkv_bias=bias, rope_theta=500.0)
    kind, config = (Qwen2ForCausalLM, Qwen2Config) if bias else (LlamaForCausalLM, LlamaConfig)
    theirs = kind(
        config(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=heads,
            vocab_size=V,
            rms_norm_eps=1e-5,
            rope_parameters={"rope_type": "default", "rope_theta": 500.0},
            tie_word_embeddings=False,
        )
    )
    theirs.load_state_dict(to_llama(model.state_dict(), model.config), strict=True)
    with torch.no_grad():  # against float64 both are off by up to 2.4e-5, which way depends on the processor
        torch.testing.assert_close(model(tokens(2, 13)), theirs.eval()(tokens(2, 13)).logits, atol=1e-4, rtol=1e-5)


def test_logits_equal_those_of_transformers_qwen3_on_the_same_weights():
    from transformers import Qwen3Config, Qwen3ForCausalLM

    model = build(**SHAPES["normed wide heads"], mask_id=None)
    theirs = Qwen3ForCausalLM(
        Qwen3Config(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=12,
            vocab_size=V,
            rms_norm_eps=1e-5,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            tie_word_embeddings=False,
        )
    )
    theirs.load_state_dict(to_llama(model.state_dict(), model.config), strict=True)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens(2, 13)), theirs.eval()(tokens(2, 13)).logits, atol=1e-4, rtol=1e-5)


def test_a_shifted_network_predicts_each_token_from_the_position_before_it():
    plain = build()
    shifted = build(shifted=True)
    with torch.no_grad():
        rows_BLV = plain(tokens(2, 9))
        expected_BLV = torch.cat([rows_BLV[:, :1], rows_BLV[:, :-1]], dim=1)
        assert torch.equal(shifted(tokens(2, 9)), expected_BLV)
        assert torch.equal(shifted(tokens(2, 1)), plain(tokens(2, 1)))


@pytest.mark.parametrize("shape", SHAPES)
def test_names_of_llama_and_back_are_the_same_weights(shape):
    model = build(**SHAPES[shape])
    back = from_llama(to_llama(model.state_dict(), model.config), model.config)
    assert back.keys() == model.state_dict().keys()
    named = to_llama(model.state_dict(), model.config)
    assert {name: tuple(tensor.shape) for name, tensor in named.items()} == shapes(model.config)
    for name, tensor in model.state_dict().items():
        assert torch.equal(back[name], tensor)


def test_a_causal_network_sees_nothing_ahead_and_a_bidirectional_one_everything():
    changed = tokens(1, 12)
    changed[0, 7] = (changed[0, 7] + 1) % V
    with torch.no_grad():
        for shape, first in (("arm", 7), ("mdm", 0)):
            model = build(**SHAPES[shape])
            differs_L = (model(tokens(1, 12)) - model(changed)).abs().amax(dim=2)[0] > 1e-6
            assert differs_L.tolist() == [position >= first for position in range(12)]


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(list(SHAPES)), st.integers(0, 2**20), st.floats(0, 1))
def test_logits_of_selected_positions_equal_those_of_all(shape, seed, share):
    model = build(**SHAPES[shape])
    tokens_BL = tokens(3, 11, seed)
    select_BL = torch.rand(3, 11, generator=torch.Generator().manual_seed(seed)) < share
    with torch.no_grad():
        torch.testing.assert_close(model(tokens_BL, select_BL), model(tokens_BL)[select_BL], atol=2e-5, rtol=1e-4)


def test_a_block_causal_network_sees_its_own_block_and_those_before():
    model = build(block_length=4)
    tokens_BL = tokens(1, 11)
    with torch.no_grad():
        before_LV = model(tokens_BL)[0]
        for changed in range(11):
            other_BL = tokens_BL.clone()
            other_BL[0, changed] = V
            differs_L = (model(other_BL)[0] - before_LV).abs().amax(dim=1) > 1e-4
            assert differs_L.tolist() == [position // 4 >= changed // 4 for position in range(11)]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_beside_clean_tokens_each_block_sees_itself_masked_and_those_before_clean(checkpointing):
    model = build(block_length=4)
    model.activation_checkpointing = checkpointing
    clean_BL = tokens(2, 11)
    masked_BL = torch.rand(2, 11, generator=torch.Generator().manual_seed(3)) < 0.6
    noisy_BL = clean_BL.masked_fill(masked_BL, V)
    found_SV = model(noisy_BL, masked_BL, clean_BL=clean_BL)
    position_L = torch.arange(11)
    for block in range(3):
        own_L = position_L // 4 == block
        with torch.no_grad():
            expected_BLV = model(torch.where(own_L, noisy_BL, clean_BL))
        picked_S = (masked_BL & own_L)[masked_BL]
        torch.testing.assert_close(found_SV[picked_S], expected_BLV[masked_BL & own_L], atol=2e-5, rtol=1e-4)
    targets_BL = clean_BL.masked_fill(~masked_BL, -100)
    loss = model.loss(noisy_BL, targets_BL, torch.ones(2, 11), clean_BL=clean_BL)
    torch.testing.assert_close(loss, F.cross_entropy(found_SV, clean_BL[masked_BL], reduction="sum"))
    with pytest.raises(UsageError, match="for a block-causal network"):
        build()(noisy_BL, masked_BL, clean_BL=clean_BL)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_padded_row_has_the_logits_that_it_has_alone(shape):
    model = build(**SHAPES[shape])
    tokens_BL, lengths = tokens(3, 11), (11, 6, 9)
    for row, length in enumerate(lengths):
        tokens_BL[row, length:] = -1
    present_BL = tokens_BL >= 0
    select_BL = present_BL & (torch.rand(3, 11, generator=torch.Generator().manual_seed(0)) < 0.5)
    with torch.no_grad():
        whole_BLV = model(tokens_BL, present_BL=present_BL)
        selected_SV = model(tokens_BL, select_BL, present_BL=present_BL)
        for row, length in enumerate(lengths):
            alone_LV = model(tokens_BL[row : row + 1, :length])[0]
            torch.testing.assert_close(whole_BLV[row, :length], alone_LV, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(selected_SV, whole_BLV[select_BL], atol=2e-5, rtol=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([name for name in SHAPES if not SHAPES[name].get("causal")]), st.integers(0, 2**20))
def test_recomputing_what_has_changed_and_all_that_sees_it_is_exact(shape, seed):
    model = build(**SHAPES[shape])
    generator = torch.Generator().manual_seed(seed)
    cache = PositionCache(model.config, 4, 12)
    rows_B = torch.tensor([2, 0, 3])
    everything_BL = torch.ones(3, 11, dtype=torch.bool)
    tokens_BL = tokens(3, 11, seed)
    select_BL = torch.rand(3, 11, generator=generator) < 0.4
    with torch.no_grad():
        found_SV = model.recompute(tokens_BL, everything_BL, select_BL, cache.at_rows(rows_B))
        torch.testing.assert_close(found_SV, model(tokens_BL, select_BL), atol=2e-5, rtol=1e-4)
        # nothing has changed: the selected positions alone
        select_BL = torch.rand(3, 11, generator=generator) < 0.4
        found_SV = model.recompute(tokens_BL, select_BL, select_BL, cache.at_rows(rows_B))
        torch.testing.assert_close(found_SV, model(tokens_BL, select_BL), atol=2e-5, rtol=1e-4)
        # the last positions have changed, and for blocks all that sees them comes behind
        tokens_BL[:, 8:] = V
        changed_BL = (torch.arange(11) >= 8).expand(3, 11) if model.config.block_length else everything_BL
        found_SV = model.recompute(tokens_BL, changed_BL | select_BL, select_BL, cache.at_rows(rows_B))
        torch.testing.assert_close(found_SV, model(tokens_BL, select_BL), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5), seed=st.integers(0, 99))
@settings(max_examples=8, deadline=None)
@torch.no_grad()
def test_a_text_that_shares_its_row_has_the_logits_that_it_has_alone(shape, lengths, seed):
    model = build(**SHAPES[shape])
    width = sum(lengths)
    model.rotary_cos_CE, model.rotary_sin_CE = model.rotary_cos_CE.repeat(2, 1), model.rotary_sin_CE.repeat(2, 1)
    model.config = dataclasses.replace(model.config, context_length=48)  # positions begin anew: none is beyond 9
    tokens_BL = tokens(2, width, seed)
    # the other row has other texts, and padding at its end
    lengths_B = (lengths, [*lengths[::-1][:-1], lengths[0]])
    segment_BL = torch.tensor([[n for n, length in enumerate(row) for _ in range(length)] for row in lengths_B])
    segment_BL[1, -lengths[0] :] = -1
    select_BL = torch.rand(2, width, generator=torch.Generator().manual_seed(seed)) < 0.5
    clean_BL = tokens(2, width, seed + 1) if model.config.block_length else None
    together_BLV = model(tokens_BL, segment_BL=segment_BL)
    found_SV = model(tokens_BL, select_BL, segment_BL=segment_BL, clean_BL=clean_BL)
    assert together_BLV.isfinite().all()
    alone = []
    for row, pieces in enumerate(lengths_B):
        start = 0
        for length in pieces:
            part = (slice(row, row + 1), slice(start, start + length))
            torch.testing.assert_close(together_BLV[part], model(tokens_BL[part]), atol=1e-4, rtol=1e-4)
            clean = None if clean_BL is None else clean_BL[part]
            alone.append(model(tokens_BL[part], select_BL[part], clean_BL=clean))
            start += length
    torch.testing.assert_close(found_SV, torch.cat(alone), atol=1e-4, rtol=1e-4)


def test_rows_of_several_texts_take_no_cache():
    model = build(causal=True, mask_id=None)
    with pytest.raises(UsageError, match="a cache: for rows of one text each"):
        model(tokens(1, 4), cache=KVCache(model.config, 1, 8), segment_BL=torch.zeros(1, 4, dtype=torch.int64))


@pytest.mark.parametrize("pieces", [[12], [1] * 12, [5, 1, 4, 2]])
@pytest.mark.parametrize("shape", ["arm", "biases and tied", "normed wide heads"])
def test_a_cache_of_keys_and_values_changes_nothing(shape, pieces):
    model = build(**SHAPES[shape])
    tokens_BL = tokens(3, 12)
    cache = KVCache(model.config, 3, 12)
    logits, selected = [], []
    with torch.no_grad():
        for piece_BL in tokens_BL.split(pieces, dim=1):
            logits.append(model(piece_BL, None, cache))
        cache = KVCache(model.config, 3, 12)
        for piece_BL in tokens_BL.split(pieces, dim=1):
            last_BL = torch.zeros_like(piece_BL, dtype=torch.bool)
            last_BL[:, -1] = True
            selected.append(model(piece_BL, last_BL, cache))
        expected_BLV = model(tokens_BL)
    torch.testing.assert_close(torch.cat(logits, dim=1), expected_BLV, atol=2e-5, rtol=1e-4)
    ends = torch.tensor(pieces).cumsum(0) - 1
    torch.testing.assert_close(torch.stack(selected, dim=1), expected_BLV[:, ends], atol=2e-5, rtol=1e-4)
    assert cache.length == 12


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_the_loss_without_full_logits_equals_the_plain_one_in_value_and_gradients(shape, share, checkpointing):
    model = build(**SHAPES[shape])
    tokens_BL, generator = tokens(4, 9), torch.Generator().manual_seed(5)
    scored_BL = torch.rand(4, 9, generator=generator) < share
    weights_BL = 3 * torch.rand(4, 9, generator=generator) * scored_BL
    targets_BL = tokens(4, 9, seed=1).masked_fill(~scored_BL, -100)

    model.activation_checkpointing = checkpointing
    ours = model.loss(tokens_BL, targets_BL, weights_BL)
    (0.3 * ours).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    model.activation_checkpointing = False
    losses = F.cross_entropy(model(tokens_BL).flatten(0, 1), targets_BL.flatten(), reduction="none", ignore_index=-100)
    plain = (weights_BL.flatten() * losses).sum()
    (0.3 * plain).backward()

    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, atol=2e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_the_chunks_of_the_loss_change_nothing(chunk):
    generator = torch.Generator().manual_seed(0)
    hidden_ND = torch.randn(7, 5, generator=generator, requires_grad=True)
    head_VD = torch.randn(V, 5, generator=generator, requires_grad=True)
    targets_N, weights_N = torch.arange(7), torch.rand(7, generator=generator)
    loss = weighted_cross_entropy(hidden_ND, head_VD, targets_N, weights_N, chunk=chunk)
    grads = torch.autograd.grad(loss, [hidden_ND, head_VD])
    plain = (weights_N * F.cross_entropy(hidden_ND @ head_VD.T, targets_N, reduction="none")).sum()
    for found, expected in zip([loss, *grads], [plain, *torch.autograd.grad(plain, [hidden_ND, head_VD])], strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_the_loss_of_a_target_that_is_all_but_impossible_is_exact():
    hidden_ND, head_VD = torch.tensor([[1.0]]), torch.tensor([[0.0], [900.0], [899.0]])
    loss = weighted_cross_entropy(hidden_ND, head_VD, torch.tensor([0]), torch.ones(1))
    assert loss.item() == pytest.approx(900 + math.log1p(math.exp(-1)), rel=1e-6)


def test_autocast_computes_products_in_bfloat16_and_the_loss_in_float32():
    model = build()
    tokens_BL = tokens(4, 9)
    weights_BL = torch.ones(4, 9)
    exact = model.loss(tokens_BL, tokens_BL, weights_BL)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model.loss(tokens_BL, tokens_BL, weights_BL)
    rough.backward()
    assert rough.dtype == torch.float32
    assert rough.item() == pytest.approx(exact.item(), rel=0.05)
    assert rough.item() != exact.item()
    assert all(parameter.grad.dtype == torch.float32 for parameter in model.parameters())


def test_init_is_the_papers():
    config = ModelConfig.of_size("6M", vocab_size=500, context_length=16, mask_id=500)
    model = Transformer(config)
    model.init_weights(torch.Generator().manual_seed(0))
    again = Transformer(config)
    again.init_weights(torch.Generator().manual_seed(0))
    for (name, parameter), twin in zip(model.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(parameter, twin)
        if parameter.ndim == 1:
            assert parameter.eq(1).all()
            continue
        std = 1 / (16 * 6) if name.endswith(("attention.out.weight", "mlp.down.weight")) else math.sqrt(2 / (5 * 256))
        assert parameter.std().item() == pytest.approx(std, rel=0.02)
        assert abs(parameter.mean().item()) < 4 * std / math.sqrt(parameter.numel())


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"n_kv_head": 1},
        {"qkv_bias": True},
        {"tied_embeddings": True},
        {"qk_norm": True, "head_dim": 10, "qkv_bias": True},
    ],
)
def test_parameters_are_as_many_as_the_formula_says(fields):
    model = build(**fields)
    outside = model.embedding.weight.numel() + (0 if model.head is None else model.head.weight.numel())
    assert sum(p.numel() for p in model.parameters()) - outside == sizes.non_embedding_params(model.config)


def test_too_many_tokens_and_a_cache_for_a_bidirectional_network_are_refused():
    with pytest.raises(UsageError, match="25 tokens: more than the context of 24"):
        build()(tokens(1, 25))
    arm = build(causal=True)
    cache = KVCache(arm.config, 1, 5)
    with torch.no_grad():
        arm(tokens(1, 4), None, cache)
        with pytest.raises(UsageError, match="6 tokens: more than the context of 5"):
            arm(tokens(1, 2), None, cache)
    with pytest.raises(UsageError, match="needs a causal network"):
        build()(tokens(1, 2), None, KVCache(arm.config, 1, 5))


def test_rotary_tables_are_rounded_where_the_config_says_so():
    exact, rounded = build(), build(rope_precision="bfloat16")
    assert torch.equal(rounded.rotary_cos_CE, exact.rotary_cos_CE.bfloat16().float())
    assert not torch.equal(rounded.rotary_cos_CE, exact.rotary_cos_CE)
