"""The guidance weight and the estimator for a task, chosen on one part of it and reported on the other.

The paper picked both for each task on the data that it reports. Here the items are split by the seed: the first part
chooses, the rest is evaluated once with what was chosen. As guidance takes two network calls for one, the rest is also
evaluated without guidance at as many calls.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask import seeding
from unmask.errors import UsageError
from unmask.evals.evaluate import Run, evaluate
from unmask.evals.offline import load_tasks
from unmask.likelihood import Settings
from unmask.wording import counted

if TYPE_CHECKING:
    from unmask.language_model import LanguageModel

OnStep = Callable[[str], None]
SMALLER_IS_BETTER = ("perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte")


@dataclass(frozen=True)
class Tuning:
    """What to try, and on which part."""

    task: str
    data_dir: Path | None = None
    weights: tuple[float, ...] = (0.0, 0.5, 1.0, 1.5, 2.0)
    estimators: tuple[str, ...] = ("auto", "chain")
    metric: str = "acc"
    share: float = 0.2
    """Of the items, to choose on."""
    limit: int | None = None
    """Of the items, both parts together."""
    num_samples: int = 128
    seed: int = 0
    batch_size: int | None = None

    def check(self) -> None:
        """Raise `UsageError` on what can be told to be wrong without a model."""
        if not self.weights or not self.estimators:
            raise UsageError("--weights, --estimators: name at least one of each to try")
        for weight in self.weights:
            for estimator in self.estimators:
                Settings(estimator, self.num_samples, weight, self.seed, self.batch_size)
        if not 0 < self.share < 1:
            raise UsageError(f"--share {self.share}: must be between 0 and 1")
        Run((self.task,), self.data_dir, self.limit).check()


def split_items(total: int, share: float, seed: int) -> tuple[list[int], list[int]]:
    """The items to choose on and those to report, at random by the seed. Raises `UsageError` if a part is empty."""
    order = list(range(total))
    random.Random(seeding.derived_seed(seed, "tuning items")).shuffle(order)
    chosen = round(total * share)
    if not 0 < chosen < total:
        raise UsageError(
            f"--share {share}: leaves nothing of {counted(total, 'item')} to choose on or to report: give more items"
        )
    return sorted(order[:chosen]), sorted(order[chosen:])


def tune(lm: LanguageModel, tuning: Tuning, *, name: str = "", on_step: OnStep | None = None) -> dict[str, Any]:
    """Choose on one part of the task's items and evaluate on the rest.

    Raises `UsageError` on an unknown task or metric, bad weights, or an ARM, which has no guidance.
    """
    from unmask.evals.harness import UnmaskLM

    if lm.config.causal:
        raise UsageError(
            "tune-guidance: an autoregressive model has no mask token: give one that was trained with masks"
        )
    tuning.check()
    _, data = load_tasks([tuning.task], tuning.data_dir)
    if list(data) != [tuning.task]:
        raise UsageError(f"--task {tuning.task}: stands for several tasks: name one")
    total = data[tuning.task].documents
    if tuning.limit is not None:
        total = min(total, tuning.limit)
    choose_on, report_on = split_items(total, tuning.share, tuning.seed)

    def figures(documents: Sequence[int], weight: float, estimator: str, num_samples: int) -> dict[str, Any]:
        if on_step is not None:
            on_step(f"w = {weight:g}, {estimator}, {len(documents):,} items")
        model = UnmaskLM(
            lm,
            guidance=weight,
            estimator=estimator,
            num_samples=num_samples,
            seed=tuning.seed,
            batch_size=tuning.batch_size,
            search_lengths=0,
        )
        run = Run((tuning.task,), tuning.data_dir, documents={tuning.task: list(documents)})
        part = evaluate(model, run, name=name)["unmask"]["tasks"][tuning.task]
        if tuning.metric not in part["metrics"]:
            raise UsageError(f"--metric {tuning.metric}: {tuning.task} has {', '.join(part['metrics'])}")
        return {
            "guidance": weight,
            "estimator": estimator,
            "num_samples": num_samples,
            "items": part["items"],
            **part["metrics"][tuning.metric],
            "network_calls": part["network_calls"],
            "seconds": part["seconds"],
        }

    tried = [
        figures(choose_on, weight, estimator, tuning.num_samples)
        for weight in tuning.weights
        for estimator in tuning.estimators
    ]
    sign = -1 if tuning.metric in SMALLER_IS_BETTER else 1
    best = max(tried, key=lambda each: (sign * each["value"], -each["guidance"], -each["network_calls"]))
    weight, estimator = best["guidance"], best["estimator"]
    reported = {"chosen": figures(report_on, weight, estimator, tuning.num_samples)}
    if weight:
        reported["without guidance"] = figures(report_on, 0.0, estimator, tuning.num_samples)
        if estimator != "chain":  # which has no draws to double
            reported["without guidance, at equal network calls"] = figures(
                report_on, 0.0, estimator, 2 * tuning.num_samples
            )
    return {
        "format": "unmask-tuning-1",
        "model": name,
        "settings": {**asdict(tuning), "data_dir": None},
        "chosen": {"guidance": weight, "estimator": estimator},
        "tried": tried,
        "reported": reported,
        "items": {"chosen_on": choose_on, "reported_on": report_on},
    }
