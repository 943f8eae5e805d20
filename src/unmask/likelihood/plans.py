"""Plans: which sets of scored tokens to mask, with what weights, and what the losses then say of the bound.

With S(M) the sum of -log p over the masked set M of m out of K scored tokens, the bound is (Nie et al., 2025, eq. 3;
the any-order identity of Ou et al., 2025)

    integral of E[S(M)] / t over t in [0, 1]  =  sum over m of 1/m * (mean of S(M) over the sets of m tokens)

A plan says how to sample the sets. The numbers m are strata, and so is each run of neighbouring numbers that must share
a row (`allocation`).

**Baselines.** Most of what differs between two sets of m tokens is which tokens they are, not what the others tell of
them. The set that masks everything is always evaluated: it gives each token's loss a_i with nothing else visible. Where
the sets of one token are all evaluated too, they give b_i, with everything else visible; those of all tokens but one,
what each tells of each other. A baseline made of these (`baseline`) is taken off every row, and its exact mean over the
sets put back: the estimate stays unbiased whatever the baseline is worth, as nothing that was drawn went into it, and
only what it leaves over adds to the error.

Shapes: K scored tokens, R masked rows, M numbers of masked tokens (1 to K).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import torch
from torch import Tensor

from unmask.errors import UsageError, unknown_name
from unmask.likelihood.allocation import Run, allocate, number_of_sets

ESTIMATORS = ("exact", "stratified", "mc", "auto")
EXACT_LIMIT = 20
"""Most scored tokens that `exact` takes: a million network calls."""


@dataclass(frozen=True)
class Estimate:
    """A log-likelihood, its error and what it cost."""

    log_likelihood: float
    """In nats. For a masked network's bound, minus the bound: the true value is no lower."""
    standard_error: float
    """Of `log_likelihood`, from the choice of masks: 0 if none was sampled, nan if it can't be told from one draw."""
    network_calls: int
    exact: bool
    """Whether nothing was sampled, so that the bound (or the chain rule) is known exactly."""


@dataclass(frozen=True)
class Stratum:
    """Rows of a plan whose spread tells the error of their part: one number of masked tokens, or neighbouring runs."""

    runs: tuple[int, ...]
    """Rows of each run; a run's rows are alike, and any of them, times their number, estimates its part."""
    population: float
    """Sets that the rows were drawn from without replacement; infinity for independent draws.

    A stratum with all of its sets has no error."""

    @property
    def rows(self) -> int:
        """Rows of all runs."""
        return sum(self.runs)

    @property
    def complete(self) -> bool:
        """Whether every set was evaluated."""
        return self.rows >= self.population

    def variance(self, parts_N: Tensor) -> float:
        """Of the sum of `parts_N`, what the rows add to the estimate; nan from a single row.

        The runs of a stratum are taken to have one mean, which errs on the large side where they do not.
        """
        if self.complete:
            return 0.0
        if self.rows < 2:
            return math.nan
        copies_N = torch.tensor([rows for rows in self.runs for _ in range(rows)], dtype=parts_N.dtype)
        left_out = 1 - self.rows / self.population
        return (parts_N * copies_N).var().item() * sum(1 / rows for rows in self.runs) * left_out


@dataclass(frozen=True)
class Plan:
    """The masked rows of one sequence: the estimate of the bound is the sum of `weights_R` times S."""

    masks_RK: Tensor
    """Boolean, over the scored tokens."""
    weights_R: Tensor
    """float64."""
    strata: list[Stratum]
    """In the order of the rows; an exact sum is one stratum, drawn completely."""
    count_weights_M: Tensor | None = None
    """The weight of the mean of S over the sets of m = 1..K tokens; None to take off no baseline."""

    def estimate(self, losses_RK: Tensor, calls: int) -> Estimate:
        """What the losses (-log p of each row's masked tokens, 0 elsewhere; float64) say of the bound."""
        left_R, known = losses_RK.sum(dim=1), 0.0
        if self.count_weights_M is not None:
            taken_off_R, known = baseline(self.masks_RK, losses_RK, self.count_weights_M)
            left_R = left_R - taken_off_R
        parts_R = self.weights_R * left_R
        parts = torch.split(parts_R, [stratum.rows for stratum in self.strata])
        variance = sum(stratum.variance(part_N) for part_N, stratum in zip(parts, self.strata, strict=True))
        exact = all(stratum.complete for stratum in self.strata)
        return Estimate(-(known + parts_R.sum().item()), math.sqrt(variance), calls, exact)


