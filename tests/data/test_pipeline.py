"""The order of training is a function of (seed, step, row), however many processes read it and wherever they start."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unmask.data.pipeline import Batches
from unmask.data.prepare import PrepareOptions, prepare
from unmask.data.source import Corpus
from unmask.errors import UnmaskError, UsageError

TOKENS = np.arange(10_007, dtype=np.uint16)


def batches(**fields):
    return Batches(TOKENS, **{"length": 10, "batch_size": 7, "seed": 3, **fields})


def window_numbers(batch_BL):
    return (batch_BL[:, 0] // 10).tolist()


def test_a_batch_holds_windows_of_the_tokens():
    batch_BL = batches()[5]
    assert (batch_BL.shape, batch_BL.dtype) == ((7, 10), np.int64)
    assert (batch_BL - batch_BL[:, :1] == np.arange(10)).all()
    assert (batch_BL[:, 0] % 10 == 0).all()


def test_an_epoch_is_a_permutation_of_all_windows_and_each_epoch_another():
    steps = batches()
    assert steps.windows == 1000
    numbers = [number for step in range(2 * 1000 // 7 + 1) for number in window_numbers(steps[step])]
    first, second = numbers[:1000], numbers[1000:2000]
    assert sorted(first) == sorted(second) == list(range(1000))
    assert first != second
    assert first != sorted(first)
    assert steps.epoch(0) == 0
    assert steps.epoch(1000) == 7


def epoch_of(steps):
    return {number for step in range(-(-steps.windows // 7)) for number in window_numbers(steps[step])}


def test_an_epoch_of_limited_tokens_has_only_so_many_from_all_over_the_corpus_whatever_the_seed():
    few, more = batches(unique_tokens=145), batches(unique_tokens=700)
    assert (few.windows, more.windows) == (14, 70)
    assert len(epoch_of(few)) == 14
    assert len(epoch_of(more)) == 70
    assert epoch_of(few) < epoch_of(more)
    assert epoch_of(few) == epoch_of(batches(unique_tokens=145, seed=4))
    assert 300 < np.mean(list(epoch_of(more))) < 700
    assert few.epoch(4) == 2


def test_every_epoch_of_limited_tokens_has_the_same_windows_in_another_order():
    few = batches(unique_tokens=145)
    numbers = [number for step in range(6) for number in window_numbers(few[step])]
    epochs = [numbers[start : start + 14] for start in (0, 14, 28)]
    assert [set(epoch) for epoch in epochs] == [epoch_of(few)] * 3
    assert epochs[0] != epochs[1] != epochs[2]


@pytest.mark.parametrize("unique", [9, 10_008])
def test_limited_tokens_are_at_least_a_window_and_no_more_than_the_corpus_has(unique):
    with pytest.raises(UsageError, match=rf"unique_tokens {unique} must be from 10, one window, to the 10007"):
        batches(unique_tokens=unique)


def test_the_seed_alone_decides_the_order():
    assert (batches()[11] == batches()[11]).all()
    assert (batches()[11] != batches(seed=4)[11]).any()


def test_the_order_is_the_recorded_one():
    """A run that was begun with an earlier version goes on with the same data."""
    assert window_numbers(batches()[0]) == [336, 647, 472, 869, 774, 642, 41]
    assert window_numbers(batches()[143]) == [513, 269, 93, 823, 376, 244, 453]  # in the second epoch


def test_the_order_is_that_of_another_process():
    script = (
        "import numpy as np\nfrom unmask.data.pipeline import Batches\n"
        "batches = Batches(np.arange(10007, dtype=np.uint16), length=10, batch_size=7, seed=3)\n"
        "print(batches[123][:, 0].tolist())"
    )
    found = subprocess.check_output([sys.executable, "-c", script], text=True)
    assert found.strip() == str(batches()[123][:, 0].tolist())


@given(st.integers(0, 10**6), st.integers(1, 8), st.integers(0, 2**40))
@settings(max_examples=60, deadline=None)
def test_rows_of_processes_make_up_the_global_batch(step, processes, seed):
    size = 8
    whole_BL = batches(batch_size=size, seed=seed)[step]
    edges = [size * rank // processes for rank in range(processes + 1)]
    parts = [
        batches(batch_size=size, seed=seed, rows=slice(start, stop))[step] for start, stop in itertools.pairwise(edges)
    ]
    assert (np.concatenate(parts) == whole_BL).all()


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_the_windows_come_in_one_order_whatever_the_batch_size(batch_size):
    steps = batches(batch_size=batch_size)
    numbers = [number for step in range(-(-128 // batch_size)) for number in window_numbers(steps[step])]
    one_by_one = [window_numbers(batches(batch_size=1)[step])[0] for step in range(128)]
    assert numbers[:128] == one_by_one


@pytest.mark.parametrize("start", [0, 1, 17, 142, 143, 10_000_000])
def test_iterating_starts_at_any_step(start):
    steps = batches()
    iterator = steps.iterate(start)
    for step in range(start, start + 20):
        assert (next(iterator) == steps[step]).all()
    iterator.close()


def test_two_iterations_do_not_disturb_each_other():
    steps = batches()
    one, other = steps.iterate(3), steps.iterate(500)
    for step in range(10):
        assert (next(one) == steps[3 + step]).all()
        assert (next(other) == steps[500 + step]).all()


def test_a_window_may_lie_across_shards(tmp_path):
    (tmp_path / "a.txt").write_text("The state of the Union. " * 100)
    prepare(
        [tmp_path / "a.txt"], tmp_path / "corpus", PrepareOptions(tokenizer="bytes", valid_fraction=0, shard_tokens=77)
    )
    source = Corpus.open(tmp_path / "corpus").split("train")
    steps = Batches(source, length=50, batch_size=source.split.tokens // 50, seed=0)
    rows = {tuple(row) for row in steps[0].tolist()}
    whole = source[:].tolist()
    assert rows == {tuple(whole[start : start + 50]) for start in range(0, len(whole) - 49, 50)}


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"length": 20_000}, UnmaskError, "10007 tokens are less than one window of 20000: lower the length"),
        ({"length": 0}, UsageError, "length 0 and batch_size 7 must be at least 1"),
        ({"batch_size": 0}, UsageError, "length 10 and batch_size 0 must be at least 1"),
        ({"rows": slice(7, 8)}, UsageError, "of a batch of 7 are none: use no more processes than rows"),
    ],
)
def test_numbers_that_make_no_batch_are_told(fields, error, words):
    with pytest.raises(error, match=words):
        batches(**fields)


def test_a_step_is_not_negative():
    with pytest.raises(IndexError, match="step -1 is negative"):
        batches()[-1]
