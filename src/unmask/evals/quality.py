"""How good generated text is, as far as figures tell: likelihood under a reference, diversity, repetition, copying.

No figure alone is a measure. Low perplexity is had by repeating oneself (Zheng et al., 2024, arXiv 2409.02908), or by
copying; so it is compared at equal entropy, and beside what was copied.

- perplexity: exp of the mean NLL per token of the reference;
- entropy: of the units (words, or tokens of the reference) of one sample, in nats, the mean over samples;
- distinct-n: different n-grams among those of all samples (Li et al., 2016);
- repetition: share of a sample's 4-grams that it has had before (Welleck et al., 2020);
- self-repetition: share of a sample's 4-grams that another sample has too (Salkar et al., 2022);
- copied: share of a sample's units that lie in n-grams which the training set has word for word.

Errors are standard errors over samples: of a mean, of a ratio of sums for the perplexity, and by the jackknife for
distinct-n.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np

from unmask.errors import UsageError
from unmask.evals.reference_model import Likelihood
from unmask.evals.samples import Sample

Unit = str | int
"""A word, a sign, or the id of a token."""
Split = Callable[[str], Sequence[Unit]]
REPEATED = 4
"""Length of the n-grams of repetition."""
DISTINCT = (1, 2, 3)
WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Figure:
    """A value with its standard error; None where a single sample tells nothing of it."""

    value: float
    standard_error: float | None


@dataclass(frozen=True)
class Quality:
    """The figures of one set of samples; None for what was not asked for, or what no sample is long enough for."""

    samples: int
    empty: int
    """Samples without any text, which count in no figure."""
    units: int
    """Words and signs, or tokens of the reference, of all samples."""
    loss: Figure | None
    """Nats per token of the reference."""
    perplexity: Figure | None
    bits_per_byte: Figure | None
    entropy: Figure
    distinct: dict[int, Figure]
    """By the length of the n-grams."""
    repetition: Figure | None
    self_repetition: Figure | None
    copied: Figure | None

    def to_dict(self) -> dict[str, Any]:
        """A dict for JSON."""
        return asdict(self)


def words(text: str) -> list[str]:
    """The words and the signs of a text."""
    return WORD.findall(text)


def measure(
    samples: Sequence[Sample],
    likelihoods: Sequence[Likelihood] | None = None,
    *,
    split: Split = words,
    copied_shares: Sequence[float] | None = None,
) -> Quality:
    """The figures of `samples`, of which the likelihoods and the copied shares, one for each, are measured apart.

    Raises `UsageError` if all are empty.
    """
    rows = [split(sample.text) for sample in samples]
    there = [index for index, row in enumerate(rows) if row]
    if not there:
        raise UsageError(f"all {len(samples)} samples are empty: there is no text to measure")
    kept = [rows[index] for index in there]
    told = None if likelihoods is None else [likelihoods[index] for index in there]
    sizes = [float(len(samples[index].text.encode())) for index in there]
    loss = bits = None
    if told is not None:
        loss = ratio([one.nll for one in told], [float(one.tokens) for one in told])
        bits = ratio([one.nll / math.log(2) for one in told], sizes)
    return Quality(
        samples=len(samples),
        empty=len(samples) - len(there),
        units=sum(map(len, kept)),
        loss=loss,
        perplexity=None if loss is None else exponential(loss),
        bits_per_byte=bits,
        entropy=mean([entropy(row) for row in kept]),
        distinct={n: figure for n in DISTINCT if (figure := distinct(kept, n)) is not None},
        repetition=_mean_of([repetition(row) for row in kept]),
        self_repetition=_mean_of(self_repetitions(kept)) if len(kept) > 1 else None,
        copied=None if copied_shares is None else mean([copied_shares[index] for index in there]),
    )


def entropy(units: Sequence[Unit]) -> float:
    """Entropy in nats of the units' frequencies in one sample; at most the log of their number."""
    shares = np.array(list(Counter(units).values())) / len(units)
    return float(-(shares * np.log(shares)).sum())