def baseline(masks_RK: Tensor, losses_RK: Tensor, count_weights_M: Tensor) -> tuple[Tensor, float]:
    """What to expect of S (R,) from the rows that are in every plan alike, and its exact weighted sum over all sets.

    A masked token i of a set M of m tokens is expected to lose c_i(m), on a straight line from b_i at m = 1 to a_i at
    m = K; a_i throughout where the sets of one token are not all there. Where those of K - 1 tokens are, the line bends
    by what each visible token j was seen to spare i when all others were masked, beyond the mean over j: by
    (m - 1) / (K - 2) of it, as that is known at m = K - 1 and b_i already says it at m = 1.
    """
    scored = masks_RK.shape[1]
    counts_R = masks_RK.sum(dim=1)
    alone_K = losses_RK[counts_R == scored][0]
    singles_K = _all_sets_of_one(losses_RK, masks_RK, counts_R == 1)
    progress_M = torch.arange(scored, dtype=losses_RK.dtype) / max(1, scored - 1)
    if singles_K is None:
        baseline_MK = alone_K.expand(scored, scored)
    else:
        baseline_MK = singles_K + progress_M[:, None] * (alone_K - singles_K)
    expected_R = (baseline_MK[counts_R - 1] * masks_RK).sum(dim=1)
    if singles_K is not None and scored > 3:
        spared_KK = _all_sets_but_one(alone_K, losses_RK, masks_RK, counts_R == scored - 1)
        if spared_KK is not None:
            progress_R = progress_M[counts_R - 1]
            seen_RK = (~masks_RK).double() - (1 - progress_R[:, None])
            bend_R = (masks_RK * (seen_RK @ spared_KK.T)).sum(dim=1)
            expected_R = expected_R - (counts_R - 1) / (scored - 2) * bend_R
    share_M = torch.arange(1, scored + 1, dtype=torch.float64) / scored
    return expected_R, (count_weights_M * share_M * baseline_MK.sum(dim=1)).sum().item()


def _all_sets_of_one(losses_RK: Tensor, masks_RK: Tensor, single_R: Tensor) -> Tensor | None:
    """Each token's loss with all others visible (K,), if the plan asks for all of them."""
    if int(single_R.sum()) != masks_RK.shape[1] or not masks_RK[single_R].any(dim=0).all():
        return None
    return losses_RK[single_R].sum(dim=0)


def _all_sets_but_one(alone_K: Tensor, losses_RK: Tensor, masks_RK: Tensor, but_one_R: Tensor) -> Tensor | None:
    """(K, K): what token j, visible alone, spares token i; if the plan asks for all of them."""
    visible_NK = ~masks_RK[but_one_R]
    if len(visible_NK) != masks_RK.shape[1] or not visible_NK.any(dim=0).all():
        return None
    spared_KK = torch.zeros(len(alone_K), len(alone_K), dtype=losses_RK.dtype)
    spared_KK[:, visible_NK.int().argmax(dim=1)] = (alone_K - losses_RK[but_one_R]).T
    return spared_KK.fill_diagonal_(0)


def plan(
    scored: int, *, estimator: str, num_samples: int, generator: torch.Generator | None = None, eps: float = 0.0
) -> Plan:
    """The masks of `scored` tokens that `estimator` asks for; see `bound`."""
    if estimator not in ESTIMATORS:
        raise unknown_name("estimator", estimator, ESTIMATORS)
    if num_samples < 1:
        raise UsageError(f"num_samples {num_samples}: must be at least 1")
    if estimator == "auto":
        estimator = "exact" if is_cheap(scored, num_samples) else "stratified"
    if estimator == "exact":
        return _exact(scored, eps)
    if generator is None:
        raise UsageError(f"estimator {estimator!r}: needs a generator")
    if estimator == "mc":
        return _monte_carlo(scored, num_samples, generator, eps)
    return _stratified(scored, num_samples, generator, eps)


def is_cheap(scored: int, num_samples: int) -> bool:
    """Whether all sets of `scored` tokens are no more than `num_samples`."""
    return scored <= EXACT_LIMIT and 2**scored - 1 <= num_samples


def chain_plan(scored: int) -> Plan:
    """One row for each token, with the later ones masked: only the first masked token of each is to be scored."""
    masks_RK = torch.ones(scored, scored, dtype=torch.bool).triu()
    return Plan(masks_RK, torch.ones(scored, dtype=torch.float64), [Stratum((scored,), scored)])


def causal_plan(scored: int) -> Plan:
    """The one row of an ARM."""
    return Plan(torch.ones(1, scored, dtype=torch.bool), torch.ones(1, dtype=torch.float64), [Stratum((1,), 1)])


def count_weight(count: int, scored: int, eps: float = 0.0) -> float:
    """The weight of one set of `count` of `scored` tokens: the mean over t in [eps, 1] of t^(m-1) (1-t)^(L-m).

    With `eps` 0 that is (m - 1)! (L - m)! / L!.
    """
    return count_weights(scored, eps)[count - 1] / math.comb(scored, count)


@lru_cache(maxsize=256)
def count_weights(scored: int, eps: float = 0.0) -> tuple[float, ...]:
    """The weight of the mean over all sets of m tokens, for m = 1..`scored`: 1/m with `eps` 0."""
    weights = [1 / count for count in range(1, scored + 1)]
    if eps:
        from scipy.special import betaincc  # 0.1 s to import, for this option alone

        for index, count in enumerate(range(1, scored + 1)):
            weights[index] *= float(betaincc(count, scored - count + 1, eps)) / (1 - eps)
    return tuple(weights)


