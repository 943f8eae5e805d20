"""`unmask perplexity`, run as the command line runs it."""

import json
import math

import pytest
import torch

from packed_files import datatrove, lit_gpt, megatron
from tiny_models import language_model
from unmask import cli
from unmask.data import tokenizer as tokenizing
from unmask.data.no_tokenizer import NoTokenizer
from unmask.data.prepare import PrepareOptions, prepare
from unmask.data.source import Corpus
from unmask.evals import held_out
from unmask.evals.held_out import Windows
from unmask.language_model import load

SPEECH = "Fellow citizens of the Senate and of the House of Representatives: our Union is strong.\n"


def save(directory, tokenizer, causal, weight=None):
    lm = language_model(tokenizer, causal=causal)
    if weight is not None:
        torch.nn.init.constant_(lm.model.norm.weight, weight)
    lm.save(directory)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Models and texts, and a corpus that was prepared of them."""
    place = tmp_path_factory.mktemp("perplexity")
    tokenizer = tokenizing.byte_level()
    save(place / "mdm", tokenizer, causal=False)
    save(place / "arm", tokenizer, causal=True)
    save(place / "nan", tokenizer, causal=True, weight=math.nan)
    (place / "texts").mkdir()
    for number in range(10):
        (place / "texts" / f"{number}.txt").write_text(SPEECH * (number + 1))
    (place / "short.txt").write_text("We the people")
    (place / "lines.jsonl").write_text(json.dumps({"body": "We the"}) + "\n" + json.dumps({"body": "people"}) + "\n")
    prepare([place / "texts"], place / "corpus", PrepareOptions(tokenizer="bytes", valid_fraction=0.3))
    prepare([place / "texts"], place / "other", PrepareOptions(tokenizer="bpe:300", valid_fraction=0.3))
    return place


@pytest.fixture
def unmask(place, monkeypatch, capsys):
    monkeypatch.chdir(place)

    def run(*arguments):
        capsys.readouterr()
        status = cli.main(["perplexity", *arguments])
        return status, *capsys.readouterr()

    return run


def test_it_prints_the_loss_its_error_and_what_kind_of_figure_it_is(unmask):
    status, out, err = unmask("mdm", "texts", "--draws", "3")
    figures = json.loads(unmask("mdm", "texts", "--draws", "3", "--json")[1])
    assert (status, err) == (0, "")
    first, second = out.splitlines()
    assert first == (
        f"{figures['loss']:.4f} ± {figures['standard_error']:.4f} nats per token, perplexity "
        f"{math.exp(figures['loss']):.2f}, {figures['bits_per_byte']:.4f} bits per byte"
    )
    tokens = 55 * len(SPEECH) + 10
    cut = f"{tokens:,} tokens in {-(-tokens // 64)} windows of 64, 3 masks each"
    assert second.startswith(f"[upper bound: the true value is no higher; {cut}")
    assert "\x1b" not in out


def test_an_arms_figure_is_exact(unmask):
    _, out, _ = unmask("arm", "texts", "--json")
    figures = json.loads(out)
    assert (figures["bound"], figures["objective"], figures["draws"]) == (False, "arm", 1)
    assert figures["loss"] == pytest.approx(math.log(258), rel=0.1)  # an untrained network
    assert "[exact; " in unmask("arm", "texts")[1]


@pytest.mark.parametrize("model", ["mdm", "arm"])
def test_the_figures_are_those_of_the_library(unmask, place, model):
    figures = json.loads(unmask(model, "texts", "--json", "--seed", "5", "--draws", "2")[1])
    lm = load(place / model)
    texts = [(place / "texts" / f"{number}.txt").read_text() for number in range(10)]
    tokens, size = held_out.encode(lm, texts)
    found = held_out.measure(lm, Windows.of(tokens, 64, size / len(tokens), with_rest=True), draws=2, seed=5)
    assert {name: figures[name] for name in found.to_dict()} == pytest.approx(found.to_dict())
    assert figures["bits_per_byte"] == pytest.approx(figures["loss"] / math.log(2) * figures["tokens"] / size)


def test_a_short_text_has_a_figure_of_all_its_tokens_with_an_error(unmask):
    status, out, _ = unmask("mdm", "short.txt", "--json")
    figures = json.loads(out)
    assert status == 0
    assert (figures["tokens"], figures["windows"], figures["draws"]) == (14, 1, 128)
    assert 0 < figures["standard_error"] < 0.1
    assert "14 tokens in 1 window, 128 masks each" in unmask("mdm", "short.txt")[1]
    assert " nats per token" in unmask("arm", "short.txt")[1]
    assert json.loads(unmask("arm", "short.txt", "--json")[1])["standard_error"] is None


@pytest.mark.parametrize("model", ["mdm", "arm"])
@pytest.mark.parametrize("split", ["valid", "train"])
def test_a_split_of_a_prepared_corpus_costs_what_its_texts_do(unmask, place, model, split):
    whole = json.loads(unmask(model, "corpus", "--split", split, "--json")[1])
    corpus = held_out_texts(place, split)
    texts = json.loads(unmask(model, *corpus, "--json")[1])
    for name in ("loss", "standard_error", "bits_per_byte", "tokens"):
        assert whole[name] == pytest.approx(texts[name])
    if split == "valid":
        assert json.loads(unmask(model, "corpus", "--json")[1])["loss"] == whole["loss"]


@pytest.mark.parametrize("form", ["lit-gpt", "megatron", "datatrove"])
def test_token_files_cost_what_the_prepared_corpus_does(unmask, place, form):
    corpus = Corpus.open(place / "corpus")
    for split in ("train", "valid"):
        source = corpus.split(split)
        documents = [source.document(number).tolist() for number in range(source.split.documents)]
        if form == "lit-gpt":
            lit_gpt(place / form / f"{split}_0.bin", source[:].tolist())
        else:
            {"megatron": megatron, "datatrove": datatrove}[form](place / form / f"{split}.ds", documents)
    for arguments in ([], ["--split", "train"]):
        expected = json.loads(unmask("mdm", "corpus", *arguments, "--json")[1])
        found = json.loads(unmask("mdm", form, *arguments, "--json")[1])
        assert found.pop("bits_per_byte") == pytest.approx(expected.pop("bits_per_byte"), rel=1e-3)  # by decoding
        assert {**found, "seconds": 0} == {**expected, "seconds": 0}
    (alone,) = [name for name in (place / form).iterdir() if "valid" in name.name and name.suffix in (".bin", ".ds")]
    figures = json.loads(unmask("arm", f"{form}/{alone.name}", "--json")[1])
    assert figures["loss"] == json.loads(unmask("arm", "corpus", "--json")[1])["loss"]


def test_token_files_in_other_tokens_than_the_models_are_refused(unmask, place):
    def error(*arguments):
        status, out, err = unmask(*arguments)
        assert status in (1, 2)
        assert (out, err.count("\n")) == ("", 1)
        return err

    lit_gpt(place / "wide" / "valid.bin", [300] * 100)
    assert "valid.bin: holds the token 300, and the tokenizer has 258, so it was made with another" in error(
        "mdm", "wide"
    )
    lit_gpt(place / "late" / "valid.bin", [1] * 300_000 + [259] + [1] * 100_000)  # past what opening looks at
    assert "valid.bin: holds the token 259" in error("arm", "late", "--windows", "6251")
    lit_gpt(place / "beside" / "valid.bin", [1] * 100)
    tokenizing.train_bpe(iter([SPEECH]), 270).save(place / "beside" / "tokenizer")
    assert "beside: the tokenizer beside it is not the model's: name the texts" in error("mdm", "beside")
    lit_gpt(place / "few" / "few.bin", [1] * 99)  # of which the hundredth is no token
    assert "few: holds no text out: give --split (train), or" in error("mdm", "few")
    assert "few: a corpus of tokens goes alone" in error("mdm", "few", "texts")
    lm = language_model(tokenizing.byte_level(), causal=True)
    lm.tokenizer = NoTokenizer(258, 258, "")
    lm.save(place / "ids")
    assert "ids: has no tokenizer, so it takes and gives ids alone" in error("ids", "few")
    # the model's own, as another program may have saved it: without a mask token, and with other names for its ends
    tokenizing.byte_level().save(place / "few" / "tokenizer")
    (place / "few" / "tokenizer" / "tokenizer_config.json").write_text(json.dumps({"bos_token": None}))
    assert unmask("mdm", "few", "--split", "train")[0] == 0


def held_out_texts(place, split):
    from unmask.data.units import is_held_out

    names = [f"texts/{number}.txt" for number in range(10)]
    return [name for name in names if is_held_out(name, 0.3) == (split == "valid")]


def test_some_windows_are_said_to_be_some(unmask):
    _, out, _ = unmask("arm", "texts", "--windows", "7", "--length", "20")
    tokens = 55 * len(SPEECH) + 10
    assert f"140 of {tokens:,} tokens in 7 windows of 20" in out


def test_documents_come_from_lines_and_separators_too(unmask, place):
    figures = json.loads(unmask("arm", "lines.jsonl", "--text-field", "body", "--json")[1])
    assert figures["tokens"] == len("We thepeople") + 2
    (place / "poems.txt").write_text("one\n--\ntwo")
    figures = json.loads(unmask("arm", "poems.txt", "--separator", r"\n--\n", "--json")[1])
    assert figures["tokens"] == len("onetwo") + 2


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["absent", "texts"], 2, "absent: no such directory"),
        (["mdm"], 2, "no text given"),
        (["mdm", "absent.txt"], 2, "absent.txt: no such file or folder"),
        (["mdm", "empty.txt"], 1, "empty.txt: the file is empty"),
        (["mdm", "blank.txt"], 1, "blank.txt: no text in it"),
        (["mdm", "latin.txt"], 1, "latin.txt: not UTF-8: byte 3"),
        (["mdm", "texts", "--length", "65"], 2, "--length 65: more than the model's context of 64"),
        (["mdm", "texts", "--draws", "-1"], 2, "--draws -1: must not be negative"),
        (["mdm", "texts", "--split", "valid"], 2, "--split valid: only a prepared corpus and token files have splits"),
        (["mdm", "corpus", "--split", "vaild"], 2, "did you mean 'valid'"),
        (["mdm", "corpus", "texts"], 2, "corpus: a corpus of tokens goes alone"),
        (["mdm", "other"], 2, "other: was prepared with another tokenizer than the model's"),
        (["nan", "texts"], 1, "nan: gives this text a loss of nan"),
    ],
)
def test_errors_are_one_line_with_their_status(unmask, place, arguments, status, words):
    (place / "empty.txt").touch()
    (place / "blank.txt").write_text(" \n")
    (place / "latin.txt").write_bytes(b"caf\xe9")
    found, out, err = unmask(*arguments)
    assert (found, out) == (status, "")
    assert words in err
    assert err.count("\n") == 1
