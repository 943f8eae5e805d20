import dataclasses
import math
import shutil

import pytest
import torch

import unmask
from unmask import generation as generating
from unmask import model_directory, seeding
from unmask.config import ModelConfig
from unmask.data import tokenizer as tokenizers
from unmask.errors import UnmaskError, UsageError
from unmask.generation import Cache
from unmask.language_model import LanguageModel
from unmask.model import Transformer
from unmask.network_logits import CausalLogits
from unmask.samplers import autoregressive

WORDS = ["The cat sat on the mat, and the dog sat beside the cat. Überall größere Bäume."] * 20


def build(causal, tokenizer, context=48, **fields):
    config = ModelConfig(
        n_layer=2,
        n_head=2,
        n_kv_head=1,
        n_embd=32,
        intermediate_size=64,
        vocab_size=tokenizer.vocab_size,
        context_length=context,
        mask_id=None if causal else tokenizer.mask_id,
        causal=causal,
        **fields,
    )
    model = Transformer(config)
    model.init_weights(seeding.generator(0, "init"))
    with torch.no_grad():  # the paper's init is nearly uniform; make the toy opinionated
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(2.5)
    return LanguageModel(model, tokenizer, "arm" if causal else "mdm")


@pytest.fixture(scope="module")
def bpe():
    return tokenizers.train_bpe(iter(WORDS), 330)


@pytest.fixture(scope="module")
def mdm(bpe):
    return build(False, bpe)


@pytest.fixture(scope="module")
def arm(bpe):
    return build(True, bpe)


def same(one, other):
    """Equal but for the wall time."""
    return {**one.to_dict(), "seconds": 0} == {**other.to_dict(), "seconds": 0}


