import importlib.util
import itertools
import json
import string
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, models, pre_tokenizers
from transformers import AutoTokenizer
from transformers.convert_slow_tokenizer import import_protobuf

from unmask.data import tokenizer as tokenizing
from unmask.data.tokenizer import BOS, EOS, MASK, Tokenizer
from unmask.errors import UnmaskError, UsageError

SPEECH = [
    "Fellow-citizens of the Senate and of the House of Representatives: I embrace with great satisfaction the",
    "opportunity which now presents itself of congratulating you on the present favorable prospects of our public",
    "affairs. In 1848, as before,  it's\n\n\tnot certain -- Überall größere Bäume; 國情咨文, e\u0301 and é. 🎆",
]
TEXTS = st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("  \n\tthe of")), max_size=80)


@pytest.fixture(scope="module")
def bpe():
    return tokenizing.train_bpe(SPEECH * 3, 400)


@pytest.fixture(scope="module")
def byte_tokenizer():
    return tokenizing.byte_level()


@pytest.fixture(scope="module")
def mistral():
    if importlib.util.find_spec("mistral_common") is None:
        pytest.skip("the package mistral-common is not installed")
    return tokenizing.mistral()


def word_level(vocab, **special):
    backend = tokenizers.Tokenizer(models.WordLevel(vocab=vocab, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return Tokenizer(backend, **{"bos": None, "eos": None, "mask": None, **special})


# A byte-level BPE, trained


def test_a_trained_bpe_has_the_vocabulary_that_was_asked_for_and_the_mask_beyond_it(bpe):
    assert bpe.vocab_size == 400
    assert (bpe.bos_id, bpe.eos_id, bpe.mask_id) == (0, 1, 400)
    assert max(max(bpe.encode(text)) for text in SPEECH) < 400


def test_training_on_the_same_text_gives_the_same_tokenizer(bpe):
    assert tokenizing.train_bpe(iter(SPEECH * 3), 400).to_json() == bpe.to_json()


def test_a_bpe_of_little_text_is_smaller_than_asked_for():
    tokenizer = tokenizing.train_bpe(["so so so"], 4000)
    assert 258 < tokenizer.vocab_size < 300
    assert tokenizer.mask_id == tokenizer.vocab_size


@given(TEXTS)
@settings(max_examples=200, deadline=None)
def test_any_text_comes_back_from_a_bpe_trained_on_other_text(bpe, text):
    assert bpe.decode(bpe.encode(text)) == text


# Bytes


@given(TEXTS)
@settings(max_examples=200, deadline=None)
def test_byte_tokens_are_the_bytes(byte_tokenizer, text):
    assert bytes(byte_tokenizer.encode(text)) == text.encode()
    assert byte_tokenizer.decode(byte_tokenizer.encode(text)) == text


def test_the_byte_tokenizer_has_two_more_tokens_and_the_mask_beyond_them(byte_tokenizer):
    assert byte_tokenizer.vocab_size == 258
    assert (byte_tokenizer.bos_id, byte_tokenizer.eos_id, byte_tokenizer.mask_id) == (256, 257, 258)


# SentencePiece


def sentencepiece(text, scores, add_prefix=True):
    """SentencePiece's BPE as it is defined: join the best-scored pair of neighbours, the leftmost of equals, again."""
    pieces = list(("▁" if add_prefix else "") + text.replace(" ", "▁"))
    while True:
        joined = [(scores.get(a + b, -1e9), -i) for i, (a, b) in enumerate(itertools.pairwise(pieces))]
        best, place = max(joined, default=(-1e9, 0))
        if best == -1e9:
            return pieces
        pieces[-place : -place + 2] = ["".join(pieces[-place : -place + 2])]


def model_file(path, add_prefix=True, **spec):
    """A small SentencePiece model: bytes, the letters, some words; returns the scores of the ordinary pieces."""
    proto = import_protobuf().ModelProto()
    words = ["th", "▁th", "▁the", "he", "er", "▁t", "the", "re", "▁a", "an", "nd", "and", "▁and", "▁▁", "ere"]
    ordinary = {word: -float(rank) for rank, word in enumerate([*words, "▁", *string.ascii_letters])}
    kinds = {"<unk>": 2, "<s>": 3, "</s>": 3} | {f"<0x{byte:02X}>": 6 for byte in range(256)}
    for piece, kind in [*kinds.items(), ("[PAD]", 4), *((word, 1) for word in ordinary)]:
        proto.pieces.add(piece=piece, score=ordinary.get(piece, 0.0), type=kind)
    proto.trainer_spec.model_type = spec.get("model_type", 2)
    proto.trainer_spec.byte_fallback = spec.get("byte_fallback", True)
    proto.normalizer_spec.add_dummy_prefix = add_prefix
    proto.normalizer_spec.remove_extra_whitespaces = False
    path.write_bytes(proto.SerializeToString())
    return ordinary


@pytest.mark.parametrize("add_prefix", [True, False])
def test_a_sentencepiece_model_is_tokenized_by_its_definition(tmp_path, add_prefix):
    scores = model_file(tmp_path / "tokenizer.model", add_prefix)
    tokenizer = Tokenizer.load(tmp_path)
    ids = {piece: 260 + rank for rank, piece in enumerate(scores)}
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.vocab_size) == (1, 2, 260 + len(scores))

    @given(st.text("thenrda ", min_size=1, max_size=24))
    @settings(max_examples=300, deadline=None)
    def check(text):
        assert tokenizer.encode(text) == [ids[piece] for piece in sentencepiece(text, scores, add_prefix)]

    check()


@pytest.mark.parametrize("add_prefix", [True, False])
def test_sentencepiece_falls_back_on_bytes_and_text_comes_back(tmp_path, add_prefix):
    model_file(tmp_path / "my.model", add_prefix)
    tokenizer = Tokenizer.load(tmp_path / "my.model")
    assert tokenizer.encode("é")[-2:] == [3 + 0xC3, 3 + 0xA9]
    for text in ["the  and é\n國 ", " the", "<s>", "🎆"]:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_mistral_is_tokenized_by_its_definition(mistral):
    pieces = mistral_scores()
    for text in SPEECH:
        ascii_text = "".join(char for char in text if char.isascii() and char not in "\n\t")
        found = [list(pieces)[token] for token in mistral.encode(ascii_text)]
        ordinary = {piece: score for piece, (score, kind) in pieces.items() if kind == 1}
        assert found == sentencepiece(ascii_text, ordinary)


def mistral_scores():
    package = importlib.util.find_spec("mistral_common")
    proto = import_protobuf().ModelProto()
    proto.ParseFromString((Path(package.origin).parent / "data" / "tokenizer.model.v1").read_bytes())
    return {piece.piece: (piece.score, piece.type) for piece in proto.pieces}


def test_mistral_has_the_layout_of_the_paper(mistral):
    assert (mistral.vocab_size, mistral.mask_id, mistral.bos_id, mistral.eos_id) == (32000, 32000, 1, 2)
    assert mistral.encode("Hello world") == [22557, 1526]
    for text in SPEECH:
        assert mistral.decode(mistral.encode(text)) == text


@pytest.mark.parametrize("spec", [{"model_type": 1}, {"byte_fallback": False}])
def test_another_kind_of_sentencepiece_model_is_refused(tmp_path, spec):
    model_file(tmp_path / "my.model", **spec)
    with pytest.raises(UnmaskError, match=r"my\.model: not a plain SentencePiece BPE with byte fallback"):
        Tokenizer.load(tmp_path / "my.model")


# Text is text


@pytest.mark.parametrize("name", [BOS, EOS, MASK])
def test_the_name_of_a_special_token_in_a_text_is_text(bpe, byte_tokenizer, name):
    for tokenizer in (bpe, byte_tokenizer):
        tokens = tokenizer.encode(f"a {name} b")
        assert not {tokenizer.bos_id, tokenizer.eos_id, tokenizer.mask_id} & set(tokens)
        assert tokenizer.decode(tokens) == f"a {name} b"


def test_mistral_reads_special_names_as_text(mistral):
    tokens = mistral.encode("a </s> b")
    assert mistral.eos_id not in tokens
    assert mistral.decode(tokens) == "a </s> b"


def test_decoding_leaves_special_tokens_out(bpe):
    text = bpe.encode("the Senate")
    assert bpe.decode([bpe.bos_id, *text, bpe.mask_id, bpe.eos_id]) == "the Senate"


def test_lone_surrogates_are_refused(bpe):
    with pytest.raises(UnmaskError, match="lone surrogates"):
        bpe.encode("a\ud800b")


# Long texts in parts


def check_parts(tokenizer, text, size, blocks):
    cuts = sorted(min(cut, len(text)) for cut in blocks)
    pieces = [text[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    parts = list(tokenizer.parts(pieces, size))
    assert all(len(part) <= size for part in parts)
    assert [token for part in parts for token in tokenizer.encode(part)] == tokenizer.encode(text)


WORDS = st.lists(
    st.sampled_from(["the", "and", "Überall", "it's", "1848,", "國情", "a\n\nb", "c  d", "--"]), max_size=80
)


@given(WORDS, st.integers(40, 80), st.lists(st.integers(0, 300), max_size=4))
@settings(max_examples=150, deadline=None)
def test_parts_of_a_text_have_the_ids_of_the_whole(bpe, words, size, blocks):
    check_parts(bpe, " ".join(words), size, blocks)


@given(WORDS, st.integers(40, 80), st.lists(st.integers(0, 300), max_size=4))
@settings(max_examples=50, deadline=None)
def test_parts_have_the_ids_of_the_whole_with_a_prepended_space_too(mistral, words, size, blocks):
    check_parts(mistral, " ".join(words), size, blocks)


def test_a_long_text_and_a_stream_of_it_have_the_same_ids(bpe):
    text = " ".join(SPEECH * 200)
    assert len(text) > 3 * tokenizing.PART_CHARS
    whole = bpe.encode(text)
    assert whole == [token for some in bpe.encode_stream([text[:7000], text[7000:]]) for token in some]
    assert bpe.decode(whole) == text


def test_a_long_text_without_spaces_loses_nothing(bpe):
    text = "國情咨文" * tokenizing.PART_CHARS
    assert bpe.decode(bpe.encode(text)) == text


def test_a_batch_gives_what_its_texts_give_alone(bpe):
    assert bpe.encode_batch(SPEECH) == [bpe.encode(text) for text in SPEECH]


# Files


@pytest.mark.parametrize("kind", ["bpe", "byte_tokenizer", "mistral"])
def test_a_saved_tokenizer_loads_unchanged(kind, request, tmp_path):
    tokenizer = request.getfixturevalue(kind)
    tokenizer.save(tmp_path)
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        loaded = Tokenizer.load(path)
        for name in ("vocab_size", "bos_id", "eos_id", "mask_id"):
            assert getattr(loaded, name) == getattr(tokenizer, name)
        assert loaded.encode_batch(SPEECH) == tokenizer.encode_batch(SPEECH)
        assert loaded.to_json() == tokenizer.to_json()


def test_transformers_reads_a_saved_tokenizer(bpe, tmp_path):
    bpe.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.mask_token_id) == (0, 1, 400)
    for text in SPEECH:
        assert theirs(text)["input_ids"] == bpe.encode(text)
        assert theirs.decode(theirs(text)["input_ids"]) == text


def test_special_tokens_come_from_the_config_beside_the_file(tmp_path):
    tokenizer = word_level({"?": 0, "[CLS]": 1, "end": 2, "blank": 3, "a": 4})
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_json())
    assert Tokenizer.load(tmp_path).bos_id == 1  # by its usual name
    assert Tokenizer.load(tmp_path).eos_id is None
    config = {"bos_token": None, "eos_token": {"content": "end"}, "mask_token": "blank"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    loaded = Tokenizer.load(tmp_path)
    assert (loaded.bos_id, loaded.eos_id, loaded.mask_id) == (None, 2, 3)
    loaded.save(tmp_path / "saved")
    assert Tokenizer.load(tmp_path / "saved").bos_id is None  # though the usual name is there


def test_a_mask_of_the_files_own_in_the_middle_keeps_all_rows_predicted(tmp_path):
    tokenizer = word_level({"?": 0, "[MASK]": 1, "[SEP]": 2, "a": 3}, eos="[SEP]", mask="[MASK]")
    tokenizer.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert (loaded.mask_id, loaded.eos_id, loaded.vocab_size) == (1, 2, 4)


def test_a_mask_of_the_files_own_at_the_end_is_not_predicted(tmp_path):
    backend = tokenizers.Tokenizer(models.WordLevel(vocab={"?": 0, "a": 1}, unk_token="?"))
    backend.add_special_tokens([AddedToken("<|mdm_mask|>", special=True)])
    backend.save(str(tmp_path / "tokenizer.json"))
    loaded = Tokenizer.load(tmp_path)
    assert (loaded.mask_id, loaded.vocab_size) == (2, 2)


def test_padding_and_truncation_of_a_file_are_left_aside(tmp_path):
    tokenizer = word_level({"?": 0, "a": 1})
    fields = json.loads(tokenizer.to_json())
    fields["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    (tmp_path / "tokenizer.json").write_text(json.dumps(fields))
    assert Tokenizer.load(tmp_path).encode("a a a a") == [1, 1, 1, 1]


@pytest.mark.parametrize("vocab", [{"?": 0, "a": 1, "b": 5}, {"?": 0, "a": 1, "b": 3}, {"?": 1, "a": 2, "b": 3}])
def test_ids_with_gaps_are_refused_rather_than_shared_with_the_mask(vocab):
    with pytest.raises(UnmaskError, match="ids have gaps"):
        word_level(vocab)


def test_a_special_token_that_is_not_in_the_vocabulary_is_named():
    with pytest.raises(UnmaskError, match="'</s>' is not in the tokenizer's vocabulary"):
        word_level({"?": 0}, eos="</s>")


def test_a_file_that_is_no_tokenizer_is_named(tmp_path):
    (tmp_path / "a.json").write_text('{"a": 1}')
    (tmp_path / "b.model").write_bytes(b"\x00\x01junk")
    (tmp_path / "tokenizer_config.json").write_text("{")
    for name, reason in [("a.json", "not a tokenizer.json"), ("b.model", "neither a tokenizer.json nor a Sentence")]:
        with pytest.raises(UnmaskError, match=f"{name}: {reason}"):
            Tokenizer.load(tmp_path / name)
    with pytest.raises(UnmaskError, match=r"no tokenizer\.json or tokenizer\.model in it"):
        Tokenizer.load(tmp_path)
    with pytest.raises(UnmaskError, match=r"absent\.json: no such tokenizer file"):
        Tokenizer.load(tmp_path / "absent.json")
    tokenizing.byte_level().save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(UnmaskError, match=r"tokenizer_config\.json: not JSON"):
        Tokenizer.load(tmp_path)


# What --tokenizer means


def test_a_name_a_size_or_a_path_means_a_tokenizer(bpe, tmp_path):
    bpe.save(tmp_path)
    assert tokenizing.resolve("bpe:4096") == 4096
    assert tokenizing.resolve("bytes").vocab_size == 258
    assert tokenizing.resolve(str(tmp_path)).vocab_size == 400
    assert tokenizing.resolve(str(tmp_path / "tokenizer.json")).vocab_size == 400


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("bpe:many", "whole number of at least 258"),
        ("bpe:257", "whole number of at least 258"),
        ("bpe:", "known: bpe:N"),
        ("byte", "did you mean 'bytes'"),
        ("mistrl", "did you mean 'mistral'"),
        ("absent/tokenizer.json", "no such file"),
    ],
)
def test_a_tokenizer_that_is_none_is_a_usage_error(spec, words):
    with pytest.raises(UsageError, match=words):
        tokenizing.resolve(spec)
