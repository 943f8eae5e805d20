"""Which examples share a row."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from unmask.data.examples import Order
from unmask.data.row_packing import first_fit_decreasing


@given(lengths=st.lists(st.integers(1, 12), max_size=40), more=st.integers(0, 5))
def test_each_example_is_in_one_row_that_it_fits_and_no_two_rows_fit_into_one(lengths, more):
    width = max(lengths, default=0) + more
    rows = first_fit_decreasing(np.array(lengths, np.int64), width)
    assert sorted(number for row in rows for number in row) == list(range(len(lengths)))
    used = sorted(sum(lengths[number] for number in row) for row in rows)
    assert not used or used[-1] <= width
    assert len(used) < 2 or used[0] + used[1] > width


def test_rows_are_filled_from_the_longest_and_equals_keep_their_order():
    assert first_fit_decreasing(np.array([2, 5, 3, 2, 1, 5]), 5) == [[1], [5], [2, 0], [3, 4]]


def test_packing_changes_the_rows_of_a_batch_and_not_its_examples():
    lengths = np.random.default_rng(0).geometric(0.01, 300)
    plain, packed = (Order(lengths, batch_size=50, seed=0, packing=packing) for packing in (False, True))
    for step in range(6):
        assert plain[step].tolist() == packed[step].tolist()
        assert plain.rows(step) == [[place] for place in range(50)]
        assert max(lengths[plain[step]][row].sum() for row in packed.rows(step)) == plain.width(step)
    assert packed.total_tokens(6) < 1.15 * lengths.sum() < plain.total_tokens(6) / 3
    assert packed.total_tokens(6) == sum(packed.width(step) * len(packed.rows(step)) for step in range(6))