@pytest.mark.parametrize("kind", ["mdm", "arm"])
def test_a_saved_model_is_the_same_when_loaded(kind, request, tmp_path):
    lm = request.getfixturevalue(kind)
    lm.save(tmp_path / "model")
    for path in (tmp_path / "model", str(tmp_path)):  # the model directory, and the run directory that holds it
        loaded = unmask.load(path, device="cpu")
        assert (loaded.objective, loaded.config) == (lm.objective, lm.config)
        tokens_BL = torch.randint(256, (2, 9), generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(loaded.logits_fn(tokens_BL), lm.logits_fn(tokens_BL), rtol=0, atol=0)
        assert same(loaded.generate("The cat", max_new_tokens=5), lm.generate("The cat", max_new_tokens=5))
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_a_model_in_bfloat16_generates_with_its_cache_and_without(arm, tmp_path):
    arm.save(tmp_path)
    rough = unmask.load(tmp_path, device="cpu", dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in rough.model.parameters()} == {torch.bfloat16}
    assert len(rough.generate("The cat", max_new_tokens=5).tokens) == len(arm.tokenizer.encode("The cat")) + 5
    rough.save(tmp_path / "rough")
    assert model_directory.read(tmp_path / "rough").weights["lm_head.weight"].dtype == torch.bfloat16
    assert unmask.load(tmp_path / "rough", device="cpu").model.embedding.weight.dtype == torch.float32


@pytest.mark.parametrize("kind", ["mdm", "arm"])
def test_ids_without_a_token_are_never_drawn(kind, request):
    lm = request.getfixturevalue(kind)
    padded = 12
    masks = lm.config.mask_id is not None  # the mask token lies inside the larger vocabulary
    config = dataclasses.replace(lm.config, vocab_size=lm.config.vocab_size + padded + masks, padded_rows=padded)
    model = Transformer(config)
    model.init_weights(seeding.generator(0, "init"))
    with torch.no_grad():  # the padding is what such a head would draw
        model.head.weight[-padded:] = 100 * model.norm.weight.sign()
    padded_lm = LanguageModel(model, lm.tokenizer, lm.objective)
    for seed in range(3):
        generated = padded_lm.generate("The cat", max_new_tokens=8, seed=seed)
        assert max(generated.tokens) <= lm.tokenizer.vocab_size


def test_weights_on_disk_have_the_names_that_llama_has(mdm, tmp_path):
    mdm.save(tmp_path)
    weights = model_directory.read(tmp_path).weights
    assert weights["model.embed_tokens.weight"].shape == (mdm.config.embedding_rows, 32)
    assert weights["model.layers.1.self_attn.q_proj.weight"].shape == (32, 32)
    assert weights["model.layers.1.self_attn.k_proj.weight"].shape == (16, 32)
    assert weights["model.layers.0.mlp.gate_proj.weight"].shape == (64, 32)
    assert weights["lm_head.weight"].shape == (mdm.config.vocab_size, 32)


def test_masked_logits_are_the_networks_own_rows(mdm):
    tokens_BL = torch.randint(300, (2, 7), generator=torch.Generator().manual_seed(0))
    select_BL = tokens_BL % 2 == 0
    with torch.no_grad():
        logits_BLV = mdm.model(tokens_BL)
    torch.testing.assert_close(mdm.logits_fn(tokens_BL), logits_BLV)
    torch.testing.assert_close(mdm.logits_fn(tokens_BL, select_BL), logits_BLV[select_BL], atol=1e-5, rtol=1e-5)


def test_row_i_of_an_arm_predicts_token_i_from_those_before_it(arm):
    bos = arm.tokenizer.bos_id
    tokens_BL = torch.randint(300, (2, 7), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        inputs_BL = torch.cat([torch.full((2, 1), bos), tokens_BL[:, :-1]], dim=1)
        expected_BLV = arm.model(inputs_BL)
    torch.testing.assert_close(arm.logits_fn(tokens_BL), expected_BLV)
    changed_BL = tokens_BL.clone()
    changed_BL[:, 4] = arm.mask_id  # a position to be filled: no embedding, and no influence on rows up to its own
    changed_BLV = arm.logits_fn(changed_BL)
    torch.testing.assert_close(changed_BLV[:, :5], expected_BLV[:, :5])
    assert not torch.allclose(changed_BLV[:, 5], expected_BLV[:, 5])
    select_BL = torch.arange(7).expand(2, 7) == 6
    torch.testing.assert_close(arm.logits_fn(tokens_BL, select_BL), expected_BLV[:, 6], atol=1e-5, rtol=1e-5)


def test_an_arm_without_a_beginning_of_text_token_starts_uniform(arm):
    logits_fn = CausalLogits(arm.model, None)
    tokens_BL = torch.randint(300, (2, 7), generator=torch.Generator().manual_seed(0))
    logits_BLV = logits_fn(tokens_BL)
    assert logits_BLV[:, 0].eq(0).all()
    with torch.no_grad():
        torch.testing.assert_close(logits_BLV[:, 1:], arm.model(tokens_BL)[:, :-1], atol=1e-5, rtol=1e-5)
    assert logits_fn(tokens_BL[:, :1]).eq(0).all()
    select_BL = torch.arange(7).expand(2, 7) % 3 == 0
    torch.testing.assert_close(logits_fn(tokens_BL, select_BL), logits_BLV[select_BL])


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_generation_with_a_cache_equals_generation_without(arm, bos, temperature):
    cached = CausalLogits(arm.model, arm.tokenizer.bos_id if bos else None)
    tokens_BL = torch.randint(300, (3, 20), generator=torch.Generator().manual_seed(0))
    tokens_BL[0, 3:] = arm.mask_id
    tokens_BL[1, :] = arm.mask_id
    tokens_BL[2, [5, 9, 10, 19]] = arm.mask_id

    def run(logits_fn):
        generators = [seeding.generator(1, "test", row) for row in range(3)]
        return autoregressive(logits_fn, tokens_BL, mask_id=arm.mask_id, temperature=temperature, generator=generators)

    fast, plain = run(cached), run(lambda tokens, select=None: cached(tokens, select))
    assert torch.equal(fast.tokens_BL, plain.tokens_BL)
    assert torch.equal(fast.network_calls_B, plain.network_calls_B)


SAMPLED = [
    ("mdm", {"sampler": "confidence", "steps": 6}),
    ("mdm", {"sampler": "ancestral", "steps": 6, "guidance": 0.5}),
    ("mdm", {"sampler": "autoregressive", "top_k": 5}),
    ("arm", {"top_p": 0.9}),
]


@pytest.mark.parametrize(("kind", "options"), SAMPLED)
def test_several_prompts_give_what_each_gives_alone(kind, options, request):
    lm = request.getfixturevalue(kind)
    prompts = ["The cat", "", "The dog sat", "The mat", "on", "The cat"]
    seeds = [0, 1, 2, 3, 4, 5]
    options = {"max_new_tokens": 12, **options}
    together = lm.generate(prompts, seed=seeds, **options)
    for batch_size in (1, 2):
        for one, other in zip(
            together, lm.generate(prompts, seed=seeds, batch_size=batch_size, **options), strict=True
        ):
            assert same(one, other)
    for prompt, seed, generation in zip(prompts, seeds, together, strict=True):
        alone = lm.generate(prompt, seed=seed, **options)
        assert same(alone, generation)
        assert alone.text.startswith(prompt)
        assert alone.text == prompt + alone.fills[0]
        assert alone.seconds > 0
    assert together[0].tokens != together[5].tokens  # another seed


@pytest.mark.parametrize("kind", ["mdm", "arm"])
def test_an_empty_prompt_is_a_text_from_its_beginning_and_no_prompts_are_no_texts(kind, request):
    lm = request.getfixturevalue(kind)
    generation = lm.generate("", max_new_tokens=9, seed=1)
    assert generation.text == generation.fills[0]
    assert len(generation.tokens) == 9
    assert min(generation.reveal_steps) == 0
    assert same(lm.generate([[]], max_new_tokens=9, seed=1)[0], generation)
    assert lm.generate([], max_new_tokens=9) == []


@pytest.mark.parametrize(("kind", "options"), SAMPLED)
def test_one_seed_gives_one_result(kind, options, request):
    lm = request.getfixturevalue(kind)
    first, again, other = (lm.generate("The", max_new_tokens=12, seed=seed, **options) for seed in (3, 3, 4))
    assert same(first, again)
    assert first.tokens != other.tokens


def test_a_generation_tells_its_steps_and_calls(mdm, arm):
    generation = mdm.generate("The cat", max_new_tokens=10, sampler="confidence", steps=5, seed=0)
    given = len(mdm.tokenizer.encode("The cat"))
    assert generation.reveal_steps[:given] == [-1] * given
    assert sorted(generation.reveal_steps[given:]) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert generation.network_calls == 5
    guided = mdm.generate("The cat", max_new_tokens=10, sampler="confidence", steps=5, guidance=0.5, seed=0)
    assert guided.network_calls == 10
    # without a prompt there is nothing to be guided towards, and nothing to pay
    assert mdm.generate("", max_new_tokens=10, sampler="confidence", steps=5, guidance=0.5).network_calls == 5
    alone = arm.generate("The cat", max_new_tokens=10, seed=0)
    assert alone.sampler == "autoregressive"
    assert alone.network_calls <= 10


def test_text_ends_at_the_end_of_text_token(mdm, arm, monkeypatch):
    eos = mdm.tokenizer.eos_id
    (letter,) = mdm.tokenizer.encode("x")

    def ends_at_position_four(tokens_BL, select_BL=None):
        logits_BLV = torch.zeros(*tokens_BL.shape, mdm.config.vocab_size)
        logits_BLV[..., letter] = 50.0
        logits_BLV[:, 4:, eos] = 100.0
        return logits_BLV if select_BL is None else logits_BLV[select_BL]

    monkeypatch.setattr(LanguageModel, "logits_fn", property(lambda self: ends_at_position_four))
    generation = mdm.generate("of", max_new_tokens=8)
    given = len(mdm.tokenizer.encode("of"))
    assert generation.fills == ["x" * (4 - given)]
    assert generation.text == "of" + "x" * (4 - given)
    assert len(generation.tokens) == given + 8
    assert generation.network_calls == 8
    # an ARM computes nothing past it
    assert arm.generate("of", max_new_tokens=8).network_calls == 5 - given
    assert arm.generate("of", max_new_tokens=8).text == generation.text


def test_infilling_keeps_the_given_text(mdm):
    generation = mdm.infill("The _ sat on the __, and _[3] dog.", seed=1, steps=3)
    start, middle, end = "The", " sat on the", ", and"
    cat, mat, three = generation.fills
    assert generation.text == f"{start}{cat}{middle}{mat}{end}{three} dog."
    assert sum(step >= 0 for step in generation.reveal_steps) == 6
    assert generation.network_calls == 3
    assert same(generation, mdm.infill("The _ sat on the __, and _[3] dog.", seed=1, steps=3))
    guided = mdm.infill("The _ sat.", guidance=1.0)
    assert guided.network_calls == 2


REQUESTS = [
    ("The cat", " sat on"),
    ("The dog sat beside", " the"),
    ("", "The cat"),
    ("The cat sat on the mat, and the dog ", "sat beside the cat."),
    ("The cat", " sat on"),
    ("The mat", " the dog sat"),
]


@pytest.mark.parametrize("guidance", [0.0, 0.6])
@pytest.mark.parametrize("estimator", ["auto", "stratified", "mc", "chain"])
def test_many_requests_score_as_each_does_alone(mdm, estimator, guidance):
    options = {"estimator": estimator, "num_samples": 20, "guidance": guidance, "seed": 3}
    together = mdm.score_many(REQUESTS, **options)
    for batch_size in (1, 7):
        for one, other in zip(together, mdm.score_many(REQUESTS, batch_size=batch_size, **options), strict=True):
            assert vars(one) == pytest.approx(vars(other), abs=1e-4, nan_ok=True)
    for request, estimate in zip(REQUESTS, together, strict=True):
        alone = mdm.score(*request, **options)
        assert vars(alone) == pytest.approx(vars(estimate), abs=1e-4, nan_ok=True)
    assert vars(together[0]) == vars(together[4])


def test_the_score_of_an_arm_is_the_sum_of_its_log_probabilities(arm):
    tokens = arm.tokenizer.encode("The cat sat on")
    given = len(arm.tokenizer.encode("The cat"))
    logits_BLV = arm.logits_fn(torch.tensor([tokens]))
    logp_L = logits_BLV[0].log_softmax(-1).gather(1, torch.tensor(tokens)[:, None])[:, 0]
    for estimator in ("auto", "exact", "chain"):
        estimate = arm.score("The cat", " sat on", estimator=estimator)
        assert estimate.log_likelihood == pytest.approx(logp_L[given:].sum().item(), abs=1e-4)
        assert (estimate.network_calls, estimate.standard_error, estimate.exact) == (1, 0, True)
    # the chain rule holds for texts: a space at the end of the prompt belongs to the continuation
    assert arm.score("The cat ", "sat on").log_likelihood == pytest.approx(logp_L[given:].sum().item(), abs=1e-4)
    whole, first = arm.score("", "The cat sat on"), arm.score("", "The cat")
    second = arm.score("The cat", " sat on")
    assert whole.log_likelihood == pytest.approx(first.log_likelihood + second.log_likelihood, abs=1e-4)


def test_the_score_of_an_mdm_is_the_bound(mdm):
    exact = mdm.score("The cat", " sat on", estimator="exact")
    tokens = torch.tensor(mdm.tokenizer.encode("The cat sat on"))
    scored_L = torch.arange(len(tokens)) >= len(mdm.tokenizer.encode("The cat"))
    expected = unmask.likelihood.bound(mdm.logits_fn, tokens, scored_L, mask_id=mdm.mask_id, estimator="exact")
    assert exact == expected
    assert exact.network_calls == 2 ** int(scored_L.sum()) - 1
    sampled = mdm.score("The cat", " sat on", estimator="stratified", num_samples=6)
    assert not sampled.exact or sampled.network_calls == exact.network_calls
    assert math.isfinite(sampled.log_likelihood)


@pytest.mark.parametrize("text", ["The cat", "Überall größere Bäume 🌳.", "", "é"])
def test_pieces_join_to_the_text(text):
    tokenizer = tokenizers.byte_level()
    lm = build(False, tokenizer)
    tokens = tokenizer.encode(text)
    pieces = lm.pieces(tokens)
    assert len(pieces) == len(tokens)
    assert "".join(pieces) == text
    masked = [tokenizer.mask_id, *tokens, tokenizer.mask_id]
    assert "".join(lm.pieces(masked)) == text
    broken = lm.pieces(tokenizer.encode("ä")[:1])
    assert broken == ["\ufffd"]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda lm: lm.generate("x", max_new_tokens=8, sampler="confidnce"), "did you mean 'confidence'"),
        (lambda lm: lm.generate("x", max_new_tokens=0), "max_new_tokens 0"),
        (lambda lm: lm.generate("x", max_new_tokens=8, steps=0), "steps 0"),
        (lambda lm: lm.generate("x", max_new_tokens=8, temperature=-1.0), "temperature -1.0"),
        (lambda lm: lm.generate("x", max_new_tokens=8, guidance=-1.0), "guidance -1.0"),
        (lambda lm: lm.generate("x", max_new_tokens=8, batch_size=0), "batch_size 0"),
        (lambda lm: lm.generate("x", max_new_tokens=8, schedul="even"), "option 'schedul': did you mean 'schedule'"),
        (lambda lm: lm.generate(["x", "y"], max_new_tokens=8, seed=[0]), "1 seeds for 2 prompts"),
        (lambda lm: lm.generate("x" * 60, max_new_tokens=1), "more than the context of 48"),
        (lambda lm: lm.generate("x", max_new_tokens=48), "more than the context of 48"),
        (lambda lm: lm.infill("x _[60]"), "more than the context of 48"),
        (lambda lm: lm.infill("no blank"), "has no blank"),
        (lambda lm: lm.score("x", ""), "has no tokens"),
        (lambda lm: lm.score("x" * 60, "y"), "more than the context of 48"),
        (lambda lm: lm.score("x", "y", estimator="stratfied"), "did you mean 'stratified'"),
        (lambda lm: lm.score("x", "y", num_samples=0), "num_samples 0"),
    ],
)
def test_wrong_arguments_are_named(mdm, call, words):
    with pytest.raises(UsageError, match=words):
        call(mdm)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda lm: lm.infill("The _ sat."), "no mask token"),
        (lambda lm: lm.generate("x", max_new_tokens=8, sampler="ancestral"), "needs a mask token"),
        (lambda lm: lm.generate("x", max_new_tokens=8, guidance=0.5), "guidance 0.5: needs a mask token"),
        (lambda lm: lm.score("x", "y", guidance=0.5), "guidance 0.5: needs a mask token"),
        (lambda lm: lm.score("x", "y", estimator="mc"), "likelihood is exact"),
    ],
)
def test_an_arm_refuses_what_needs_masks(arm, call, words):
    with pytest.raises(UsageError, match=words):
        call(arm)


