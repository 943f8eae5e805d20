"""Examples: their order, what is held out, and what they take of memory."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unmask.data import examples
from unmask.data.chat_template import Encoded
from unmask.data.examples import Examples, Order


def test_examples_come_back_as_they_were():
    pairs = [Encoded([1, 2], [3]), Encoded([], [4, 5]), Encoded([6], [7, 8, 9])]
    packed = Examples.of(iter(pairs))
    assert [packed[index] for index in range(len(packed))] == pairs
    assert packed.lengths_N.tolist() == [3, 2, 4]
    assert packed.digest() == Examples.of(pairs).digest() != Examples.of(pairs[::-1]).digest()
    moved = [Encoded([1], [2, 3]), *pairs[1:]]
    assert Examples.of(moved).digest() != packed.digest()
    assert list(map(len, (Examples.of([]), examples.part(packed, [True, False, True])))) == [0, 2]


def test_distinct_examples_are_each_there_once_in_their_order():
    pairs = [Encoded([1], [2]), Encoded([1, 2], [3]), Encoded([1], [2]), Encoded([1], [2, 3])]
    once = Examples.of(pairs).distinct()
    assert [once[index] for index in range(len(once))] == [pairs[0], pairs[1], pairs[3]]


@settings(max_examples=40, deadline=None)
@given(count=st.integers(1, 40), batch=st.integers(1, 7), buckets=st.integers(1, 5), seed=st.integers(0, 3))
def test_every_epoch_has_each_example_once_and_any_step_starts_at_once(count, batch, buckets, seed):
    lengths = np.arange(count) * 7 % 11 + 1
    order = Order(lengths, batch_size=batch, seed=seed, bucket_batches=buckets)
    steps = -(-2 * count // (batch * buckets)) * buckets
    taken = [order[step].tolist() for step in range(steps)]
    assert all(len(numbers) == batch for numbers in taken)
    counts = np.bincount([number for numbers in taken for number in numbers], minlength=count)
    whole = steps * batch // count
    assert set(counts.tolist()) <= {whole, whole + 1}
    fresh = Order(lengths, batch_size=batch, seed=seed, bucket_batches=buckets)
    assert fresh[steps - 1].tolist() == taken[-1]
    assert fresh.total_tokens(steps) == sum(batch * lengths[numbers].max() for numbers in taken)
    assert fresh.total_tokens(0) == 0


def test_buckets_spare_padding():
    lengths = np.random.default_rng(0).integers(10, 1000, 640)
    plain, sorted_ = (Order(lengths, batch_size=16, seed=0, bucket_batches=many) for many in (1, 20))
    assert sorted_.total_tokens(40) < 1.2 * lengths.sum() < plain.total_tokens(40) / 1.3
    assert [sorted_.width(step) for step in range(20)] != sorted(sorted_.width(step) for step in range(20))


def test_copies_of_a_conversation_are_held_out_together():
    groups = [f"{number % 10}" for number in range(100)]
    chosen = examples.held_out(groups, 0.25)
    assert sum(chosen) == 20
    assert {group for group, taken in zip(groups, chosen, strict=True) if taken} == {"0", "1"}
    assert sum(examples.held_out(groups, 0.001)) == 10
    assert sum(examples.held_out(groups, 0.0)) == 0
    assert examples.held_out(["a"] * 5, 0.5) == [False] * 5


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_something_is_always_left_to_train_on(share):
    assert examples.held_out(["a", "b"], share) == [True, False]
