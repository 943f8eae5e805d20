"""Runs that start from another model: an ARM made into an MDM, and training that goes on."""

import json
from pathlib import Path

import pytest
import torch
from tests.train.runs import losses, stopped, write_corpus
from torch import nn

import unmask
from unmask import recipes
from unmask.commands.train import parse
from unmask.config import ModelConfig, RunConfig
from unmask.data import tokenizer as tokenizers
from unmask.data.prepare import PrepareOptions, prepare
from unmask.data.source import Corpus
from unmask.errors import UsageError
from unmask.model import Transformer
from unmask.records import read
from unmask.train import starting_point
from unmask.train.loop import train


@pytest.fixture(scope="module")
def arm(tiny, tmp_path_factory):
    """The directory of a trained autoregressive run."""
    directory = tmp_path_factory.mktemp("arm") / "run"
    for _ in train(tiny(objective="arm", length=24, batch_size=8, steps=30), directory):
        pass
    return directory


def adapted(tiny, arm, **fields):
    return tiny(**{"size": "6M", "init_from": str(arm), "anneal_share": 0.5, "short_share": 0.0, **fields})


def tokens(length=13, rows=2):
    return torch.randint(250, (rows, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("tied", [False, True])
def test_in_the_first_step_the_adapted_network_gives_the_autoregressive_logits(tied, tiny, tmp_path):
    run = tiny(objective="arm", steps=2, tied_embeddings=tied, kv_heads=1)
    for _ in train(run, tmp_path / "arm"):
        pass
    arm = unmask.load(tmp_path / "arm", "cpu").model
    run = adapted(tiny, tmp_path / "arm")
    beginning = starting_point.find(run, Corpus.open(run.data), starting_point.source(run))
    assert beginning.adapted
    assert (beginning.config.causal, beginning.config.shifted, beginning.config.mask_id) == (False, True, 258)
    model = beginning.build(0)
    first_LL = starting_point.attention(run, 0, 8)
    assert torch.equal(first_LL, torch.ones(16, 16, dtype=torch.bool).tril())
    tokens_BL = tokens()
    with torch.no_grad():
        theirs_BLV = arm(tokens_BL)
        ours_BLD = model.hidden(tokens_BL, attend_LL=first_LL[:13, :13])
        torch.testing.assert_close((ours_BLD @ model.head_weight.T)[:, 1:], theirs_BLV[:, :-1], atol=1e-5, rtol=1e-5)
        assert not torch.allclose(model(tokens_BL)[:, 1:], theirs_BLV[:, :-1], atol=1e-2)  # bidirectional it differs
    before, after = arm.embedding.weight, model.embedding.weight
    assert torch.equal(after[:258], before)
    torch.testing.assert_close(after[258], before.mean(dim=0))


def test_attention_turns_from_causal_to_bidirectional():
    run = RunConfig(init_from="x", anneal_share=0.5, length=64, seed=3)
    future_LL = torch.ones(64, 64, dtype=torch.bool).triu(1)
    shares = []
    for step in range(10):
        seen_LL = starting_point.attention(run, step, 20)
        assert seen_LL.tril().equal(torch.ones(64, 64, dtype=torch.bool).tril())
        shares.append(seen_LL[future_LL].float().mean().item())
        assert torch.equal(seen_LL, starting_point.attention(run, step, 20))
    assert shares == pytest.approx([step / 10 for step in range(10)], abs=0.04)
    assert shares[0] == 0
    assert all(starting_point.attention(run, step, 20) is None for step in range(10, 20))
    at_once = RunConfig(init_from="x", anneal_share=0.0)
    assert starting_point.attention(at_once, 0, 20) is None


@pytest.mark.parametrize("shifted", [False, True])
def test_a_mask_that_shows_everything_changes_nothing_and_a_causal_one_hides_the_future(shifted):
    config = ModelConfig(2, 4, 32, 48, 20, 12, n_kv_head=2, mask_id=20, shifted=shifted)
    model = Transformer(config)
    model.init_weights(torch.Generator().manual_seed(0))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(parameter.numel()))
    tokens_BL = torch.randint(20, (3, 12), generator=torch.Generator().manual_seed(0))
    targets_BL = tokens_BL.masked_fill(torch.rand(3, 12, generator=torch.Generator().manual_seed(1)) < 0.7, -100)
    targets_BL[1] = -100  # a row without any, and rows with different numbers
    weights_BL = torch.ones(3, 12)
    every_LL = torch.ones(12, 12, dtype=torch.bool)
    plain = model.loss(tokens_BL, targets_BL, weights_BL)
    torch.testing.assert_close(model.loss(tokens_BL, targets_BL, weights_BL, attend_LL=every_LL), plain)
    changed_BL = tokens_BL.clone()
    changed_BL[:, 8:] = (changed_BL[:, 8:] + 1) % 20
    early_BL = targets_BL.clone()
    early_BL[:, 8:] = -100
    seen = [model.loss(x_BL, early_BL, weights_BL, attend_LL=every_LL.tril()) for x_BL in (tokens_BL, changed_BL)]
    torch.testing.assert_close(seen[0], seen[1])
    assert not torch.allclose(*(model.loss(x_BL, early_BL, weights_BL) for x_BL in (tokens_BL, changed_BL)))
    model.loss(tokens_BL, targets_BL, weights_BL, attend_LL=every_LL.tril()).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
    # what some positions alone need equals the rows of the whole
    with torch.no_grad():
        whole_BLD = model.hidden(tokens_BL, attend_LL=every_LL.tril())
        scored_BL = targets_BL != -100
        torch.testing.assert_close(model.hidden(tokens_BL, scored_BL, attend_LL=every_LL.tril()), whole_BLD[scored_BL])


def test_an_adapted_run_learns_and_leaves_a_masked_model(tiny, arm, tmp_path):
    run = adapted(tiny, arm, steps=40, validate_every=1, log_every=1, learning_rate=2e-3)
    records = list(train(run, tmp_path / "run"))
    assert records[0]["init_from"] == str(arm)
    assert (records[0]["size"], records[-1]["size"]) == ("33K", "33K")
    shares = [record["bidirectional"] for record in records if record["kind"] == "train"]
    assert shares == [min(1, step / 20) for step in range(40)]
    valid = [record["loss"] for record in records if record["kind"] == "valid"]
    assert valid[-1] < valid[0] - 0.3
    lm = unmask.load(tmp_path / "run", "cpu")
    assert (lm.objective, lm.config.shifted, lm.config.causal, lm.mask_id) == ("mdm", True, False, 258)
    assert lm.config.context_length == 24
    assert len(lm.infill("the _[3] union", seed=0).fills[0]) > 0
    assert "bidirectional" not in read(arm / "metrics.jsonl")[1]


@pytest.mark.parametrize("at", [1, 6])
def test_an_adapted_run_resumes_to_the_last_bit_within_and_after_annealing(at, tiny, arm, tmp_path):
    run = adapted(tiny, arm, steps=8, short_share=0.3)
    whole = losses(train(run, tmp_path / "whole"))
    first = stopped(run, tmp_path / "cut", at)
    rest = losses(train(run, tmp_path / "cut", resume=True))
    assert {**losses(first), **rest} == whole
    ours, theirs = (unmask.load(tmp_path / name, "cpu").model.state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_loss_of_the_first_step_does_not_depend_on_micro_batches(tiny, arm, tmp_path):
    runs = [adapted(tiny, arm, steps=3, micro_batch_size=size) for size in (0, 3)]
    one, other = (losses(train(run, tmp_path / str(run.micro_batch_size))) for run in runs)
    assert one == pytest.approx(other, rel=1e-5)


def test_training_goes_on_from_a_model_of_the_same_kind(tiny, arm, finished, tmp_path):
    directory, _records = finished
    for objective, source in (("arm", arm), ("mdm", directory)):
        before = unmask.load(source, "cpu").model
        run = tiny(size="6M", init_from=str(source), objective=objective, steps=1, learning_rate=1e-9)
        for record in train(run, tmp_path / objective):
            assert "bidirectional" not in record
        after = unmask.load(tmp_path / objective, "cpu").model
        assert after.config == before.config
        with torch.no_grad():
            torch.testing.assert_close(after(tokens()), before(tokens()), atol=1e-4, rtol=1e-4)


def test_a_folder_of_transformers_is_adapted_as_it_is(tmp_path, tiny):
    transformers = pytest.importorskip("transformers")
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "a.txt").write_text("the state of the union is strong and we the people have work to do. " * 40)
    (texts / "b.txt").write_text("we have to work, and the union is strong. " * 40)
    tokenizer = tokenizers.train_bpe(iter([(texts / "a.txt").read_text()]), 300)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=tokenizer.vocab_size + 5, max_position_embeddings=40, tie_word_embeddings=True,
    )  # fmt: skip
    theirs = transformers.AutoModelForCausalLM.from_config(config)
    theirs.save_pretrained(tmp_path / "llama")
    tokenizer.save(tmp_path / "llama")
    content = json.loads((tmp_path / "llama/tokenizer.json").read_text())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] != "<|mask|>"]
    (tmp_path / "llama/tokenizer.json").write_text(json.dumps(content))
    named = json.loads((tmp_path / "llama/tokenizer_config.json").read_text())
    (tmp_path / "llama/tokenizer_config.json").write_text(json.dumps({**named, "mask_token": None}))
    prepare([texts], tmp_path / "corpus", PrepareOptions(tokenizer=str(tmp_path / "llama"), valid_fraction=0.0))
    run = RunConfig(
        data=str(tmp_path / "corpus"), init_from=str(tmp_path / "llama"), length=12, batch_size=4, steps=2,
        validation_windows=0, tensorboard=False,
    )  # fmt: skip
    beginning = starting_point.find(run, Corpus.open(run.data), starting_point.source(run))
    # the mask token takes the first of the five padded rows
    rows = tokenizer.vocab_size
    assert (beginning.config.mask_id, beginning.config.padded_rows, beginning.config.embedding_rows) == (
        rows,
        4,
        rows + 5,
    )
    model = beginning.build(0)
    tokens_BL = tokens(11) % rows
    with torch.no_grad():
        hidden_BLD = model.hidden(tokens_BL, attend_LL=torch.ones(11, 11, dtype=torch.bool).tril())
        ours_BLV = (hidden_BLD @ model.head_weight.T)[:, 1:]
        theirs_BLV = theirs(tokens_BL).logits[:, :-1]
    torch.testing.assert_close(ours_BLV[..., :rows], theirs_BLV[..., :rows], atol=2e-5, rtol=1e-5)
    for _ in train(run, tmp_path / "run"):
        pass
    lm = unmask.load(tmp_path / "run", "cpu")
    assert lm.generate("the state", max_new_tokens=4, seed=0).tokens[-1] < rows