@pytest.fixture
def saved(mdm, tmp_path):
    mdm.save(tmp_path / "saved")
    return tmp_path / "saved"


def test_paths_without_a_model_are_usage_errors(tmp_path):
    with pytest.raises(UsageError, match="no such directory"):
        unmask.load(tmp_path / "absent")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="not a directory"):
        unmask.load(tmp_path / "file")
    with pytest.raises(UsageError, match="not a model directory"):
        unmask.load(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(UsageError, match="no model yet"):
        unmask.load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "metrics.jsonl").unlink()
    with pytest.raises(UsageError, match="'llama' model"):
        unmask.load(tmp_path)


def test_truncated_weights_are_named(saved):
    weights = saved / "model.safetensors"
    whole = weights.read_bytes()
    for kept in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        weights.write_bytes(whole[:kept])
        with pytest.raises(UnmaskError, match=r"model\.safetensors: damaged or cut short"):
            unmask.load(saved)
    weights.unlink()
    with pytest.raises(UnmaskError, match=r"model\.safetensors: no such file"):
        unmask.load(saved)


def test_weights_of_another_shape_are_named(saved):
    config = saved / "config.json"
    text = config.read_text()
    config.write_text(text.replace('"intermediate_size": 64', '"intermediate_size": 96'))
    with pytest.raises(UnmaskError, match=r"model\.safetensors: .*gate_proj.* is \(64, 32\), and .* \(96, 32\)"):
        unmask.load(saved)
    config.write_text(text.replace('"n_layer": 2', '"n_layer": 3'))
    with pytest.raises(UnmaskError, match=r"lacks model\.layers\.2"):
        unmask.load(saved)
    config.write_text(text.replace('"n_layer": 2', '"n_layer": 1'))
    with pytest.raises(UnmaskError, match=r"model\.layers\.1.* belongs to no part"):
        unmask.load(saved)


