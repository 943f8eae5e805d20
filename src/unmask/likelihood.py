"""Likelihoods over a `LogitsFn`: the bound of a masked network, and the chain rule, with their error and their cost.

The bound on -log p of L scored tokens is, with S(M) the sum of -log p over the masked set M (Nie et al., 2025, eq. 3;
the any-order identity of Ou et al., 2025):

    integral of E[S(M)] / t over t in [0, 1]  =  sum over sets M of m of them of (m - 1)! (L - m)! / L! * S(M)

An estimator is a `Plan`: which sets to mask, with what weights, in which strata. Plans of several sequences are
evaluated together, and a figure does not depend on what shares its batch.

Shapes: B sequences of one length, L positions, K scored positions of one sequence, R masked rows, V vocabulary,
S masked positions of a batch of rows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from unmask.errors import UsageError, unknown_name
from unmask.logits_fn import LogitsFn, at_rows, network_calls

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
    """Rows of a plan that are alike: any of them, times their number, estimates the stratum's part without bias."""

    rows: int
    population: float
    """Masks that the rows were drawn from without replacement; infinity for independent draws.

    A stratum with all of its masks has no error."""


@dataclass(frozen=True)
class Plan:
    """The masked rows of one sequence: the estimate of the bound is the sum of `weights_R` times S."""

    masks_RK: Tensor
    """Boolean, over the scored positions."""
    weights_R: Tensor
    """float64."""
    strata: list[Stratum]
    """In the order of the rows; an exact sum is one stratum, drawn completely."""

    def estimate(self, losses_R: Tensor, calls: int) -> Estimate:
        """What the sums `losses_R` of -log p over each row's masked tokens say of the bound."""
        parts_R = self.weights_R * losses_R
        variance = 0.0
        parts = torch.split(parts_R, [stratum.rows for stratum in self.strata])
        for part_N, stratum in zip(parts, self.strata, strict=True):
            if stratum.rows < stratum.population:
                left_out = 1 - stratum.rows / stratum.population
                variance += stratum.rows * part_N.var().item() * left_out if stratum.rows > 1 else math.nan
        exact = all(stratum.rows >= stratum.population for stratum in self.strata)
        return Estimate(-parts_R.sum().item(), math.sqrt(variance), calls, exact)


def bound(
    logits_fn: LogitsFn,
    tokens_L: Tensor,
    scored_L: Tensor,
    *,
    mask_id: int,
    estimator: str = "auto",
    num_samples: int = 128,
    generator: torch.Generator | None = None,
    batch_size: int = 64,
    eps: float = 0.0,
) -> Estimate:
    """The bound on the likelihood of the tokens where `scored_L` (boolean) is true, given the others.

    `estimator`: "exact" sums over all 2^K - 1 sets; "stratified" spreads `num_samples` draws over the numbers of masked
    tokens and draws sets of one number without replacement; "mc" is the paper's: t low-discrepancy, each token masked
    with probability t, weight 1/t; "auto" is exact where that takes no more than `num_samples` calls, else stratified.
    The sampling ones need a `generator`. `batch_size` rows are evaluated at a time. `eps` above 0 takes t from
    [eps, 1], as training does; "mc" with `eps` 0 has no finite variance, and so a standard error that jumps about.

    Raises `UsageError` on an unknown estimator, no scored token, a scored mask token, or more tokens than exact takes.
    """
    generators = None if generator is None else [generator]
    return bounds(
        logits_fn,
        tokens_L[None],
        scored_L[None],
        mask_id=mask_id,
        estimator=estimator,
        num_samples=num_samples,
        generators=generators,
        batch_size=batch_size,
        eps=eps,
    )[0]


