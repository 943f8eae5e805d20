"""How many masked rows each number of masked tokens gets.

The error of a stratified estimate of K scored tokens from n rows is least where the numbers m get rows in proportion to
s_m, the standard deviation of (what the baseline leaves of S(M)) / m over the sets M of m tokens (Neyman, 1934); no
number gets more rows than it has sets. What s_m looks like differs little between texts and networks, so it is taken
from measurements (`benchmarks/estimators.py`) and no rows are spent on a pilot:

* with the baseline of the full set alone, s_m falls as m^-0.65;
* with the sets of one token evaluated too (K rows), it is flat, and lower by 0.92 / sqrt(K);
* with the sets of K - 1 tokens as well (another K rows), for short texts, lower again, and 0 towards m = K.

Of these three the one that promises the least error is taken.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

FULL_SET_DECAY = 0.65
SINGLES_GAIN = 0.92
PAIRS_GAIN = 0.65
PAIRS_UP_TO = 12
"""Most scored tokens for which the sets of all tokens but one tell enough of what the tokens tell of each other."""


@dataclass(frozen=True)
class Run:
    """Neighbouring numbers of masked tokens, and the rows drawn from them: first the number, then a set."""

    first: int
    last: int
    rows: int


def number_of_sets(scored: int, count: int) -> float:
    """Sets of `count` of `scored` tokens; infinity for more than any plan has rows."""
    few = min(count, scored - count)
    return math.inf if few > 3 and scored > 50 else float(math.comb(scored, count))


@lru_cache(maxsize=1024)
def allocate(scored: int, num_samples: int) -> tuple[tuple[Run, ...], ...]:
    """The runs of a plan of at most `num_samples` (3 or more) rows for `scored` tokens, grouped into strata.

    A stratum is one number with all its sets or two rows at least, or several neighbouring runs with two rows together;
    only where there are no more than two sets is one row left by itself. The set of all tokens is always there.
    """
    left = num_samples - 1
    flat = SINGLES_GAIN / math.sqrt(scored)
    choices = [_shares(scored, left, [count**-FULL_SET_DECAY for count in range(1, scored)])]
    if left >= scored + 2 and scored > 2:
        choices.append(_shares(scored, left, [0.0, *[flat] * (scored - 2)]))
    if left >= 2 * scored + 2 and 4 <= scored <= PAIRS_UP_TO:
        after_pairs = [math.sqrt(1 - ((count - 1) / (scored - 2)) ** 2) for count in range(2, scored)]
        choices.append(_shares(scored, left, [0.0, *(PAIRS_GAIN * flat * each for each in after_pairs)]))
    _, shares = min(choices, key=lambda choice: choice[0])
    return (*_strata(scored, _runs(scored, shares)), (Run(scored, scored, 1),))


def _shares(scored: int, rows: int, spread: Sequence[float]) -> tuple[float, list[float]]:
    """The best shares of `rows` among the numbers 1..K-1, of a row or less too, behind the variance they promise.

    A number whose `spread` is 0 is one that the others' baseline needs: it gets all its sets.
    """
    sets = [number_of_sets(scored, count) for count in range(1, scored)]
    shares = [number if not each else 0.0 for number, each in zip(sets, spread, strict=True)]
    left = rows - sum(shares)
    waiting: list[int] = [index for index, each in enumerate(spread) if each]
    while waiting:
        unit = left / sum(spread[index] for index in waiting)
        full = [index for index in waiting if unit * spread[index] >= sets[index]]
        for index in full or waiting:
            shares[index] = min(sets[index], unit * spread[index])
        if not full:
            break
        left -= sum(sets[index] for index in full)
        waiting = [index for index in waiting if index not in full]
    variance = sum(spread[index] ** 2 * (1 / shares[index] - 1 / sets[index]) for index in waiting)
    return variance, shares


def _runs(scored: int, shares: Sequence[float]) -> list[Run]:
    """Whole rows: numbers with about a row or more get their own run, the others share one with their neighbours."""
    runs: list[Run] = []
    due = 0.0
    numbered = [(count, share, number_of_sets(scored, count)) for count, share in enumerate(shares, start=1)]
    for complete, members in itertools.groupby(numbered, key=lambda item: item[1] == item[2]):
        if complete:
            runs += [Run(count, count, int(sets)) for count, _, sets in members]
            continue
        before, first, last = len(runs), None, 0
        for last, share, sets in members:
            first = last if first is None else first
            due += share
            rows = int(min(round(due), sets if first == last else 1))
            if rows > 0:
                runs.append(Run(first, last, rows))
                first, due = None, due - rows
        if first is not None:  # what is left joins the run before, or has a row all the same
            runs.append(Run(first if len(runs) == before else runs.pop().first, last, 1))
    return runs


def _strata(scored: int, runs: Sequence[Run]) -> list[tuple[Run, ...]]:
    """The runs in groups of two rows at least, but for those with all their sets, which are alone."""
    complete: list[tuple[Run, ...]] = []
    groups: list[tuple[Run, ...]] = []
    pending: tuple[Run, ...] = ()
    for run in runs:
        if run.first == run.last and run.rows == number_of_sets(scored, run.first):
            complete.append((run,))
            continue
        pending += (run,)
        if sum(each.rows for each in pending) > 1:
            groups.append(pending)
            pending = ()
    if pending and groups:
        groups[-1] += pending
    elif pending:
        groups.append(pending)
    return complete + groups
