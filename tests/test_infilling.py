import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmask import infilling
from unmask.data import tokenizer as tokenizers
from unmask.errors import UsageError

WORDS = ["The cat sat on the mat, and the dog sat beside the cat."] * 20


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("The _ sat.", ["The ", 1, " sat."]),
        ("_", [1]),
        ("__ a ___", [2, " a ", 3]),
        ("a _[20]", ["a ", 20]),
        ("_[2]_", [2, 1]),
        (r"snake\_case _", ["snake_case ", 1]),
        (r"\__", ["_", 1]),
        ("_ [3]", [1, " [3]"]),
        (r"_\__", [1, "_", 1]),
        ("a _[2-8] b", ["a ", range(2, 9), " b"]),
        ("_[3-3]_[1-2]", [range(3, 4), range(1, 3)]),
        ("_ [2-3]", [1, " [2-3]"]),
    ],
)
def test_blanks_are_underscores(text, parts):
    assert infilling.parse(text) == parts


@given(st.lists(st.integers(1, 30) | st.text("ab _\\[1-]", min_size=1), min_size=1))
def test_any_text_and_blanks_can_be_written(parts):
    merged = []
    for part in parts:
        if isinstance(part, str) and merged and isinstance(merged[-1], str):
            merged[-1] += part
        elif not (isinstance(part, str) and part.endswith("\\")):  # a backslash before a blank would escape it
            merged.append(part)
    if not any(isinstance(part, int) for part in merged) or any(
        isinstance(part, str) and ("\\_" in part or part.endswith("\\")) for part in merged
    ):
        return
    written = "".join(part.replace("_", r"\_") if isinstance(part, str) else f"_[{part}]" for part in merged)
    assert infilling.parse(written) == merged


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no blank", "has no blank"),
        ("a _[0]", "length 0"),
        ("a _[0-3]", "length 0"),
        ("a _[4-2]", "from 4 to 2: turn"),
        (r"a\_b", "has no blank"),
    ],
)
def test_texts_without_a_blank_are_refused(text, words):
    with pytest.raises(UsageError, match=words):
        infilling.parse(text)


def test_choices_are_the_texts_of_every_length():
    assert infilling.choices(["a ", range(2, 4), " b ", 1, range(1, 3)]) == [
        ["a ", 2, " b ", 1, 1],
        ["a ", 2, " b ", 1, 2],
        ["a ", 3, " b ", 1, 1],
        ["a ", 3, " b ", 1, 2],
    ]
    assert infilling.choices(["a ", 2]) == [["a ", 2]]


def fill(tokenizer, text, *words):
    """Encode with blanks, put the tokens of `words` (as they stand in a text) into them, and decode."""
    tokens, blanks = infilling.encode(infilling.choices(infilling.parse(text))[0], tokenizer, tokenizer.mask_id)
    for blank, word in zip(blanks, words, strict=True):
        assert tokens[blank.start : blank.stop] == [tokenizer.mask_id] * len(blank)
        ids = infilling.encode_after(word, tokenizer)
        assert len(ids) == len(blank)
        tokens[blank.start : blank.stop] = ids
    assert tokenizer.mask_id not in tokens
    return tokenizer.decode(tokens), tokens


def test_a_blank_stands_for_the_word_with_its_space():
    tokenizer = tokenizers.train_bpe(iter(WORDS), 330)
    text, tokens = fill(tokenizer, "The _ sat on the _.", " cat", " mat")
    assert text == "The cat sat on the mat."
    assert tokens == tokenizer.encode("The cat sat on the mat.")


def test_a_blank_of_the_byte_tokenizer_is_one_byte():
    tokenizer = tokenizers.byte_level()
    text, tokens = fill(tokenizer, "The ___ sat_", "cat", ".")
    assert text == "The cat sat."
    assert tokens == tokenizer.encode("The cat sat.")


def test_sentencepiece_puts_no_space_after_a_blank():
    pytest.importorskip("mistral_common", reason="the package mistral-common is not installed")
    tokenizer = tokenizers.mistral()
    text, tokens = fill(tokenizer, "The _ sat on the _.", " cat", " mat")
    assert text == "The cat sat on the mat."
    assert tokens == tokenizer.encode("The cat sat on the mat.")
