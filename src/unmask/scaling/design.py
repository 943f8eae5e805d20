"""Designing a study: which sizes at which budget, what each run is, and what speaks against the plan.

The sizes of a budget are chosen around the best size that a law expects there, so that they bracket the minimum. A plan
that cannot show what it is for is refused, with all that is wrong with it at once: too few sizes on one side of the
expected minimum, runs shorter than their warm-up, tokens beyond the corpus without saying that they repeat.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from unmask import sizes
from unmask.config import RunConfig
from unmask.errors import UsageError, problems_error, unknown_name
from unmask.scaling.laws import Array
from unmask.scaling.plan import PlannedRun
from unmask.scaling.prediction import unlimited
from unmask.scaling.series import series_name
from unmask.sizes import Size

OBJECTIVES = ("mdm", "arm", "mlm", "span", "any_order")
RATED = ("mlm", "span")
"""Objectives that mask a fixed share."""
SCORED_SHARE = {"arm": 1.0, "mdm": 0.5, "any_order": 0.5}
"""Share of the positions whose loss is computed; of mlm and span it is the rate."""
MINIMUM = "minimum"
"""In place of sizes: what the study has nearest to the minimum of each budget."""
PARAMETRIZED: Mapping[str, Any] = {"parametrization": "completep", "base_size": "33K"}
"""How learning rates go by size where nothing else is said."""
BASE_RATES = {"arm": 0.016, "mdm": 0.004}
"""Learning rates at that base size, where nothing else is said; all that mask have that of the MDM. Higher ones keep an
MDM at the frequencies of single tokens (benchmarks/learning_rate_transfer.py)."""
FEWEST_ON_A_SIDE = 1
FEWEST_STEPS = 10
PROBLEMS_SHOWN = 6


@dataclass(frozen=True)
class Design:
    """What a study is to cover."""

    budgets: tuple[float, ...]
    """Training FLOPs C."""
    objectives: tuple[str, ...] = ("mdm", "arm")
    sizes: tuple[str, ...] = ()
    """Named sizes for every budget; none: chosen around the expected minimum; `MINIMUM` alone: the run of `planned`
    that is nearest to it, made again with its batch, length and settings where `settings` says nothing else."""
    sizes_per_budget: int = 5
    span: float = 4.0
    """How far, as a factor, the chosen sizes reach from the expected minimum."""
    batch_size: int = 32
    length: int = 256
    seeds: tuple[int, ...] = (0,)
    learning_rates: tuple[float, ...] = ()
    """Several: each run is made with each, and fits take the best."""
    mask_rates: tuple[float, ...] = (0.15,)
    """Of mlm and span; several are an axis of the study."""
    unique_tokens: tuple[int, ...] = ()
    """Distinct training tokens, each an axis value; none: the whole corpus."""
    allow_repeats: bool = False
    """Whether runs may go over the corpus more than once."""
    convention: str = "6nd"
    """How FLOPs are counted: "6nd", or "full" with attention and head."""
    vocab_size: int = 32000
    corpus_tokens: int | None = None
    """Training tokens of the corpus, where it is known."""
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Further fields of every run's config."""
    planned: tuple[PlannedRun, ...] = ()
    """Runs that the study has already: with theirs a budget may have sizes enough."""

    def runs(self, rows: Mapping[str, Array] | None = None) -> tuple[PlannedRun, ...]:
        """The runs, the cheapest budget first. `rows` are the laws that expect a best size at each budget.

        Raises `UsageError` with everything that speaks against the plan.
        """
        self._check_options()
        problems: list[str] = []
        runs: list[PlannedRun] = []
        for flops in sorted(self.budgets):
            for objective, rate, unique in itertools.product(
                self.objectives, self.mask_rates, self.unique_tokens or (None,)
            ):
                if objective not in RATED and rate != self.mask_rates[0]:
                    continue
                series = series_name(objective, mask_rate=rate if objective in RATED else None)
                if self.sizes == (MINIMUM,):
                    chosen = self._at_minimum(flops, series, rows, problems)
                else:
                    names = self._sizes(flops, objective, series, unique, rows, problems)
                    chosen = [(name, self) for name in names]
                for (size, design), learning_rate, seed in itertools.product(
                    chosen, self.learning_rates or (None,), self.seeds
                ):
                    run = design._run(flops, objective, rate, unique, size, learning_rate, seed, problems)
                    if run is not None:
                        runs.append(run)
        if problems:
            distinct = list(dict.fromkeys(problems))
            more = [f"and {len(distinct) - PROBLEMS_SHOWN} more"] if len(distinct) > PROBLEMS_SHOWN else []
            raise problems_error("plan", [*distinct[:PROBLEMS_SHOWN], *more])
        return tuple(runs)

    def flops_per_token(self, size: Size, objective: str, rate: float) -> float:
        """Training FLOPs of one token by the design's convention; a causal network sees half of the positions."""
        return sizes.training_flops(
            size,
            1,
            convention=self.convention,
            length=self.length // 2 if objective == "arm" else self.length,
            vocab_size=self.vocab_size,
            scored_share=SCORED_SHARE.get(objective, rate),
        )

    def _check_options(self) -> None:
        problems: list[str] = []
        if not self.budgets or not all(math.isfinite(flops) and flops > 0 for flops in self.budgets):
            problems.append(f"budgets {list(self.budgets)} must be positive numbers")
        if len(set(self.budgets)) < len(self.budgets):
            problems.append(f"budgets {list(self.budgets)} must differ")
        problems += [
            str(unknown_name("objective", name, OBJECTIVES)) for name in self.objectives if name not in OBJECTIVES
        ]
        if not self.objectives:
            problems.append("no objective: give at least one")
        if self.convention not in sizes.CONVENTIONS:
            problems.append(str(unknown_name("FLOP convention", self.convention, sizes.CONVENTIONS)))
        if not self.sizes and self.sizes_per_budget < 3:
            problems.append(f"sizes_per_budget {self.sizes_per_budget} must be at least 3: a parabola takes three")
        for name in ("batch_size", "length"):
            if getattr(self, name) < 1:
                problems.append(f"{name} {getattr(self, name)} must be at least 1")
        if self.span <= 1:
            problems.append(f"span {self.span} must be above 1")
        if not self.seeds:
            problems.append("no seed: give at least one")
        if not all(0 < rate < 1 for rate in self.mask_rates) or not self.mask_rates:
            problems.append(f"mask_rates {list(self.mask_rates)} must be between 0 and 1")
        for unique in self.unique_tokens:
            if unique < self.length:
                problems.append(f"unique_tokens {unique} must hold a sequence of {self.length}")
            elif self.corpus_tokens is not None and unique > self.corpus_tokens:
                problems.append(f"unique_tokens {unique} are more than the {self.corpus_tokens} of the corpus")
        if problems:
            raise problems_error("plan", problems)
        for name in self.sizes:
            if name != MINIMUM:
                sizes.lookup(name)
            elif len(self.sizes) > 1:
                raise UsageError(f"plan: sizes {' '.join(self.sizes)}: {MINIMUM} stands alone")

    def _sizes(
        self,
        flops: float,
        objective: str,
        series: str,
        unique: int | None,
        rows: Mapping[str, Array] | None,
        problems: list[str],
    ) -> list[str]:
        expected = expected_size(flops, objective, rows)
        if self.sizes:
            chosen = sorted(set(self.sizes), key=lambda name: sizes.lookup(name).params)
            there = {run.size for run in self._there(flops, series)}
            # runs on repeated tokens are fitted over all sizes and budgets together
            if unique is None and len(there.union(chosen)) < 3:
                problems.append(
                    f"{series} at {flops:.3g} FLOPs: sizes {' '.join(self.sizes)} must be at least 3 different ones, "
                    "with those that the study has: a parabola takes three"
                )
        elif expected is None:
            problems.append(f"no law expects a best size for {objective}: give sizes, or a law that does")
            return []
        else:
            chosen = bracketing_sizes(expected, self.sizes_per_budget, self.span)
        # sizes chosen by hand are taken at their word where only the paper's law, far away, could say otherwise
        if expected is not None and not self.sizes:
            below = sum(sizes.lookup(name).params < expected for name in chosen)
            above = len(chosen) - below
            if len(chosen) < 3 or min(below, above) < FEWEST_ON_A_SIDE:
                side = "below" if below < above else "above"
                problems.append(
                    f"{objective} at {flops:.3g} FLOPs: the best size is expected near {expected:.3g} parameters, and "
                    f"{min(below, above)} named sizes lie {side} it: change the budget, or give sizes"
                )
        return chosen

    def _at_minimum(
        self, flops: float, series: str, rows: Mapping[str, Array] | None, problems: list[str]
    ) -> list[tuple[str, Design]]:
        """The size of the run nearest to the minimum, and the design with which that run was made."""
        there = self._there(flops, series)
        law = (rows or {}).get(series)
        if law is None or not there:
            problems.append(
                f"{series} at {flops:.3g} FLOPs: the study has no {'fit' if there else 'runs'} of it: make such runs "
                f"before --sizes {MINIMUM}, or name sizes"
            )
            return []
        expected = math.log(unlimited(law[:1], flops)[0][0])
        nearest = min(there, key=lambda run: abs(math.log(run.params) - expected))
        settings = {**nearest.settings, **self.settings}
        return [(nearest.size, replace(self, batch_size=nearest.batch_size, length=nearest.length, settings=settings))]

    def _there(self, flops: float, series: str) -> list[PlannedRun]:
        """The study's runs of this series at this budget, those on limited data apart."""
        return [
            run
            for run in self.planned
            if run.series == series and math.isclose(run.flops, flops) and "unique_tokens" not in run.settings
        ]

    def _usual_rate(self, objective: str) -> float | None:
        """The learning rate of the study's runs of `objective`; without any by `BASE_RATES`. None: the recipe's."""
        there = {run.settings.get("learning_rate") for run in self.planned if run.objective == objective}
        if len(there) == 1:
            return there.pop()
        parametrized = all(self.settings.get(name) == value for name, value in PARAMETRIZED.items())
        return BASE_RATES.get(objective, BASE_RATES["mdm"]) if parametrized else None

    def _run(
        self,
        flops: float,
        objective: str,
        rate: float,
        unique: int | None,
        name: str,
        learning_rate: float | None,
        seed: int,
        problems: list[str],
    ) -> PlannedRun | None:
        size = sizes.lookup(name)
        per_step = self.flops_per_token(size, objective, rate) * self.batch_size * self.length
        steps = int(flops / per_step)
        where = f"{objective} {name} at {flops:.3g} FLOPs"
        settings = dict(self.settings)
        if objective in RATED:
            settings["mask_rate"] = rate
        if learning_rate is not None:
            settings["learning_rate"] = learning_rate
        elif "learning_rate" not in settings and (usual := self._usual_rate(objective)) is not None:
            settings["learning_rate"] = usual
        warmup = settings.get("warmup_steps")
        if steps < FEWEST_STEPS:
            problems.append(f"{where}: {steps} steps are too few: raise the budget, or lower the batch or the size")
        elif warmup is not None and steps <= warmup:
            problems.append(
                f"{where}: {steps} steps are no more than the warm-up of {warmup}: raise the budget, or lower it"
            )
        tokens = steps * self.batch_size * self.length
        available = unique if unique is not None else self.corpus_tokens
        if unique is None and available is not None and tokens > available and not self.allow_repeats:
            problems.append(
                f"{where}: {tokens} tokens are more than the {available} of the corpus: allow repeats, limit the "
                "unique tokens, or prepare more text"
            )
        if unique is not None:
            settings["unique_tokens"] = unique
        if problems:
            return None
        parts = [objective + (f"@{rate:g}" if objective in RATED else ""), f"{flops:.4g}", name]
        if learning_rate is not None and len(self.learning_rates) > 1:
            parts.append(f"lr{learning_rate:g}")
        if unique is not None:
            parts.append(f"u{unique}")
        if seed:
            parts.append(f"seed{seed}")
        RunConfig(
            objective=objective, size=name, length=self.length, batch_size=self.batch_size, steps=steps, **settings
        )
        return PlannedRun(
            name="-".join(parts).replace("+", ""),
            objective=objective,
            size=name,
            params=size.params,
            flops=flops,
            steps=steps,
            tokens=tokens,
            batch_size=self.batch_size,
            length=self.length,
            seed=seed,
            unique_tokens=available,
            settings=settings,
        )


