"""`unmask quality`, run as the command line runs it, and its reference models."""

import json
import math

import pytest
import torch

from tiny_models import language_model
from unmask import cli
from unmask.convert.export import export
from unmask.data import tokenizer as tokenizing
from unmask.data.prepare import PrepareOptions, prepare
from unmask.evals.reference_model import open_reference
from unmask.evals.samples import Sample
from unmask.language_model import load

SPEECH = "Fellow citizens of the Senate and of the House of Representatives: our Union is strong.\n"


def save(directory, tokenizer, causal, weight=None):
    lm = language_model(tokenizer, causal=causal, n_layer=2, sharpened=True)
    if weight is not None:
        torch.nn.init.constant_(lm.model.norm.weight, weight)
    lm.save(directory)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("quality")
    tokenizer = tokenizing.train_bpe(iter([SPEECH] * 20), 300)
    save(place / "arm", tokenizer, causal=True)
    save(place / "mdm", tokenizer, causal=False)
    save(place / "nan", tokenizer, causal=True, weight=math.nan)
    export("llama", place / "arm", place / "llama")
    (place / "texts").mkdir()
    for number in range(4):
        (place / "texts" / f"{number}.txt").write_text(f"{SPEECH}Number {number}\n")
    prepare([place / "texts"], place / "corpus", PrepareOptions(tokenizer="bytes", valid_fraction=0.3))
    lines = [{"text": "Fellow citizens of the", "fills": [" of the"]}, {"text": "We the people are strong."}]
    (place / "one.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (place / "copied.txt").write_text(SPEECH.strip())
    (place / "dull.jsonl").write_text("\n".join(json.dumps({"text": "the " * 12}) for _ in range(3)))
    return place


@pytest.fixture
def unmask(place, monkeypatch, capsys):
    monkeypatch.chdir(place)

    def run(*arguments):
        capsys.readouterr()
        status = cli.main(["quality", *arguments])
        return status, *capsys.readouterr()

    return run


def test_a_model_of_ours_and_the_same_weights_in_transformers_judge_alike(place, monkeypatch):
    samples = [Sample(" citizens of the House", "Fellow"), Sample("We the people"), Sample(SPEECH * 5)]
    ours, theirs = open_reference(str(place / "arm")), open_reference(str(place / "llama"))
    lm = load(place / "arm")
    expected = -lm.score("Fellow", " citizens of the House").log_likelihood
    found = ours.likelihoods(samples, lambda done: None)
    assert found[0].nll == pytest.approx(expected, abs=1e-3)
    assert len(lm.tokenizer.encode(SPEECH * 5)) == found[2].tokens > 2 * lm.config.context_length  # cut into windows
    others = theirs.likelihoods(samples, lambda done: None)
    assert others[0].nll == pytest.approx(found[0].nll, abs=1e-3)
    assert (others[0].tokens, others[2].tokens) == (found[0].tokens, found[2].tokens)


def test_the_table_has_a_row_for_each_file_and_warns_of_other_entropy(unmask):
    status, out, err = unmask("one.jsonl", "dull.jsonl", "--reference", "arm", "--training", "corpus")
    assert status == 0, err
    assert "one.jsonl" in out
    assert "perplexity under arm" in out
    assert "entropy differs from that of one.jsonl" in out
    assert "dull.jsonl (-" in out


def test_json_has_every_figure_and_the_copied_share(unmask, place):
    arguments = ("copied.txt", "dull.jsonl", "--training", "texts", "--units", "tokens", "--reference", "arm")
    status, _, err = unmask(*arguments, "--json", "out.json")
    assert status == 0, err
    result = json.loads((place / "out.json").read_text())
    assert result["format"] == "unmask-quality-1"
    copied, dull = (result["sets"][name] for name in ("copied.txt", "dull.jsonl"))
    assert copied["copied"]["value"] == 1
    assert dull["copied"]["value"] == 0
    assert dull["repetition"]["value"] > 0.5
    assert dull["self_repetition"]["value"] == 1
    assert copied["perplexity"]["standard_error"] is None
    status, out, _ = unmask(*arguments, "--json", "-")
    assert json.loads(out) == result


def test_without_a_reference_there_is_no_perplexity(unmask):
    status, out, _ = unmask("one.jsonl", "--json", "-")
    assert status == 0
    assert json.loads(out)["sets"]["one.jsonl"]["perplexity"] is None


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["absent.jsonl"], 2, "absent.jsonl: no such file"),
        (["texts"], 2, "texts: a folder"),
        (["one.jsonl", "--units", "tokens"], 2, "--units tokens: are those of a reference"),
        (["one.jsonl", "--copied-length", "0"], 2, "--copied-length 0: must be at least 1"),
        (["one.jsonl", "--reference", "nowhere"], 2, "--reference nowhere: no such folder"),
        (["one.jsonl", "--reference", "texts"], 2, "no config.json of a model in it"),
        (["one.jsonl", "--reference", "mdm"], 2, "--reference mdm: a masked model"),
        (["one.jsonl", "--reference", "nan"], 1, "its weights are damaged"),
        (["one.jsonl", "one.jsonl"], 2, "named twice"),
        (["one.jsonl", "--training", "corpus", "texts"], 2, "a prepared corpus goes alone"),
    ],
)
def test_bad_input_is_told_in_one_line(unmask, arguments, status, message):
    found, out, err = unmask(*arguments)
    assert found == status
    assert message in err
    assert err.count("\n") == 1
    assert out == ""