def test_what_does_not_fit_is_refused_in_one_line(tiny, arm, finished, tmp_path):
    def problem(**fields):
        with pytest.raises(UsageError) as error:
            for _ in train(adapted(tiny, arm, **fields), tmp_path / "run"):
                pass
        assert not (tmp_path / "run").exists()
        return str(error.value)

    assert "length 32: more than the context of 24" in problem(length=32)
    assert "a masked network, and objective arm" in problem(init_from=str(finished[0]), objective="arm")
    assert "no such file or folder" in problem(init_from=str(tmp_path / "none"))
    other = write_corpus(tmp_path, "bpe:300")
    assert "not prepared with the tokenizer of" in problem(data=str(other))
    with pytest.raises(UsageError, match="kv_heads 2 is for a new network"):
        RunConfig(init_from="x", kv_heads=2)
    with pytest.raises(UsageError, match="size '170M' is for a new network"):
        RunConfig(init_from="x", size="170M")
    with pytest.raises(UsageError, match="give --from a model to start from, or --size"):
        for _ in train(RunConfig(**{**recipes.lookup("adapt")().__dict__, "data": str(other), "steps": 1}), Path("x")):
            pass


@pytest.mark.parametrize("words", [["--from", "x"], ["--from=x"], ["--init-from", "x"]])
def test_the_option_is_called_from(words):
    options = parse(recipes.lookup("adapt")(), [*words, "--out", "o", "--steps", "3"], prog="unmask train adapt")
    assert (options.run.init_from, options.run.objective, options.run.size) == ("x", "mdm", "")
