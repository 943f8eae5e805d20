"""Ours to SMDM and back, ours to Llama and Transformers: bit for bit."""

import json
import math
import shlex

import lit_gpt
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import unmask
from train.runs import tiny_run, write_corpus
from unmask import model_directory
from unmask.cli import main
from unmask.config import ModelConfig
from unmask.convert import Options, convert, export
from unmask.data import tokenizer as tokenizers
from unmask.data.source import Corpus
from unmask.errors import UnmaskError, UsageError
from unmask.language_model import LanguageModel
from unmask.model import Transformer
from unmask.train.loop import train


def build(directory, tokenizer=None, dtype=torch.float32, **fields):
    tokenizer = tokenizer or tokenizers.byte_level()
    shape = {"n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 32, "intermediate_size": 48, "context_length": 40}
    causal = fields.pop("causal", False)
    mask_id = None if causal else tokenizer.mask_id
    config = ModelConfig(**{**shape, **fields}, vocab_size=tokenizer.vocab_size, mask_id=mask_id, causal=causal)
    model = Transformer(config)
    with torch.no_grad():
        for index, parameter in enumerate(model.parameters()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index))
            parameter.copy_(1 + 0.2 * noise if parameter.ndim == 1 else 0.3 * noise)
    lm = LanguageModel(model.to(dtype), tokenizer, "arm" if causal else "mdm")
    lm.save(directory)
    return lm


def tokens(lm, rows=2, length=11):
    return torch.randint(lm.config.vocab_size, (rows, length), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"n_kv_head": 4, "rope_precision": "bfloat16"},
        {"n_kv_head": 1, "qkv_bias": True, "norm_eps": 1e-6},
        {"causal": True},
    ],
)
def test_ours_to_smdm_and_back_is_bit_for_bit_the_same(fields, dtype, tmp_path):
    lm = build(tmp_path / "ours", dtype=dtype, **fields)
    found = export("smdm", tmp_path / "ours", tmp_path / "smdm")
    assert found.format == "smdm"
    convert("smdm", tmp_path / "smdm", tmp_path / "back")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("ours", "back"))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert after[name].dtype == dtype
        assert torch.equal(after[name], tensor)
    again = unmask.load(tmp_path / "back", "cpu")
    assert (again.config, again.objective) == (lm.config, lm.objective)
    assert again.tokenizer.bos_id == lm.tokenizer.bos_id
    assert again.score("The cat", " sat") == unmask.load(tmp_path / "ours", "cpu").score("The cat", " sat")


def test_what_is_exported_to_smdm_gives_the_logits_of_the_plain_network(tmp_path):
    lm = build(tmp_path / "ours")
    export("smdm", tmp_path / "ours", tmp_path / "smdm")
    named = load_file(tmp_path / "smdm" / "model.safetensors")
    expected = lit_gpt.logits(named, tokens(lm), heads=4, groups=2)
    torch.testing.assert_close(lm.logits_fn(tokens(lm)), expected, atol=1e-4, rtol=1e-4)
    described = json.loads((tmp_path / "smdm" / "lit_config.json").read_text())
    assert (described["n_head"], described["n_query_groups"], described["block_size"]) == (4, 2, 40)


def test_a_tied_head_becomes_a_copy(tmp_path):
    lm = build(tmp_path / "ours", tied_embeddings=True)
    assert "copy of the embedding" in export("smdm", tmp_path / "ours", tmp_path / "smdm").notes[0]
    convert("smdm", tmp_path / "smdm", tmp_path / "back")
    torch.testing.assert_close(
        unmask.load(tmp_path / "back", "cpu").logits_fn(tokens(lm)), lm.logits_fn(tokens(lm)), rtol=0, atol=0
    )


LLAMAS = [
    ("llama", {}),
    ("llama", {"tied_embeddings": True, "head_dim": 10, "rope_theta": 77.0}),
    ("qwen2", {"qkv_bias": True, "n_kv_head": 1}),
    ("qwen3", {"qk_norm": True, "head_dim": 12, "norm_eps": 1e-4}),
]