def test_a_tokenizer_that_does_not_match_is_named(saved, mdm):
    tokenizers.train_bpe(iter(WORDS), 290).save(saved)
    with pytest.raises(UnmaskError, match=f"predicts {mdm.config.vocab_size} tokens and its tokenizer has 290"):
        unmask.load(saved)
    (saved / "tokenizer.json").unlink()
    with pytest.raises(UnmaskError, match=r"no tokenizer\.json"):
        unmask.load(saved)


def test_a_damaged_config_is_named(saved):
    config = saved / "config.json"
    text = config.read_text()
    for damaged, words in (
        (text[: len(text) // 2], "not JSON"),
        (text.replace('"objective": "mdm",', ""), "names no objective"),
        (text.replace('"n_head"', '"n_heads"'), "unknown field 'n_heads'"),
    ):
        config.write_text(damaged)
        with pytest.raises(UnmaskError, match=words):
            unmask.load(saved)


def test_saving_over_a_model_replaces_it_whole(saved, arm):
    arm.save(saved)
    assert unmask.load(saved).objective == "arm"
    shutil.rmtree(saved)


# caches, lengths, and prompts of different lengths together


@pytest.fixture(scope="module")
def blocks(bpe):
    return build(False, bpe, block_length=4)


def test_a_block_causal_model_writes_block_after_block_with_an_exact_cache(blocks, monkeypatch):
    prompts = ["The cat", "", "The dog sat beside the mat and"]
    options = {"max_new_tokens": 13, "steps": 8, "inner": "ancestral", "seed": 2}
    found = blocks.generate(prompts, **options)
    for prompt, one in zip(prompts, found, strict=True):
        assert one.sampler == "block"
        assert one.text.startswith(prompt)
        assert one.cache.drift == 0
        assert one.cache.computed_share < 0.8
        alone = blocks.generate(prompt, **options)
        assert (alone.tokens, alone.reveal_steps, alone.network_calls) == (
            one.tokens,
            one.reveal_steps,
            one.network_calls,
        )
    # without the cache
    monkeypatch.setattr(generating, "_with_cache", lambda model, logits_fn, tokens_BL, cache: (logits_fn, lambda: None))
    for one, plain in zip(found, blocks.generate(prompts, **options), strict=True):
        assert plain.cache is None
        assert plain.tokens == one.tokens


def test_a_block_causal_model_takes_samplers_inside_blocks_alone(blocks):
    assert blocks.generate("The", max_new_tokens=6, sampler="autoregressive").network_calls <= 6
    with pytest.raises(UsageError, match="take the sampler 'block' with inner 'margin'"):
        blocks.generate("The", max_new_tokens=6, sampler="margin")
    with pytest.raises(UsageError, match="block_length 8: the network was trained with blocks of 4"):
        blocks.generate("The", max_new_tokens=6, block_length=8)
    with pytest.raises(UsageError, match="causal blocks"):
        blocks.infill("The _ sat.")
    with pytest.raises(UsageError, match="has an exact one already"):
        blocks.generate("The", max_new_tokens=6, cache=Cache("prefix"))


def test_a_block_causal_model_scores_by_the_chain_rule_and_says_so_where_another_is_asked_for(blocks):
    estimate = blocks.score("The cat", " sat on the mat")
    assert estimate == blocks.score("The cat", " sat on the mat", estimator="chain")
    assert estimate.standard_error == 0
    with pytest.raises(UsageError, match="estimator 'mc': a block-causal model"):
        blocks.score("The cat", " sat", estimator="mc")


def test_a_saved_block_causal_model_is_the_same_when_loaded(blocks, tmp_path):
    blocks.save(tmp_path)
    loaded = unmask.load(tmp_path, device="cpu")
    assert loaded.config.block_length == 4
    options = {"max_new_tokens": 9, "seed": 1}
    assert loaded.generate("The cat", **options).tokens == blocks.generate("The cat", **options).tokens


@pytest.mark.parametrize("strategy", ["prefix", "block"])
def test_an_approximate_cache_is_exact_when_refreshed_at_every_change_and_tells_its_drift_else(mdm, strategy):
    options = {"max_new_tokens": 16, "sampler": "block", "block_length": 8, "guidance": 0.4, "seed": 3}
    plain = mdm.generate("The cat sat on", **options)
    exact = mdm.generate("The cat sat on", cache=Cache(strategy, refresh=1), **options)
    assert plain.tokens == exact.tokens
    assert plain.network_calls == exact.network_calls
    cached = mdm.generate("The cat sat on", cache=Cache(strategy, refresh=4), **options)
    assert cached.cache.computed_share < exact.cache.computed_share
    assert cached.cache.drift > 0
    assert cached.to_dict()["cache"]["refreshes"] == cached.cache.refreshes
    with pytest.raises(UsageError, match="did you mean 'prefix'"):
        mdm.generate("The cat", max_new_tokens=4, cache=Cache("prefx"))


def test_an_arm_needs_no_other_cache(arm):
    with pytest.raises(UsageError, match="cache 'block': this model has an exact one already"):
        arm.generate("The", max_new_tokens=4, cache=Cache("block"))


def test_prompts_of_different_lengths_share_a_batch(mdm, arm):
    prompts = ["The cat", "", "The dog sat beside the mat", "on the"]
    for lm in (mdm, arm):
        seconds = {one.seconds for one in lm.generate(prompts, max_new_tokens=6)}
        assert len(seconds) == 1  # that of one batch
        assert len({one.seconds for one in lm.generate(prompts, max_new_tokens=6, batch_size=2)}) == 2


def test_blanks_of_searched_length_take_the_length_of_the_lowest_bound(mdm):
    text = "The _[1-3] sat on the _[2-3], and"
    found = mdm.infill(text, seed=1, temperature=0.0, num_samples=40)
    assert len(found.candidates) == 6
    losses = [candidate.loss for candidate in found.candidates]
    assert losses == sorted(losses)
    best = found.candidates[0]
    assert found.fills == best.fills
    written = f"The _[{best.lengths[0]}] sat on the _[{best.lengths[1]}], and"
    alone = mdm.infill(written, seed=1, temperature=0.0)
    assert (alone.text, alone.tokens, alone.candidates) == (found.text, found.tokens, [])
    assert found.network_calls > 6 * alone.network_calls  # those of the search are counted
    # the loss is the bound of what stands behind the beginning of the first blank
    start = len(mdm.tokenizer.encode("The"))
    request = unmask.likelihood.Request(tuple(found.tokens[:start]), tuple(found.tokens[start:]))
    settings = unmask.likelihood.Settings("auto", 40, seed=1)
    estimate = mdm.score_tokens([request], settings).estimates[0]
    assert best.loss == pytest.approx(-estimate.log_likelihood / (len(found.tokens) - start), abs=1e-5)
    with pytest.raises(UsageError, match="81 choices of lengths, more than 64"):
        mdm.infill("_[1-9] a _[1-9]")