def repetition(units: Sequence[Unit]) -> float | None:
    """Share of the 4-grams that occurred before in the sample; None for one that is shorter."""
    grams = list(ngrams(units, REPEATED))
    return 1 - len(set(grams)) / len(grams) if grams else None


def self_repetitions(rows: Sequence[Sequence[Unit]]) -> list[float | None]:
    """Share of each sample's 4-grams that another sample has too."""
    owners = Counter(gram for row in rows for gram in set(ngrams(row, REPEATED)))
    shares: list[float | None] = []
    for row in rows:
        grams = list(ngrams(row, REPEATED))
        shares.append(sum(owners[gram] > 1 for gram in grams) / len(grams) if grams else None)
    return shares


def distinct(rows: Sequence[Sequence[Unit]], n: int) -> Figure | None:
    """Different n-grams among those of all samples, with its error by the jackknife; None if there is no n-gram."""
    counts = [Counter(ngrams(row, n)) for row in rows]
    together: Counter[tuple[Unit, ...]] = Counter()
    for count in counts:
        together.update(count)
    total = together.total()
    if not total:
        return None
    without: list[float] = []
    for count in counts:
        rest = total - count.total()
        own = sum(together[gram] == times for gram, times in count.items())
        if rest:
            without.append((len(together) - own) / rest)
    error = None
    if len(without) > 1:
        spread = np.array(without) - np.mean(without)
        error = math.sqrt((len(without) - 1) / len(without) * float((spread**2).sum()))
    return Figure(len(together) / total, error)


def copied_shares(rows: Sequence[Sequence[Unit]], training: Iterable[Sequence[Unit]], length: int = 8) -> list[float]:
    """Share of each sample's units that lie in an n-gram of `length` units which a document of `training` has.

    The documents pass by once; what is kept in memory are the samples alone. Raises `UsageError` on a length below 1.
    """
    if length < 1:
        raise UsageError(f"copied n-grams of {length} units: must be at least 1")
    wanted = {gram for row in rows for gram in ngrams(row, length)}
    firsts = {gram[0] for gram in wanted}
    found: set[tuple[Unit, ...]] = set()
    for document in training:
        for place, unit in enumerate(document):
            if unit in firsts:
                gram = tuple(document[place : place + length])
                if gram in wanted:
                    found.add(gram)
    shares: list[float] = []
    for row in rows:
        covered = np.zeros(len(row), dtype=bool)
        for place, gram in enumerate(ngrams(row, length)):
            if gram in found:
                covered[place : place + length] = True
        shares.append(float(covered.mean()) if len(row) else 0.0)
    return shares


def ngrams(units: Sequence[Unit], n: int) -> Iterator[tuple[Unit, ...]]:
    """All runs of n units."""
    return zip(*(islice(units, start, None) for start in range(n)), strict=False)


def mean(values: Sequence[float]) -> Figure:
    """Mean and its standard error."""
    array = np.array(values)
    return Figure(float(array.mean()), float(array.std(ddof=1) / math.sqrt(len(array))) if len(array) > 1 else None)


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Figure | None:
    """Ratio of two sums over samples, with its error to first order; None where the denominator is 0."""
    over, under = np.array(numerators), np.array(denominators)
    if not under.sum():
        return None
    value = float(over.sum() / under.sum())
    count = len(over)
    if count < 2:
        return Figure(value, None)
    spread = over - value * under
    return Figure(value, float(math.sqrt(count / (count - 1) * (spread**2).sum()) / under.sum()))


def exponential(figure: Figure) -> Figure:
    """Exp of a figure, its error to first order."""
    value = math.exp(min(figure.value, 700.0))
    return Figure(value, None if figure.standard_error is None else value * figure.standard_error)


def _mean_of(values: Sequence[float | None]) -> Figure | None:
    known = [value for value in values if value is not None]
    return mean(known) if known else None