def parametrized(settings: Mapping[str, Any], planned: Sequence[PlannedRun], recipe: str) -> dict[str, Any]:
    """`settings` with how rates go by size: as in all the `planned` runs, which are there already, in a new study
    `PARAMETRIZED`.

    What `settings` say themselves holds. A recipe other than pretrain has rates of its own, a network that is another's
    or has its head tied cannot be parametrised.
    """
    found = dict(settings)
    standard = settings.get("parametrization") == "standard"
    if planned:
        for name in PARAMETRIZED:
            values = {run.settings.get(name) for run in planned}
            if len(values) == 1 and (value := values.pop()) is not None:
                found.setdefault(name, value)
    elif recipe == "pretrain" and not (standard or settings.get("tied_embeddings") or settings.get("init_from")):
        found = {**PARAMETRIZED, **settings}
    return found


def expected_size(flops: float, objective: str, rows: Mapping[str, Array] | None) -> float | None:
    """The best N that a law expects; an objective without a law of its own goes by that of the MDM."""
    if not rows:
        return None
    law = rows.get(objective, rows.get("mdm"))
    if law is None:
        return None
    return float(unlimited(law[:1], flops)[0][0])


def bracketing_sizes(expected: float, count: int, span: float) -> list[str]:
    """`count` named sizes nearest to a geometric grid from a factor `span` below `expected` to one above."""
    named = {**sizes.SMALL, **sizes.FAMILY}
    chosen: set[str] = set()
    for step in range(count):
        target = math.log(expected) + math.log(span) * (2 * step / (count - 1) - 1)
        free = [name for name in named if name not in chosen]
        nearest = min(free, key=lambda name: abs(math.log(named[name].params) - target))
        if abs(math.log(named[nearest].params) - target) <= math.log(span):
            chosen.add(nearest)
    return sorted(chosen, key=lambda name: named[name].params)


def memory_bytes(size: Size, *, vocab_size: int, length: int, rows: int) -> int:
    """About what a run takes: float32 weights, gradients and both Adam moments, and what `rows` sequences keep for the
    backward pass (per layer the inputs of its products), without the libraries themselves.
    """
    state = 16 * (size.params + 2 * vocab_size * size.n_embd)
    kept = 4 * rows * length * size.n_layer * (10 * size.n_embd + 3 * size.intermediate_size)
    head = 4 * rows * length * size.n_embd * 2
    return state + kept + head