def bounds(
    logits_fn: LogitsFn,
    tokens_BL: Tensor,
    scored_BL: Tensor,
    *,
    mask_id: int,
    estimator: str = "auto",
    num_samples: int = 128,
    generators: Sequence[torch.Generator] | None = None,
    batch_size: int = 64,
    eps: float = 0.0,
) -> list[Estimate]:
    """`bound` of several sequences of one length, evaluated together; one generator for each."""
    _check(tokens_BL, scored_BL, mask_id, batch_size)
    if not 0 <= eps < 1:
        raise UsageError(f"eps {eps}: must be at least 0 and less than 1")
    scored_counts = _ints(scored_BL.sum(dim=1))
    plans: list[Plan] = []
    for row, scored in enumerate(scored_counts):
        generator = None if generators is None else generators[row]
        plans.append(plan(scored, estimator=estimator, num_samples=num_samples, generator=generator, eps=eps))
    return _evaluate(logits_fn, tokens_BL, scored_BL, plans, mask_id, batch_size)


def chain_rule(
    logits_fn: LogitsFn, tokens_L: Tensor, scored_L: Tensor, *, mask_id: int, batch_size: int = 64
) -> Estimate:
    """The log-likelihood of the scored tokens revealed from left to right, exact for that order: one call for each.

    Every token not scored is visible, those to the right too; so are the scored ones before the one predicted.
    """
    return chain_rules(logits_fn, tokens_L[None], scored_L[None], mask_id=mask_id, batch_size=batch_size)[0]


def chain_rules(
    logits_fn: LogitsFn, tokens_BL: Tensor, scored_BL: Tensor, *, mask_id: int, batch_size: int = 64
) -> list[Estimate]:
    """`chain_rule` of several sequences of one length, evaluated together."""
    _check(tokens_BL, scored_BL, mask_id, batch_size)
    scored_counts = _ints(scored_BL.sum(dim=1))
    plans: list[Plan] = []
    for scored in scored_counts:
        masks_RK = torch.ones(scored, scored, dtype=torch.bool).triu()
        plans.append(Plan(masks_RK, torch.ones(scored, dtype=torch.float64), [Stratum(scored, scored)]))
    return _evaluate(logits_fn, tokens_BL, scored_BL, plans, mask_id, batch_size, first_only=True)


@torch.no_grad()
def causal(logits_fn: LogitsFn, tokens_BL: Tensor, scored_BL: Tensor, *, batch_size: int = 64) -> list[Estimate]:
    """The exact log-likelihoods under an ARM, whose row i sees only the tokens before i: one call for each sequence."""
    _check(tokens_BL, scored_BL, None, batch_size)
    estimates: list[Estimate] = []
    for start in range(0, len(tokens_BL), batch_size):
        rows_R = torch.arange(start, min(start + batch_size, len(tokens_BL)), device=tokens_BL.device)
        tokens_RL, scored_RL = tokens_BL[rows_R], scored_BL[rows_R]
        rows_fn = at_rows(logits_fn, rows_R)
        losses = _floats(_losses(rows_fn(tokens_RL, scored_RL), tokens_RL, scored_RL))
        calls = _ints(network_calls(rows_fn, tokens_RL))
        estimates += [Estimate(-loss, 0.0, cost, exact=True) for loss, cost in zip(losses, calls, strict=True)]
    return estimates


def plan(
    scored: int, *, estimator: str, num_samples: int, generator: torch.Generator | None = None, eps: float = 0.0
) -> Plan:
    """The masks of `scored` tokens that `estimator` asks for; see `bound`."""
    if estimator not in ESTIMATORS:
        raise unknown_name("estimator", estimator, ESTIMATORS)
    if num_samples < 1:
        raise UsageError(f"num_samples {num_samples}: must be at least 1")
    if estimator == "auto":
        estimator = "exact" if scored <= EXACT_LIMIT and 2**scored - 1 <= num_samples else "stratified"
    if estimator == "exact":
        return _exact(scored, eps)
    if generator is None:
        raise UsageError(f"estimator {estimator!r}: needs a generator")
    if estimator == "mc":
        return _monte_carlo(scored, num_samples, generator, eps)
    return _stratified(scored, num_samples, generator, eps)


def count_weight(count: int, scored: int, eps: float = 0.0) -> float:
    """The weight of one set of `count` of `scored` tokens: the mean over t in [eps, 1] of t^(m-1) (1-t)^(L-m).

    With `eps` 0 that is (m - 1)! (L - m)! / L!.
    """
    weight = 1 / (count * math.comb(scored, count))
    if eps:
        from scipy.special import betaincc  # 0.1 s to import, for this option alone

        weight *= float(betaincc(count, scored - count + 1, eps)) / (1 - eps)
    return weight


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
    return Plan(masks_RK, weights_R, [Stratum(len(sets_R), len(sets_R))])


