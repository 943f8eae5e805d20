"""Model directories of ours through Transformers' Auto classes."""

import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer, pipeline

import unmask
from unmask import seeding
from unmask.config import ModelConfig
from unmask.data import tokenizer as tokenizers
from unmask.errors import UsageError
from unmask.language_model import LanguageModel
from unmask.model import Transformer

WORDS = ["The cat sat on the mat, and the dog sat beside the cat."] * 20
SHAPES = {
    "masked": {},
    "plain attention": {"n_kv_head": 4},
    "one key head, biases, tied": {"n_kv_head": 1, "qkv_bias": True, "tied_embeddings": True},
    "shifted, rounded": {"shifted": True, "rope_precision": "bfloat16"},
    "causal": {"causal": True, "qk_norm": True, "head_dim": 10},
}


def build(**fields):
    tokenizer = tokenizers.train_bpe(iter(WORDS), 300)
    causal = fields.get("causal", False)
    shape = {"n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 32, "intermediate_size": 48, "context_length": 40}
    config = ModelConfig(
        **{**shape, **fields}, vocab_size=tokenizer.vocab_size, mask_id=None if causal else tokenizer.mask_id
    )
    model = Transformer(config)
    model.init_weights(seeding.generator(0, "init"))
    with torch.no_grad():
        for index, parameter in enumerate(model.parameters()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index))
            parameter.copy_(parameter + 0.2 * noise if parameter.ndim == 1 else 2.5 * parameter)
    return LanguageModel(model, tokenizer, "arm" if causal else "mdm")


@pytest.fixture(scope="module", params=SHAPES)
def saved(request, tmp_path_factory):
    lm = build(**SHAPES[request.param])
    directory = tmp_path_factory.mktemp("model")
    lm.save(directory)
    return lm, directory


@pytest.fixture(scope="module")
def mdm(tmp_path_factory):
    lm = build()
    directory = tmp_path_factory.mktemp("mdm")
    lm.save(directory)
    return lm, directory


def tokens(lm, rows=2, length=13, seed=0):
    return torch.randint(lm.config.vocab_size, (rows, length), generator=torch.Generator().manual_seed(seed))


def auto(lm):
    return AutoModelForCausalLM if lm.config.causal else AutoModelForMaskedLM


