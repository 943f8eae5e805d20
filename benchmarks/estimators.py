"""Root mean square error of likelihood estimators at equal network calls, on a trained model.

    python benchmarks/estimators.py MODEL TEXT [--scored 6 8 10 12] [--samples 8 16 32 64 128] [--json FILE]

For texts of few tokens the losses under every set of masks are computed once; the exact bound is known then, and an
estimator costs a look-up. Rows: the paper's Monte Carlo (t low-discrepancy, weight 1/t); an exact number of masked
tokens at random, weight K/m (LLaDA's); numbers stratified evenly; the same with complementary pairs; ours without its
baseline; ours; and ours with the shares that the true spread of each stratum would ask for, which no pilot can beat.
Printed beside each error: the reported standard error over it, and the share of 95% intervals that cover.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import torch

import unmask
from unmask import likelihood, machine, seeding
from unmask.likelihood import allocation, plans
from unmask.likelihood import rows as rows_module
from unmask.likelihood.allocation import Run


class Table:
    """Losses (2^K - 1, K) of the scored tokens under every set of masks, by its bits."""

    def __init__(self, lm: unmask.LanguageModel, tokens: list[int], scored: int) -> None:
        self.scored = scored
        self.bits_K = 2 ** torch.arange(scored)
        exact = plans.plan(scored, estimator="exact", num_samples=1)
        tokens_L = torch.tensor(tokens)
        sequences = rows_module.Sequences(
            tokens_L[None], (torch.arange(len(tokens)) >= len(tokens) - scored)[None], [exact.masks_RK], [0]
        )
        (self.losses, _), *_ = rows_module.row_losses(
            lambda _: lm.logits_fn, sequences, lm.mask_id, rows_module.BatchSize(64)
        )
        self.truth = (exact.weights_R * self.losses.sum(dim=1)).sum().item()
        self.masks = exact.masks_RK

    def __call__(self, masks_RK: torch.Tensor) -> torch.Tensor:
        bits_R = (masks_RK * self.bits_K).sum(dim=1)
        return self.losses[(bits_R - 1).clamp(min=0)] * (bits_R > 0)[:, None]

    def spread(self) -> list[float]:
        """Of what our baseline leaves of S / m, for m = 1..K-1."""
        weights_M = torch.tensor(plans.count_weights(self.scored), dtype=torch.float64)
        expected_R, _ = plans.baseline(self.masks, self.losses, weights_M)
        left_R, counts_R = self.losses.sum(dim=1) - expected_R, self.masks.sum(dim=1)
        return [(left_R[counts_R == m].std(correction=0) / m).item() for m in range(1, self.scored)]


def counts_plan(scored: int, counts: list[int], generator: torch.Generator, *, pairs: bool = False) -> plans.Plan:
    """One set of each of `counts`, weight K / m; with `pairs`, each second set is the rest of the one before."""
    masks_RK = plans._random_sets(scored, torch.tensor(counts), generator)
    if pairs:
        masks_RK[1::2] = ~masks_RK[0 : 2 * (len(counts) // 2) : 2]
    weights_R = scored / masks_RK.sum(dim=1).clamp(min=1).double() / len(counts)
    return plans.Plan(masks_RK, weights_R, [plans.Stratum((len(counts),), math.inf)])


def fixed_count(table: Table, samples: int, generator: torch.Generator) -> likelihood.Estimate:
    counts = torch.randint(1, table.scored + 1, (samples,), generator=generator).tolist()
    plan = counts_plan(table.scored, counts, generator)
    return plan.estimate(table(plan.masks_RK), 0)


def stratified_evenly(table: Table, samples: int, generator: torch.Generator) -> likelihood.Estimate:
    shift = torch.rand((), generator=generator).item()
    counts = [1 + int((row + shift) / samples * table.scored) % table.scored for row in range(samples)]
    plan = counts_plan(table.scored, counts, generator)
    return plan.estimate(table(plan.masks_RK), 0)


def complementary_pairs(table: Table, samples: int, generator: torch.Generator) -> likelihood.Estimate:
    """The full set once; the others' numbers 1..K-1 in pairs m, K - m whose sets are each other's rest."""
    rest = (samples - 1) // 2 * 2
    shift = torch.rand((), generator=generator).item()
    firsts = [
        1 + int((row + shift) / (rest // 2) * (table.scored - 1)) % (table.scored - 1) for row in range(rest // 2)
    ]
    counts = [count for first in firsts for count in (first, table.scored - first)]
    plan = counts_plan(table.scored, counts, generator, pairs=True)
    full_1K = torch.ones(1, table.scored, dtype=torch.bool)
    weights_R = torch.cat([plan.weights_R * (table.scored - 1) / table.scored, torch.tensor([1 / table.scored])])
    strata = [*plan.strata, plans.Stratum((1,), 1)]
    plan = plans.Plan(torch.cat([plan.masks_RK, full_1K]), weights_R, strata)
    return plan.estimate(table(plan.masks_RK), 0)


def named(estimator: str, *, baseline: bool = True):
    def estimate(table: Table, samples: int, generator: torch.Generator) -> likelihood.Estimate:
        plan = plans.plan(table.scored, estimator=estimator, num_samples=samples, generator=generator)
        if not baseline:
            plan = plans.Plan(plan.masks_RK, plan.weights_R, plan.strata)
        return plan.estimate(table(plan.masks_RK), 0)

    return estimate


def best_shares(table: Table, samples: int, generator: torch.Generator) -> likelihood.Estimate:
    """Ours, each stratum's share by its true spread."""
    plain = allocation.allocate(table.scored, samples)
    complete = {
        group[0].first
        for group in plain
        if allocation._strata(table.scored, group)
        and len(group) == 1
        and group[0].rows == allocation.number_of_sets(table.scored, group[0].first)
    }
    spread = [0.0 if m in complete else max(each, 1e-9) for m, each in enumerate(table.spread(), start=1)]
    _, shares = allocation._shares(table.scored, samples - 1, spread)
    groups = (
        *allocation._strata(table.scored, allocation._runs(table.scored, shares)),
        (Run(table.scored, table.scored, 1),),
    )
    original = plans.allocate
    plans.allocate = lambda scored, num_samples: groups
    try:
        return named("stratified")(table, samples, generator)
    finally:
        plans.allocate = original