@pytest.mark.parametrize(("kind", "fields"), LLAMAS)
def test_ours_to_llama_to_transformers_is_bit_for_bit_the_same(kind, fields, tmp_path):
    lm = build(tmp_path / "ours", causal=True, **fields)
    assert export("llama", tmp_path / "ours", tmp_path / "llama").format == kind
    model, report = AutoModelForCausalLM.from_pretrained(tmp_path / "llama", output_loading_info=True)
    assert not any(report.values())
    assert type(model).__name__.lower().startswith(kind)
    ours = load_file(tmp_path / "ours" / "model.safetensors")
    for name, tensor in model.state_dict().items():
        same = ours["model.embed_tokens.weight" if name == "lm_head.weight" and "lm_head.weight" not in ours else name]
        assert torch.equal(tensor, same)
    with torch.no_grad():
        torch.testing.assert_close(lm.model(tokens(lm)), model(tokens(lm)).logits, atol=2e-5, rtol=1e-5)
    convert("hf", tmp_path / "llama", tmp_path / "back")
    again = unmask.load(tmp_path / "back", "cpu")
    assert again.config == lm.config
    for name, tensor in load_file(tmp_path / "back" / "model.safetensors").items():
        assert torch.equal(tensor, ours[name])
    digests = [model_directory.read(tmp_path / name).digest() for name in ("ours", "back")]
    assert digests[0] == digests[1]
    lm.model.norm.weight.data[0] += 1
    lm.save(tmp_path / "ours")
    assert model_directory.read(tmp_path / "ours").digest() != digests[0]


def test_the_exported_tokenizer_scores_text_as_ours_does(tmp_path):
    tokenizer = tokenizers.train_bpe(iter(["The cat sat on the mat."] * 9), 290)
    lm = build(tmp_path / "ours", tokenizer, causal=True)
    export("llama", tmp_path / "ours", tmp_path / "llama")
    theirs, model = (kind.from_pretrained(tmp_path / "llama") for kind in (AutoTokenizer, AutoModelForCausalLM))
    assert len(theirs) == tokenizer.vocab_size  # no mask token, which the network has no row for
    ids = theirs("The cat sat").input_ids
    assert ids == [tokenizer.bos_id, *tokenizer.encode("The cat sat")]
    with torch.no_grad():
        logp_LV = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    total = sum(logp_LV[place, token].item() for place, token in enumerate(ids[1:]))
    assert lm.score("", "The cat sat").log_likelihood == pytest.approx(total, abs=1e-4)
    assert model.generation_config.eos_token_id == tokenizer.eos_id
    convert("hf", tmp_path / "llama", tmp_path / "back")
    assert unmask.load(tmp_path / "back", "cpu").tokenizer.bos_id == tokenizer.bos_id


CHAT = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"


