import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unmask.errors import UnmaskError, UsageError
from unmask.evals import quality, samples
from unmask.evals.quality import Figure
from unmask.evals.reference_model import Likelihood, windows
from unmask.evals.samples import Sample

ROWS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=12), min_size=2, max_size=5)


def test_entropy_is_that_of_the_frequencies():
    assert quality.entropy("aabb") == pytest.approx(math.log(2))
    assert quality.entropy("aaaa") == 0
    assert quality.entropy("abcd") == pytest.approx(math.log(4))
    assert quality.entropy("aaab") == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))


def test_words_are_words_and_signs():
    assert quality.words("We, the people.") == ["We", ",", "the", "people", "."]


def test_repetition_counts_the_four_grams_that_came_before():
    assert quality.repetition("abcdabcd") == pytest.approx(1 / 5)  # abcd bcda cdab dabc abcd
    assert quality.repetition("abcdefgh") == 0
    assert quality.repetition("abc") is None


def test_self_repetition_counts_the_four_grams_of_other_samples_alone():
    assert quality.self_repetitions(["abcdabcd", "xabcd", "abc"]) == [pytest.approx(2 / 5), pytest.approx(1 / 2), None]


def test_distinct_counts_different_n_grams_of_all_samples():
    found = quality.distinct(["abab", "abc"], 2)
    assert found.value == pytest.approx(3 / 5)  # ab ba ab, ab bc: three kinds
    assert quality.distinct(["a", "b"], 2) is None


@settings(deadline=None)
@given(ROWS, st.integers(1, 3))
def test_the_jackknife_of_distinct_leaves_out_one_sample_at_a_time(rows, n):
    found = quality.distinct(rows, n)
    every = [quality.distinct(rows[:i] + rows[i + 1 :], n) for i in range(len(rows))]
    without = [each.value for each in every if each is not None]
    if found is None or len(without) < 2:
        return
    mean = sum(without) / len(without)
    error = math.sqrt((len(without) - 1) / len(without) * sum((value - mean) ** 2 for value in without))
    assert found.standard_error == pytest.approx(error, abs=1e-12)


def test_the_error_of_a_ratio_is_that_of_a_mean_where_the_samples_are_of_one_length():
    values = [3.0, 5.0, 4.0, 8.0]
    found, plain = quality.ratio(values, [2.0] * 4), quality.mean([value / 2 for value in values])
    assert (found.value, found.standard_error) == pytest.approx((plain.value, plain.standard_error))
    assert quality.ratio([1.0], [2.0]) == Figure(0.5, None)


def test_copied_units_are_those_in_runs_that_the_training_texts_have():
    training = [list("the quick brown fox"), list("jumps over")]
    assert quality.copied_shares([list("a quick b"), list("jumps")], training, 5) == pytest.approx([8 / 9, 1])
    assert quality.copied_shares([list("xjum"), []], training, 3) == pytest.approx([3 / 4, 0])
    assert quality.copied_shares([list("foxjumps")], training, 5) == pytest.approx([5 / 8])  # across no documents
    with pytest.raises(UsageError, match="must be at least 1"):
        quality.copied_shares([["a"]], training, 0)


@settings(deadline=None)
@given(st.lists(st.integers(0, 2), max_size=14), st.lists(st.lists(st.integers(0, 2), max_size=14), max_size=3))
def test_copied_shares_are_those_of_a_search_for_every_run(row, training):
    covered = set()
    for start in range(len(row) - 2):
        gram = row[start : start + 3]
        if any(gram == text[at : at + 3] for text in training for at in range(len(text))):
            covered |= {start, start + 1, start + 2}
    assert quality.copied_shares([row], training, 3)[0] == pytest.approx(len(covered) / len(row) if row else 0)


def test_figures_are_of_the_samples_that_have_text():
    texts = [Sample("a b"), Sample(""), Sample("a c")]
    found = quality.measure(texts, [Likelihood(2.0, 2), Likelihood(0.0, 0), Likelihood(4.0, 2)])
    assert (found.samples, found.empty, found.units) == (3, 1, 4)
    assert found.loss.value == pytest.approx(1.5)
    assert found.perplexity.value == pytest.approx(math.exp(1.5))
    assert found.bits_per_byte.value == pytest.approx(6 / math.log(2) / 6)
    assert found.distinct[1].value == pytest.approx(3 / 4)
    assert found.repetition is None
    assert json.loads(json.dumps(found.to_dict()))["perplexity"]["value"] == found.perplexity.value
    with pytest.raises(UsageError, match="all 2 samples are empty"):
        quality.measure([Sample(""), Sample(" ")])


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(0, 59), st.integers(2, 20))
def test_windows_score_every_token_once_behind_half_a_context(length, first, context):
    first = min(first, length)
    scored = []
    for start, begin, stop in windows(range(length), first, context):
        assert 0 <= start <= begin < stop <= length
        assert stop - start <= context
        assert start == 0 or begin - start >= context // 2
        scored += range(begin, stop)
    assert scored == list(range(first, length))


def test_samples_are_read_from_lines_traces_lists_and_text(tmp_path):
    record = {"text": "We the people", "fills": [" people"], "tokens": [1]}
    expected = [Sample(" people", "We the")]
    files = {
        "lines.jsonl": json.dumps(record) + "\n\n",
        "trace.json": json.dumps({"model": "m", "samples": [record]}),
        "list.json": json.dumps([record]),
        "one.json": json.dumps(record, indent=1),
        "prompt.jsonl": json.dumps({"text": "We the people", "prompt": "We the"}),
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        assert samples.read(tmp_path / name) == expected, name
    (tmp_path / "blanks.jsonl").write_text(json.dumps({"text": "a b c", "fills": ["a", " c"]}))
    assert samples.read(tmp_path / "blanks.jsonl") == [Sample("a b c")]
    (tmp_path / "text.txt").write_text("one\n---\ntwo\n")
    assert samples.read(tmp_path / "text.txt") == [Sample("one\n---\ntwo")]
    assert samples.read(tmp_path / "text.txt", "---\n") == [Sample("one"), Sample("two")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', "line 2: not JSON"),
        ("a.jsonl", b'{"tokens": [1]}', "sample 1: has no text"),
        ("a.json", b"[1]", "sample 1: no JSON object"),
        ("a.json", b'{"samples": 3}', "its samples are no list"),
        ("a.txt", b"\xff\xfe", "not UTF-8"),
        ("a.txt", b"\n", "no samples in it"),
        ("a.jsonl", b"", "no samples in it"),
    ],
)
def test_a_file_that_is_no_set_of_samples_is_named_with_what_is_wrong(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnmaskError, match=message):
        samples.read(tmp_path / name)
