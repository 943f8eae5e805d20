"""The demonstration: how masked diffusion and autoregression scale on the State of the Union addresses, in minutes.

Three budgets, four sizes at each, both objectives, equal FLOPs by the paper's rule C = 6 N D (Nie et al., 2025, section
4), then the paper's temporal experiment in miniature with the best pair of the largest budget, and samples. The numbers
were found by experiment; they are such that each parabola has its minimum among the sizes of its budget and that all
of it takes less than ten minutes on two CPU cores.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

from unmask import sizes
from unmask.data.manifest import Manifest
from unmask.errors import UsageError
from unmask.evals.study import sample
from unmask.language_model import LanguageModel
from unmask.report.evaluation import IN_PERIOD, SHIFTED, Sample
from unmask.scaling import numbers
from unmask.scaling.plan import Plan, PlannedRun, grid

CORPUS = "sotu"
TOKENIZER = "bpe:1024"
VALID_FRACTION = 0.1

BATCH_SIZE, LENGTH = 16, 64
BUDGETS: dict[str, dict[float, tuple[str, ...]]] = {
    "mdm": {
        1.9e11: ("5K", "8K", "16K", "22K"),
        3.5e11: ("8K", "16K", "22K", "33K"),
        6.5e11: ("8K", "16K", "22K", "33K"),
    },
    "arm": {
        1.9e11: ("8K", "16K", "33K", "56K"),
        3.5e11: ("8K", "16K", "33K", "56K"),
        6.5e11: ("16K", "33K", "56K", "131K"),
    },
}
"""FLOPs and the sizes that spend them, by objective: the best size of an MDM is the smaller one."""
SETTINGS: dict[str, Any] = {"learning_rate": 3e-3, "weighting": "flat", "tensorboard": False}
CHECKPOINTS = 6
"""In each run: so much of it at most is done again after a kill."""

SPLITS = {"valid": IN_PERIOD, "shifted": SHIFTED}
"""Splits of the corpus, and what the report calls them."""
SPLIT_WORDS = {
    IN_PERIOD: "speeches up to 1999 that were held out, whole, from the training",
    SHIFTED: "speeches since 2000",
}

PROMPTS = ("Fellow citizens,", "The state of the Union is")
INFILL = "Fellow citizens, the people of the United States _[12] and we must _[12] for the peace of the world."
OVERHEAD_FLOPS = 5e5
"""What a token costs beside its FLOPs, in FLOPs: the many small operations of a step."""


def runs(scale: float = 1.0, seed: int = 0) -> tuple[PlannedRun, ...]:
    """The runs of the demonstration, with all budgets multiplied by `scale`.

    Raises `UsageError` for a scale at which some size gets no step.
    """
    if not 0 < scale < float("inf"):
        raise UsageError(f"--scale {scale:g} must be positive")
    planned: list[PlannedRun] = []
    for objective, budgets in BUDGETS.items():
        scaled = {flops * scale: names for flops, names in budgets.items()}
        try:
            planned += grid(scaled, scaled, (objective,), batch_size=BATCH_SIZE, length=LENGTH, seeds=(seed,))
        except UsageError as error:
            raise UsageError(f"--scale {scale:g}: too small: {error}") from None
    return tuple(dataclasses.replace(run, settings=_settings(run, scale)) for run in planned)


def study(planned: Iterable[PlannedRun], corpus: Manifest, command: str) -> Plan:
    """The plan of `planned` runs on a corpus, and what a report says about it."""
    train, valid = corpus.splits["train"], corpus.splits["valid"]
    return Plan(
        runs=tuple(dataclasses.replace(run, unique_tokens=train.tokens) for run in planned),
        title="Masked diffusion and autoregression on the State of the Union",
        question=(
            "With a given compute, how large should a masked diffusion model (MDM) or an autoregressive model (ARM) "
            "be, and what loss does it reach? A small study of both at equal FLOPs."
        ),
        corpus=(
            f"State of the Union addresses, 1790 to 1999: {train.documents} speeches of {numbers.count(train.tokens)} "
            f"tokens to train on and {valid.documents} held out, whole, as in-period text; a byte-pair encoding of "
            f"{corpus.vocab_size:,} tokens, trained on the former"
        ),
        command=command,
    )


def cost(run: PlannedRun, vocab_size: int) -> float:
    """About what a run costs in time, in FLOPs: the head and attention, which 6 N D leaves out, count here."""
    per_token = sizes.training_flops(
        sizes.lookup(run.size),
        1,
        convention="full",
        length=run.length,
        vocab_size=vocab_size,
        scored_share=1.0 if run.objective == "arm" else 0.5,
    )
    return run.tokens * (per_token + OVERHEAD_FLOPS)


def evaluated_windows(scale: float) -> int:
    """Windows of each split to evaluate the best models on, spread evenly over it."""
    return max(64, min(1024, round(1024 * scale)))


def samples(lm: LanguageModel, run: str, seed: int) -> Iterator[Sample]:
    """What the report shows of one model's writing: continued prompts, and for an MDM a passage with blanks filled."""
    sampler = "autoregressive" if lm.config.causal else "ancestral"
    for prompt in PROMPTS:
        length = lm.config.context_length - len(lm.tokenizer.encode(prompt))
        written = lm.generate(prompt, max_new_tokens=length, sampler=sampler, temperature=0.7, seed=seed)
        yield sample(lm, written, run=run, title=f"After \u201c{prompt}\u201d", kind="generated", sampler=sampler)
    if not lm.config.causal:
        filled = lm.infill(INFILL, sampler=sampler, temperature=0.7, seed=seed)
        yield sample(lm, filled, run=run, title="Blanks filled in", kind="infilled", sampler=sampler)


def _settings(run: PlannedRun, scale: float) -> dict[str, Any]:
    often = max(1, run.steps // CHECKPOINTS)
    windows = max(32, min(256, round(256 * scale)))
    return {
        **SETTINGS,
        "validation_windows": windows,
        "log_every": max(1, run.steps // 100),
        "checkpoint_every": often,
        "keep_checkpoints": 1,
    }