def test_a_chat_template_is_exported_and_comes_back(tmp_path):
    build(tmp_path / "ours", tokenizers.byte_level().with_chat_template(CHAT), causal=True)
    for _ in range(2):  # the second replaces the first
        export("llama", tmp_path / "ours", tmp_path / "llama")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "llama")
    chat = [{"role": "user", "content": "Hello"}]
    assert theirs.apply_chat_template(chat, tokenize=False) == "[user] Hello\n"
    convert("hf", tmp_path / "llama", tmp_path / "back")
    assert unmask.load(tmp_path / "back", "cpu").tokenizer.chat_template == CHAT
    build(tmp_path / "masked", tokenizers.byte_level().with_chat_template(CHAT))
    export("smdm", tmp_path / "masked", tmp_path / "smdm")
    convert("smdm", tmp_path / "smdm", tmp_path / "masked-back")
    assert unmask.load(tmp_path / "masked-back", "cpu").tokenizer.chat_template == CHAT
    export("smdm", tmp_path / "masked", tmp_path / "smdm")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"n_layer": 1}, r"model\.layers\.1\.input_layernorm\.weight belongs to no part of the network"),
        ({"n_layer": 3}, r"lacks model\.layers\.2"),
        ({"intermediate_size": 64}, r"gate_proj\.weight is \(48, 32\), and config\.json asks for \(64, 32\)"),
        ({"n_embd": "32"}, r"config\.json: n_embd '32' must be of type int"),
        ({"causal": 1}, r"config\.json: causal 1 must be of type bool"),
    ],
)
def test_a_model_whose_config_contradicts_its_weights_is_not_exported(fields, words, tmp_path):
    build(tmp_path / "ours", causal=True)
    path = tmp_path / "ours" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    with pytest.raises(UnmaskError, match=words):
        export("llama", tmp_path / "ours", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_a_format_has_no_place_for_is_named(tmp_path):
    build(tmp_path / "masked", qk_norm=True, rope_theta=5e5, shifted=True)
    with pytest.raises(UnmaskError, match=r"norms over queries and keys: .*; a shift by one: .*; rope_theta 500000"):
        export("smdm", tmp_path / "masked", tmp_path / "out")
    with pytest.raises(UnmaskError, match=r"a masked network, which Llama is not: .*AutoModelForMaskedLM"):
        export("llama", tmp_path / "masked", tmp_path / "out")
    build(tmp_path / "both", causal=True, qk_norm=True, qkv_bias=True)
    with pytest.raises(UnmaskError, match="no Llama has both"):
        export("llama", tmp_path / "both", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    build(tmp_path / "rounded", causal=True, rope_precision="bfloat16")
    assert "rounded to bfloat16" in export("llama", tmp_path / "rounded", tmp_path / "out").notes[0]


def test_an_export_replaces_an_older_one_and_nothing_else(tmp_path):
    build(tmp_path / "ours", causal=True)
    for _ in range(2):
        export("llama", tmp_path / "ours", tmp_path / "out")
    # what a killed one leaves is no other thing
    (tmp_path / "out" / "model.safetensors").rename(tmp_path / "out" / "model.safetensors.partial")
    export("llama", tmp_path / "ours", tmp_path / "out")
    (tmp_path / "out" / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match="holds other things"):
        export("llama", tmp_path / "ours", tmp_path / "out")
    with pytest.raises(UsageError, match="is the model itself"):
        export("llama", tmp_path / "ours", tmp_path / "ours")
    with pytest.raises(UsageError, match="unknown format 'lama': did you mean 'llama'"):
        export("lama", tmp_path / "ours", tmp_path / "new")


def test_the_card_says_what_the_run_recorded(tmp_path, capsys):
    run = tmp_path / "run"
    build(run / "model", causal=True)
    settings = {"objective": "arm", "steps": 20, "learning_rate": 0.001, "size": "", "init_from": "/some/where/smollm2"}
    (run / "config.json").write_text(json.dumps(settings))
    recorded = [
        {"kind": "start", "step": 0, "corpus": "abcdef0123456789", "train_tokens": 123456, "machine": "2 cores"},
        {"kind": "valid", "step": 20, "split": "valid", "loss": 2.5, "standard_error": 0.01, "bits_per_byte": 1.1}
        | {"bound": False},
        {"kind": "end", "step": 20, "tokens": 5000, "flops": 1.5e9},
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in recorded))
    assert main(["export", str(run), str(tmp_path / "out"), "--to", "llama"]) == 0
    assert "llama, 21 tensors" in capsys.readouterr().out
    card = (tmp_path / "out" / "README.md").read_text()
    for words in (
        "corpus abcdef012345, 123,456 training tokens",
        "| tokens seen | 5,000 |",
        "1.5e+09 FLOPs",
        "| learning_rate | 0.001 |",
        "| started from | smollm2 |",
        "2.5000 ± 0.0100 nats per token on the split `valid` (1.1000 bits per byte), the exact negative",
        "unmask export run out --to llama",
        "pipeline_tag: text-generation",
    ):
        assert words in card
    assert str(tmp_path) not in card
    assert "/some/where" not in card
    assert "| size |" not in card


@pytest.mark.parametrize("objective", ["mdm", "arm"])
def test_the_card_of_a_trained_model_has_its_data_budget_bound_and_the_command_that_trains_it_again(
    objective, tmp_path, monkeypatch, capsys
):
    corpus = write_corpus(tmp_path)
    run = tiny_run(corpus, steps=3, objective=objective)
    end = list(train(run, tmp_path / "run"))[-1]
    export("smdm", tmp_path / "run", tmp_path / "out", "unmask export run out --to smdm")
    card = (tmp_path / "out" / "README.md").read_text()
    for words in (
        f"| data | `corpus`, corpus {Corpus.open(corpus).digest[:12]}, ",
        "| tokens seen | 384 |",
        f"| budget | {end['flops']:.3g} FLOPs (6 N D, without embeddings) |",
        f"{end['loss']:.4f} ± {end['standard_error']:.4f} nats per token on the split `valid` ",
        " bits per byte, 10 windows), " + ("an upper bound" if objective == "mdm" else "the exact"),
        "\nunmask export run out --to smdm\n",
    ):
        assert words in card
    assert ("mask_eps" in card) == (objective == "mdm")
    assert str(tmp_path) not in card
    (command,) = [line for line in card.splitlines() if line.startswith("unmask train")]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").rename(tmp_path / "before")
    assert main(shlex.split(command)[1:]) == 0
    again = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert again["loss"] == end["loss"]


def test_the_card_of_a_converted_model_says_so(tmp_path, capsys):
    lm = build(tmp_path / "ours")
    export("smdm", tmp_path / "ours", tmp_path / "smdm")
    convert("smdm", tmp_path / "smdm", tmp_path / "back", Options(context_length=20))
    assert main(["export", str(tmp_path / "back"), str(tmp_path / "out"), "--to", "smdm", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["tensors"] == 17
    assert math.isclose(summary["bytes_written"], 4 * sum(p.numel() for p in lm.model.parameters()))
    card = (tmp_path / "out" / "README.md").read_text()
    assert "converted from a checkpoint in the format `smdm`" in card
    assert "Not measured." in card
