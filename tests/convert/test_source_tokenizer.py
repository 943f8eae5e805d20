"""The tokenizers of checkpoints from elsewhere: where the mask token is, what is padding, whether bos is used."""

import json

import pytest
from tokenizers import AddedToken, processors
from tokenizers import Tokenizer as Backend

from unmask.config import ModelConfig
from unmask.convert import source_tokenizer
from unmask.data import tokenizer as tokenizers
from unmask.data.tokenizer import BOS, Tokenizer
from unmask.errors import UnmaskError


def config(vocab_size, mask_id=None):
    return ModelConfig(2, 2, 8, 8, vocab_size, 16, mask_id=mask_id, causal=mask_id is None)


def of_elsewhere(folder, specials=("<|end|>", "<|m|>"), bos=None, adds_bos=False, **named):
    """A byte-level tokenizer.json with other special tokens; the first of them is 258."""
    backend = source_tokenizer.without_mask(tokenizers.byte_level())
    backend.add_special_tokens([AddedToken(name, special=True) for name in specials])
    if adds_bos:
        single = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, backend.token_to_id(bos))])
        backend.post_processor = single
    folder.mkdir(exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": bos, **named}))
    return folder


def test_the_mask_token_is_the_one_that_the_network_has(tmp_path):
    tokenizer = source_tokenizer.read(of_elsewhere(tmp_path, specials=("<|end|>", "<|m|>", "<|after|>")))
    fitted, shape = source_tokenizer.fitted(tokenizer, config(264, 259), "x")
    assert (fitted.mask_id, shape.padded_rows) == (259, 3)
    fitted.save(tmp_path / "out")
    again = Tokenizer.load(tmp_path / "out")
    assert again.mask_id == 259
    assert again.decode(again.encode("text")) == "text"


def test_a_mask_token_among_the_padding_gets_a_name(tmp_path):
    tokenizer = source_tokenizer.read(of_elsewhere(tmp_path, specials=("<|end|>",)))
    fitted, shape = source_tokenizer.fitted(tokenizer, config(270, 264), "x")
    assert (fitted.mask_id, shape.padded_rows) == (264, 5)
    fitted.save(tmp_path / "out")
    assert Tokenizer.load(tmp_path / "out").mask_id == 264


def test_a_mask_token_just_past_the_vocabulary_is_added():
    fitted, shape = source_tokenizer.fitted(tokenizers.byte_level(), config(258, 258), "x")
    assert (fitted.mask_id, fitted.vocab_size, shape.padded_rows) == (258, 258, 0)


@pytest.mark.parametrize(("vocab_size", "mask_id"), [(200, None), (400, None), (400, 400), (257, 257)])
def test_a_tokenizer_of_another_vocabulary_is_refused(vocab_size, mask_id):
    with pytest.raises(UnmaskError, match="give the tokenizer that it was trained with"):
        source_tokenizer.fitted(tokenizers.byte_level(), config(vocab_size, mask_id), "x")


@pytest.mark.parametrize(("adds_bos", "expected"), [(True, 258), (False, None)])
def test_bos_counts_only_where_the_tokenizer_puts_it(adds_bos, expected, tmp_path):
    tokenizer = source_tokenizer.read(of_elsewhere(tmp_path, ("<|begin|>", "<|end|>"), "<|begin|>", adds_bos))
    assert tokenizer.bos_id == expected
    tokenizer.save(tmp_path / "out")
    assert Tokenizer.load(tmp_path / "out").bos_id == expected


def test_a_tokenizer_of_ours_keeps_its_bos(tmp_path):
    tokenizers.byte_level().save(tmp_path)
    assert source_tokenizer.read(tmp_path).bos_id == 256
    assert Backend.from_file(str(tmp_path / "tokenizer.json")).token_to_id(BOS) == 256


def test_vocabulary_and_merges_in_two_files(tmp_path):
    letters = json.loads(tokenizers.byte_level().to_json())["model"]["vocab"]
    vocabulary = {**letters, "th": 256, "the": 257}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nt h\nth e\n")
    tokens = {str(258 + n): {"content": name, "special": True} for n, name in enumerate(("<|endoftext|>", "<|mask|>"))}
    named = {"tokenizer_class": "DreamTokenizer", "eos_token": "<|endoftext|>", "mask_token": "<|mask|>"}
    named["chat_template"] = "{{ messages }}"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**named, "added_tokens_decoder": tokens}))
    tokenizer = source_tokenizer.read(tmp_path)
    assert (tokenizer.mask_id, tokenizer.eos_id, tokenizer.bos_id) == (259, 258, None)
    assert tokenizer.encode("the")[0] == 257
    assert tokenizer.chat_template == "{{ messages }}"
    fitted, shape = source_tokenizer.fitted(tokenizer, config(272, 259), "x")
    assert (fitted.mask_id, shape.padded_rows) == (259, 12)


@pytest.mark.parametrize("mask_id", [None, 259, 270], ids=["none", "inside", "in the padding"])
def test_the_chat_template_stays_whatever_is_done_to_the_tokenizer(mask_id, tmp_path):
    folder = of_elsewhere(tmp_path, ("<|begin|>", "<|m|>"), "<|begin|>", chat_template="{{ messages }}")
    fitted, _ = source_tokenizer.fitted(source_tokenizer.read(folder), config(272, mask_id), "x")
    assert (fitted.chat_template, fitted.bos_id) == ("{{ messages }}", None)


def test_no_tokenizer_is_none(tmp_path):
    assert source_tokenizer.read(tmp_path) is None