@pytest.mark.parametrize("first", ["unmask", "transformers"])
def test_importing_unmask_is_enough_and_imports_nothing_else(first, mdm):
    code = f"""
import sys, {first}
if {first!r} == "unmask":
    assert "transformers" not in sys.modules and "torch" not in sys.modules
else:
    from transformers import AutoModelForMaskedLM
import unmask
from transformers import AutoConfig, AutoModelForMaskedLM
assert AutoConfig.from_pretrained({str(mdm[1])!r}).n_embd == 32
print(type(AutoModelForMaskedLM.from_pretrained({str(mdm[1])!r})).__name__)
assert not any(type(finder).__name__ == "_Finder" for finder in sys.meta_path)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "UnmaskForMaskedLM"


def test_from_pretrained_gives_the_same_logits(saved):
    lm, directory = saved
    model, report = auto(lm).from_pretrained(directory, output_loading_info=True)
    assert not any(report.values())
    tokens_BL = tokens(lm)
    with torch.no_grad():
        assert torch.equal(model(tokens_BL).logits, lm.model(tokens_BL))
    config = AutoConfig.from_pretrained(directory)
    assert (config.hidden_size, config.num_key_value_heads) == (32, lm.config.n_kv_head)
    assert config.shape == lm.config


def test_save_pretrained_writes_the_same_weights_that_unmask_reads_again(saved, tmp_path):
    lm, directory = saved
    model = auto(lm).from_pretrained(directory)
    model.save_pretrained(tmp_path / "whole")
    before = load_file(directory / "model.safetensors")
    after = load_file(tmp_path / "whole" / "model.safetensors")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    tokenizer = AutoTokenizer.from_pretrained(directory)
    for folder in ("whole", "shards"):
        tokenizer.save_pretrained(tmp_path / folder)
        again = unmask.load(tmp_path / folder, "cpu")
        assert again.config == lm.config
        assert (again.objective, again.mask_id) == (lm.objective, lm.mask_id)
        with torch.no_grad():
            assert torch.equal(again.model(tokens(lm)), lm.model(tokens(lm)))


def test_a_model_made_and_saved_in_transformers_is_ours(tmp_path):
    torch.manual_seed(0)
    config = unmask.hf.config.UnmaskConfig(n_layer=2, n_head=2, n_embd=32, vocab_size=258, mask_id=258)
    model = AutoModelForMaskedLM.from_config(config)
    assert model.model.blocks[0].attention.qkv.weight.std() > model.model.blocks[0].attention.out.weight.std()
    model.save_pretrained(tmp_path)
    tokenizers.byte_level().save(tmp_path)
    lm = unmask.load(tmp_path, "cpu")
    with torch.no_grad():
        assert torch.equal(lm.model(tokens(lm)), model(tokens(lm)).logits)


def test_the_tokenizer_is_the_same_one(mdm):
    lm, directory = mdm
    theirs = AutoTokenizer.from_pretrained(directory)
    text = "The cat sat beside größere Bäume."
    assert theirs(text, add_special_tokens=False).input_ids == lm.tokenizer.encode(text)
    assert (theirs.mask_token_id, theirs.eos_token_id) == (lm.tokenizer.mask_id, lm.tokenizer.eos_id)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(saved, side):
    lm, directory = saved
    model = auto(lm).from_pretrained(directory)
    rows = [tokens(lm, 1, length, seed=length)[0] for length in (9, 4, 9, 1)]
    padded_BL = torch.zeros(4, 9, dtype=torch.int64)
    mask_BL = torch.zeros(4, 9, dtype=torch.int64)
    for index, row in enumerate(rows):
        where = slice(0, len(row)) if side == "right" else slice(9 - len(row), 9)
        padded_BL[index, where], mask_BL[index, where] = row, 1
    with torch.no_grad():
        logits_BLV = model(padded_BL, attention_mask=mask_BL).logits
        for index, row in enumerate(rows):
            alone_1LV = model(row[None]).logits
            torch.testing.assert_close(logits_BLV[index][mask_BL[index].bool()], alone_1LV[0], atol=2e-5, rtol=1e-5)
        with pytest.raises(UsageError, match="masks out every token"):
            model(padded_BL, attention_mask=0 * mask_BL)


def test_labels_give_the_mean_cross_entropy_and_gradients(saved):
    lm, directory = saved
    model = auto(lm).from_pretrained(directory)
    tokens_BL = tokens(lm)
    labels_BL = tokens(lm, seed=1).masked_fill(tokens_BL % 2 == 0, -100)
    found = model(tokens_BL, labels=labels_BL)
    logits_BLV, targets_BL = found.logits, labels_BL
    if lm.config.causal:
        logits_BLV, targets_BL = logits_BLV[:, :-1], labels_BL[:, 1:]
    scored_BL = targets_BL != -100
    logp_SV = logits_BLV[scored_BL].log_softmax(-1)
    expected = -logp_SV.gather(1, targets_BL[scored_BL][:, None]).mean()
    torch.testing.assert_close(found.loss, expected)
    found.loss.backward()
    assert model.model.embedding.weight.grad.abs().sum() > 0
    assert model(tokens_BL, return_dict=False)[0].shape == (2, 13, lm.config.vocab_size)


def test_the_fill_mask_pipeline(mdm):
    lm, directory = mdm
    fill = pipeline("fill-mask", model=str(directory), device="cpu")
    found = fill("The cat <|mask|> on", top_k=3)
    tokens_1L = torch.tensor([[*lm.tokenizer.encode("The cat "), lm.mask_id, *lm.tokenizer.encode(" on")]])
    place = tokens_1L[0].tolist().index(lm.mask_id)
    expected = lm.logits_fn(tokens_1L)[0, place].softmax(-1).topk(3)
    assert [answer["token"] for answer in found] == expected.indices.tolist()
    assert found[0]["score"] == pytest.approx(expected.values[0].item(), abs=1e-5)


class Recorder:
    def __init__(self):
        self.puts, self.drafts, self.ended = [], [], False

    def put(self, value):
        self.puts.append(value)

    def put_draft(self, value):
        self.drafts.append(value)

    def end(self):
        self.ended = True


def test_generate_follows_the_conventions_of_diffusion_models(mdm):
    lm, directory = mdm
    model = AutoModelForMaskedLM.from_pretrained(directory)
    prompt_BL = tokens(lm, 1, 5)
    streamer = Recorder()
    out = model.generate(prompt_BL, max_new_tokens=8, max_denoising_steps=4, streamer=streamer, seed=3)
    assert out.sequences.shape == (1, 13)
    assert torch.equal(out.sequences[:, :5], prompt_BL)
    assert (out.sequences[:, 5:] < lm.config.vocab_size).all()
    assert out.tokens_per_forward.tolist() == [2.0]
    assert torch.equal(streamer.puts[0], prompt_BL)
    assert torch.equal(streamer.puts[1], out.sequences[:, 5:])
    assert streamer.ended
    assert [int((draft == lm.mask_id).sum()) for draft in streamer.drafts] == [6, 4, 2, 0]
    again = model.generate(prompt_BL, max_new_tokens=8, max_denoising_steps=4, seed=3, return_dict_in_generate=False)
    assert torch.equal(again, out.sequences)
    torch.manual_seed(1)
    one = model.generate(prompt_BL, max_new_tokens=8).sequences
    torch.manual_seed(1)
    assert torch.equal(model.generate(prompt_BL, max_new_tokens=8).sequences, one)
    assert not torch.equal(model.generate(prompt_BL, max_new_tokens=8).sequences, one)
    greedy = model.generate(prompt_BL, max_new_tokens=8, do_sample=False, sampler="confidence", guidance=0.5)
    text = lm.tokenizer.decode(prompt_BL[0].tolist())
    if lm.tokenizer.encode(text) == prompt_BL[0].tolist():
        ours = lm.generate(text, max_new_tokens=8, temperature=0.0, guidance=0.5)
        assert greedy.sequences[0].tolist() == ours.tokens


def test_the_streamer_of_transformers_shows_the_drafts(mdm, capsys):
    streamers = pytest.importorskip("transformers.generation.streamers")
    if not hasattr(streamers, "TextDiffusionStreamer"):
        pytest.skip("this version of transformers has no TextDiffusionStreamer")
    lm, directory = mdm
    model = AutoModelForMaskedLM.from_pretrained(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    prompt_BL = torch.tensor([lm.tokenizer.encode("The cat")])
    streamer = streamers.TextDiffusionStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    out = model.generate(prompt_BL, max_new_tokens=8, max_denoising_steps=4, streamer=streamer, seed=3)
    shown = capsys.readouterr().out
    assert shown.count("\033[33m") == 4  # a draft for each step
    new = tokenizer.decode(out.sequences[0, prompt_BL.shape[1] :], skip_special_tokens=True)
    assert shown.endswith(new + "\n")


def test_a_row_generates_the_same_whatever_pads_it(mdm):
    lm, directory = mdm
    model = AutoModelForMaskedLM.from_pretrained(directory)
    padded_BL = torch.zeros(2, 6, dtype=torch.int64)
    padded_BL[0], padded_BL[1, 3:] = tokens(lm, 1, 6)[0], tokens(lm, 1, 3, seed=2)[0]
    mask_BL = torch.ones_like(padded_BL)
    mask_BL[1, :3] = 0
    both = model.generate(padded_BL, attention_mask=mask_BL, max_new_tokens=5, do_sample=False)
    assert torch.equal(both.sequences[1, :3], torch.zeros(3, dtype=torch.int64))
    for row, start in ((0, 0), (1, 3)):
        alone = model.generate(padded_BL[row : row + 1, start:], max_new_tokens=5, do_sample=False)
        assert torch.equal(both.sequences[row, start:], alone.sequences[0])


def test_what_follows_the_end_of_text_is_padding(mdm):
    lm, directory = mdm
    model = AutoModelForMaskedLM.from_pretrained(directory)
    prompt_BL = tokens(lm, 1, 5)
    free = model.generate(prompt_BL, max_new_tokens=6, seed=0).sequences[0, 5:].tolist()
    end = free[2]
    cut = model.generate(prompt_BL, max_new_tokens=6, seed=0, eos_token_id=end, pad_token_id=1)
    first = free.index(end)
    assert cut.sequences[0, 5:].tolist() == [*free[: first + 1], *[1] * (5 - first)]
    assert cut.tokens_per_forward.tolist() == pytest.approx([(first + 1) / 6])
    assert model.config.eos_token_id == lm.tokenizer.eos_id


def test_wrong_arguments_of_generate_are_named(mdm, tmp_path):
    _, directory = mdm
    model = AutoModelForMaskedLM.from_pretrained(directory)
    prompt_BL = torch.ones(1, 3, dtype=torch.int64)
    with pytest.raises(UsageError, match="max_new_tokens 0"):
        model.generate(prompt_BL, max_new_tokens=0)
    with pytest.raises(UsageError, match="did you mean 'confidence'"):
        model.generate(prompt_BL, sampler="confidnce")
    with pytest.raises(UsageError, match="more than the context of 40"):
        model.generate(prompt_BL, max_new_tokens=38)
    with pytest.raises(UsageError, match="guidence, num_beams: unknown to the sampler 'confidence'"):
        model.generate(prompt_BL, max_new_tokens=4, num_beams=3, guidence=0.5)
    model.generate(prompt_BL, max_new_tokens=4, sampler="remask", min_p=0.1, eta=0.1)
    for wrong, words in (
        (prompt_BL[0], r"torch.int64 of shape \(3,\): give whole numbers of shape \(rows, length\)"),
        (prompt_BL.float(), r"torch.float32 of shape \(1, 3\)"),
        (prompt_BL + 300, "hold the token 301, and the model has 284: use its own tokenizer"),
        (prompt_BL - 2, "hold the token -1"),
    ):
        with pytest.raises(UsageError, match=words):
            model.generate(wrong, max_new_tokens=4)


def test_a_model_of_the_other_kind_is_refused_with_the_class_to_load_it_by(mdm, tmp_path):
    build(causal=True).save(tmp_path)
    with pytest.raises(UsageError, match="no mask token: load it with AutoModelForCausalLM"):
        AutoModelForMaskedLM.from_pretrained(tmp_path)
    with pytest.raises(UsageError, match="load it with AutoModelForMaskedLM"):
        AutoModelForCausalLM.from_pretrained(mdm[1])


CAUSAL = {
    "norms of queries and keys": {"qk_norm": True, "head_dim": 10},
    "one key head, biases, tied": {"n_kv_head": 1, "qkv_bias": True, "tied_embeddings": True},
    "rounded tables": {"rope_precision": "bfloat16"},
}


@pytest.fixture(scope="module", params=CAUSAL)
def arm(request, tmp_path_factory):
    lm = build(causal=True, **CAUSAL[request.param])
    directory = tmp_path_factory.mktemp("arm")
    lm.save(directory)
    return lm, AutoModelForCausalLM.from_pretrained(directory), directory


def test_an_autoregressive_model_generates_as_ours_does(arm):
    lm, model, directory = arm
    prompt = AutoTokenizer.from_pretrained(directory)("The cat", return_tensors="pt")
    assert prompt.input_ids[0].tolist() == [lm.tokenizer.bos_id, *lm.tokenizer.encode("The cat")]
    found = model.generate(**prompt, max_new_tokens=6, do_sample=False, pad_token_id=lm.tokenizer.eos_id)
    ours = lm.generate("The cat", max_new_tokens=6, temperature=0.0).tokens
    assert found[0, 1:].tolist()[: len(ours)] == ours[: found.shape[1] - 1]


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"cache_implementation": "static"}], ids=str)
def test_generating_with_a_cache_computes_each_token_once_and_writes_the_same(arm, padded, options):
    lm, model, _ = arm
    tokens_BL, mask_BL = tokens(lm, 3, 7), torch.ones(3, 7, dtype=torch.int64)
    if padded:
        mask_BL[0, :3] = mask_BL[1, :6] = 0
    common = {"attention_mask": mask_BL, "max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    common |= {"eos_token_id": None}
    computed = []
    hook = model.model.embedding.register_forward_hook(lambda _, inputs, __: computed.append(inputs[0].shape[1]))
    cached = model.generate(tokens_BL, **common, **options)
    hook.remove()
    if not padded or lm.config.rope_precision == "float32":
        assert computed == [7, *[1] * 11]
    options.pop("cache_implementation", None)
    assert torch.equal(cached, model.generate(tokens_BL, **common, **options, use_cache=False))


@torch.no_grad()
def test_a_text_in_pieces_behind_a_cache_has_the_logits_of_the_whole(arm):
    lm, model, _ = arm
    tokens_BL, mask_BL = tokens(lm, 2, 9), torch.ones(2, 9, dtype=torch.int64)
    whole_BLV = model(tokens_BL).logits
    first = model(tokens_BL[:, :4], use_cache=True)
    second = model(tokens_BL[:, 4:], past_key_values=first.past_key_values)
    torch.testing.assert_close(torch.cat([first.logits, second.logits], dim=1), whole_BLV, atol=2e-5, rtol=1e-5)
    last = model(tokens_BL, use_cache=True, logits_to_keep=2, return_dict=False)
    torch.testing.assert_close(last[0], whole_BLV[:, -2:], atol=2e-5, rtol=1e-5)
    mask_BL[0, :5] = 0
    padded_BLV = model(tokens_BL, attention_mask=mask_BL, use_cache=True).logits
    expected_BLV = model(tokens_BL, attention_mask=mask_BL).logits
    there_BL = mask_BL.bool()
    torch.testing.assert_close(padded_BLV[there_BL], expected_BLV[there_BL], atol=2e-5, rtol=1e-5)


def test_the_text_generation_pipeline_alone_and_in_batches(arm):
    lm, _, directory = arm
    write = pipeline("text-generation", model=str(directory), device="cpu")
    prompts = ["The cat", "The dog sat on the"]
    settings = {"max_new_tokens": 6, "do_sample": False}
    ours = [lm.generate(prompt, max_new_tokens=6, temperature=0.0) for prompt in prompts]
    for batch_size in (1, 2):
        found = write(prompts, batch_size=batch_size, return_tensors=True, **settings)
        for (answer,), expected in zip(found, ours, strict=True):
            written = [token for token in answer["generated_token_ids"] if token not in (0, lm.tokenizer.eos_id)]
            assert (
                written == [token for token in expected.tokens if token not in (0, lm.tokenizer.eos_id)][: len(written)]
            )
            assert len(written) > 3


def test_device_map(mdm):
    pytest.importorskip("accelerate", reason="device_map needs accelerate")
    lm, directory = mdm
    model = AutoModelForMaskedLM.from_pretrained(directory, device_map="auto")
    with torch.no_grad():
        torch.testing.assert_close(model(tokens(lm).to(model.device)).logits.cpu(), lm.model(tokens(lm)))