ESTIMATORS = {
    "mc (the paper's)": named("mc"),
    "number exact, at random": fixed_count,
    "numbers stratified evenly": stratified_evenly,
    "with complementary pairs": complementary_pairs,
    "ours, no baseline": named("stratified", baseline=False),
    "ours": named("stratified"),
    "ours, shares by the true spread": best_shares,
}


def measure(tables: list[Table], name: str, samples: int, repeats: int) -> dict[str, float]:
    squares, variances, covered, total = 0.0, 0.0, 0, 0
    for text, table in enumerate(tables):
        for repeat in range(repeats):
            generator = seeding.generator(repeat, f"{name} {samples}", text)
            estimate = ESTIMATORS[name](table, samples, generator)
            error = estimate.log_likelihood + table.truth
            squares += error**2
            if math.isfinite(estimate.standard_error):
                variances += estimate.standard_error**2
                covered += abs(error) <= 1.96 * estimate.standard_error + 1e-9
                total += 1
    count = len(tables) * repeats
    rmse = math.sqrt(squares / count)
    return {
        "rmse": rmse,
        "reported_over_rmse": math.sqrt(variances / max(1, total)) / rmse if rmse > 1e-6 else 1.0,
        "coverage_95": covered / max(1, total),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("text", type=Path)
    parser.add_argument("--scored", nargs="+", type=int, default=[6, 8, 10, 12])
    parser.add_argument("--samples", nargs="+", type=int, default=[8, 16, 32, 64, 128])
    parser.add_argument("--texts", type=int, default=6)
    parser.add_argument("--prompt", type=int, default=24, help="tokens before the scored ones")
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    lm = unmask.load(options.model, device="cpu")
    tokens = lm.tokenizer.encode(options.text.read_text(encoding="utf-8")[:400_000])
    rows = []
    for scored in options.scored:
        length = options.prompt + scored
        step = (len(tokens) - length) // options.texts
        tables = [Table(lm, tokens[i * step : i * step + length], scored) for i in range(options.texts)]
        bound = sum(table.truth for table in tables) / len(tables)
        print(f"{scored} scored tokens, bound {bound:.2f} nats: error (reported / error, coverage) at calls")
        for name in ESTIMATORS:
            line = f"  {name:32s}"
            for samples in options.samples:
                if samples >= 2**scored - 1:
                    continue
                figures = measure(tables, name, samples, options.repeats)
                rows.append({"scored": scored, "bound": bound, "estimator": name, "calls": samples, **figures})
                honest = f"{figures['reported_over_rmse']:.2f}, {figures['coverage_95']:.2f}"
                line += f"  {samples}: {figures['rmse']:.3f} ({honest})"
            print(line, flush=True)
    if options.json:
        validation = {"params": sum(p.numel() for p in lm.model.parameters()), "objective": lm.objective}
        result = {
            "machine": machine.describe(),
            "model": validation,
            "settings": {"texts": options.texts, "prompt": options.prompt, "repeats": options.repeats},
            "rows": rows,
        }
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