def _monte_carlo(scored: int, num_samples: int, generator: torch.Generator, eps: float) -> Plan:
    """The paper's estimator. Its error is told as if the t were independent, which errs on the large side."""
    shift = torch.rand((), dtype=torch.float64, generator=generator)
    t_R = (shift + torch.arange(num_samples, dtype=torch.float64) / num_samples) % 1
    t_R = (eps + (1 - eps) * t_R).clamp(min=torch.finfo(torch.float64).tiny)
    masks_RK = torch.rand(num_samples, scored, dtype=torch.float64, generator=generator) < t_R[:, None]
    return Plan(masks_RK, 1 / (num_samples * t_R), [Stratum(num_samples, math.inf)])


def _stratified(scored: int, num_samples: int, generator: torch.Generator, eps: float) -> Plan:
    """Each number of masked tokens is a stratum of `num_samples // scored` sets or so, all its sets if it has no more.

    With too few samples for two in each stratum (without two there is no error to tell), neighbouring numbers share a
    stratum, in which number and set are drawn independently.
    """
    if num_samples >= 2 * scored - 1:
        rows_of = _spread(num_samples, [math.comb(scored, count) for count in range(1, scored + 1)])
        cells = [([count], rows) for count, rows in enumerate(rows_of, start=1)]
    elif num_samples < 3:
        cells = [(list(range(1, scored + 1)), num_samples)]
    else:  # the one set that masks everything needs one row, and no error
        cells = [*_shared_cells(scored - 1, num_samples - 1), ([scored], 1)]

    masks: list[Tensor] = []
    weights: list[float] = []
    strata: list[Stratum] = []
    for counts, rows in cells:
        if len(counts) == 1:
            sets = _distinct_sets(scored, counts[0], rows, generator)
            population = math.comb(scored, counts[0])
        else:
            drawn = _ints(torch.randint(len(counts), (rows,), generator=generator))
            sets = [_random_set(scored, counts[index], generator) for index in drawn]
            population = math.inf
        for chosen in sets:
            row = torch.zeros(scored, dtype=torch.bool)
            row[list(chosen)] = True
            masks.append(row)
            # the stratum's part is the sum over its counts of the number of sets times their mean
            total_weight = count_weight(len(chosen), scored, eps) * math.comb(scored, len(chosen))
            weights.append(total_weight * len(counts) / rows)
        strata.append(Stratum(rows, population))
    return Plan(torch.stack(masks), torch.tensor(weights, dtype=torch.float64), strata)