def _exact(scored: int, eps: float) -> Plan:
    if scored > EXACT_LIMIT:
        raise UsageError(
            f"estimator 'exact': {scored} scored tokens need 2^{scored} - 1 network calls: "
            f"score at most {EXACT_LIMIT}, or take stratified or auto"
        )
    sets_R = torch.arange(1, 2**scored)
    masks_RK = (sets_R[:, None] >> torch.arange(scored)) & 1 == 1
    by_count = [0.0, *(count_weight(count, scored, eps) for count in range(1, scored + 1))]
    weights_R = torch.tensor(by_count, dtype=torch.float64)[masks_RK.sum(dim=1)]
    return Plan(masks_RK, weights_R, [Stratum((len(sets_R),), len(sets_R))])


def _monte_carlo(scored: int, num_samples: int, generator: torch.Generator, eps: float) -> Plan:
    """The paper's estimator. Its error is told as if the t were independent, which errs on the large side."""
    shift = torch.rand((), dtype=torch.float64, generator=generator)
    t_R = (shift + torch.arange(num_samples, dtype=torch.float64) / num_samples) % 1
    t_R = (eps + (1 - eps) * t_R).clamp(min=torch.finfo(torch.float64).tiny)
    masks_RK = torch.rand(num_samples, scored, dtype=torch.float64, generator=generator) < t_R[:, None]
    return Plan(masks_RK, 1 / (num_samples * t_R), [Stratum((num_samples,), math.inf)])


def _stratified(scored: int, num_samples: int, generator: torch.Generator, eps: float) -> Plan:
    """The strata that `allocation.allocate` chooses, drawn without replacement, with baselines taken off.

    One or two rows are drawn from all numbers of masked tokens alike, without baseline: there is no error to tell
    otherwise.
    """
    by_count = count_weights(scored, eps)
    few = num_samples < 3 and scored > 1
    groups = [(Run(1, scored, num_samples),)] if few else allocate(scored, num_samples)

    masks: list[Tensor] = []
    weights: list[float] = []
    strata: list[Stratum] = []
    for group in groups:
        population = math.inf
        for run in group:
            if run.first == run.last:
                sets_NK = _distinct_sets(scored, run.first, run.rows, generator)
                population = number_of_sets(scored, run.first) if len(group) == 1 else math.inf
            else:
                counts_N = torch.randint(run.first, run.last + 1, (run.rows,), generator=generator)
                sets_NK = _random_sets(scored, counts_N, generator)
            masks.append(sets_NK)
            numbers = run.last - run.first + 1
            weights += [by_count[count - 1] * numbers / run.rows for count in _ints(sets_NK.sum(dim=1))]
        strata.append(Stratum(tuple(run.rows for run in group), population))
    count_weights_M = None if few else torch.tensor(by_count, dtype=torch.float64)
    return Plan(torch.cat(masks), torch.tensor(weights, dtype=torch.float64), strata, count_weights_M)


def _random_sets(scored: int, counts_N: Tensor, generator: torch.Generator) -> Tensor:
    """For each of `counts_N` a set of that many tokens, every choice of them equally likely; boolean (N, K)."""
    keys_NK = torch.rand(len(counts_N), scored, dtype=torch.float64, generator=generator)
    return keys_NK.argsort(dim=1).argsort(dim=1) < counts_N[:, None]


def _distinct_sets(scored: int, count: int, rows: int, generator: torch.Generator) -> Tensor:
    """`rows` different sets of `count` tokens, every choice of them equally likely; boolean (rows, K)."""
    population = number_of_sets(scored, count)
    if population <= 2 * rows:
        every = list(itertools.combinations(range(scored), count))
        order = _ints(torch.randperm(len(every), generator=generator)[:rows])
        masks_NK = torch.zeros(rows, scored, dtype=torch.bool)
        return masks_NK.scatter_(1, torch.tensor([every[index] for index in order]), True)
    found_NK = torch.zeros(0, scored, dtype=torch.bool)
    while len(found_NK) < rows:  # at least every second draw is new
        more_NK = _random_sets(scored, torch.full((rows - len(found_NK),), count), generator)
        found_NK = _first_of_each(torch.cat([found_NK, more_NK]))
    return found_NK


def _first_of_each(masks_NK: Tensor) -> Tensor:
    """The rows without repetitions, in their order."""
    seen: dict[tuple[bool, ...], int] = {}
    for index, row in enumerate(cast("Sequence[list[bool]]", masks_NK.tolist())):
        seen.setdefault(tuple(row), index)
    return masks_NK if len(seen) == len(masks_NK) else masks_NK[list(seen.values())]


def _ints(values: Tensor) -> list[int]:
    return cast("list[int]", values.tolist())