def _spread(total: int, capacities: Sequence[int]) -> list[int]:
    """`total` shared as evenly as the capacities allow; the rest goes to the largest."""
    shares = [0] * len(capacities)
    for done, index in enumerate(sorted(range(len(capacities)), key=lambda i: capacities[i])):
        shares[index] = min(capacities[index], total // (len(capacities) - done))
        total -= shares[index]
    return shares


def _shared_cells(counts: int, rows: int) -> list[tuple[list[int], int]]:
    """The numbers 1..`counts` in as many runs of neighbours as `rows` has pairs, with the rows of each run."""
    cells = rows // 2
    edges = [1 + counts * cell // cells for cell in range(cells + 1)]
    shares = [rows * (cell + 1) // cells - rows * cell // cells for cell in range(cells)]
    return [(list(range(*edge)), share) for edge, share in zip(itertools.pairwise(edges), shares, strict=True)]


def _random_set(scored: int, count: int, generator: torch.Generator) -> tuple[int, ...]:
    chosen = _ints(torch.randperm(scored, generator=generator)[:count])
    return tuple(sorted(chosen))


def _distinct_sets(scored: int, count: int, rows: int, generator: torch.Generator) -> list[tuple[int, ...]]:
    """`rows` different sets of `count` tokens, every choice of them equally likely."""
    population = math.comb(scored, count)
    if population <= 2 * rows:
        every = list(itertools.combinations(range(scored), count))
        order = _ints(torch.randperm(population, generator=generator)[:rows])
        return [every[index] for index in order]
    chosen: dict[tuple[int, ...], None] = {}  # a set that keeps its order
    while len(chosen) < rows:  # at least every second draw is new
        chosen[_random_set(scored, count, generator)] = None
    return list(chosen)


@torch.no_grad()
def _evaluate(
    logits_fn: LogitsFn,
    tokens_BL: Tensor,
    scored_BL: Tensor,
    plans: Sequence[Plan],
    mask_id: int,
    batch_size: int,
    *,
    first_only: bool = False,
) -> list[Estimate]:
    """Run the rows of all `plans` in batches. With `first_only` just the first masked token of each row is scored."""
    losses = [torch.zeros(len(plan.masks_RK), dtype=torch.float64) for plan in plans]
    calls = [0] * len(plans)
    for batch in _batches(plans, batch_size):
        sequence_R = torch.tensor([sequence for sequence, _ in batch], device=tokens_BL.device)
        tokens_RL, scored_RL = tokens_BL[sequence_R], scored_BL[sequence_R]
        masks_S = torch.cat([plans[sequence].masks_RK[row] for sequence, row in batch]).to(tokens_BL.device)
        masked_RL = torch.zeros_like(scored_RL).masked_scatter(scored_RL, masks_S)
        select_RL = masked_RL & (masked_RL.cumsum(dim=1) == 1) if first_only else masked_RL
        inputs_RL = tokens_RL.masked_fill(masked_RL, mask_id)
        rows_fn = at_rows(logits_fn, sequence_R)
        losses_R = _floats(_losses(rows_fn(inputs_RL, select_RL), tokens_RL, select_RL))
        calls_R = _ints(network_calls(rows_fn, inputs_RL))
        for (sequence, row), loss, cost in zip(batch, losses_R, calls_R, strict=True):
            losses[sequence][row] = loss
            calls[sequence] += cost
    return [plan.estimate(*result) for plan, result in zip(plans, zip(losses, calls, strict=True), strict=True)]


def _batches(plans: Sequence[Plan], batch_size: int) -> Iterator[list[tuple[int, int]]]:
    """(sequence, row of its plan) of every row that masks anything, `batch_size` at a time."""
    busy = (_ints(plan.masks_RK.any(dim=1).nonzero()[:, 0]) for plan in plans)
    rows = ((sequence, row) for sequence, plan_rows in enumerate(busy) for row in plan_rows)
    while batch := list(itertools.islice(rows, batch_size)):
        yield batch


def _losses(logits_SV: Tensor, tokens_RL: Tensor, select_RL: Tensor) -> Tensor:
    """The sum (R,) of -log p over the selected tokens of each row, in float64."""
    nll_S = F.cross_entropy(logits_SV.float(), tokens_RL[select_RL], reduction="none").double()
    row_S = select_RL.nonzero()[:, 0]
    return torch.zeros(len(tokens_RL), dtype=torch.float64, device=nll_S.device).index_add(0, row_S, nll_S)


def _ints(values: Tensor) -> list[int]:
    return cast("list[int]", values.tolist())


def _floats(values: Tensor) -> list[float]:
    return cast("list[float]", values.tolist())


def _check(tokens_BL: Tensor, scored_BL: Tensor, mask_id: int | None, batch_size: int) -> None:
    if batch_size < 1:
        raise UsageError(f"batch_size {batch_size}: must be at least 1")
    if scored_BL.dtype != torch.bool or scored_BL.shape != tokens_BL.shape:
        raise UsageError(
            f"scored is {scored_BL.dtype} of shape {tuple(scored_BL.shape)}: must be boolean, as the tokens"
        )
    if not scored_BL.any(dim=1).all():
        raise UsageError("nothing to score: at least one token must be scored")
    if mask_id is not None and (tokens_BL[scored_BL] == mask_id).any():
        raise UsageError(f"a scored token is the mask token {mask_id}: only given text can be scored")
