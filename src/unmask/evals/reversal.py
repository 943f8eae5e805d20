"""Asking a model in the direction that it was trained in and in the other (Berglund et al., 2023; Nie et al., 2025).

A name is right if the generated text begins with it; so is a description, whose BLEU (sacrebleu) is told beside. The
paper decodes 52 positions in 32 steps, with unsupervised guidance 0.8; an ARM writes as many tokens, without guidance.
A model too small to write what it knows may still tell it apart: `choice` is how often the right answer is likelier
than nine wrong ones, which are those of other items of the same test.

`evaluate` asks one model with one way of decoding; `summarise_runs` puts several runs together, with intervals over
seeds and people.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from unmask.data.reversal import TESTS, Item
from unmask.errors import UnmaskError
from unmask.evals.resampling import Floats, by_cluster, figure, share
from unmask.language_model import LanguageModel

BATCH = 50
CANDIDATES = 10
"""From which an answer is chosen, the right one among them."""
OnProgress = Callable[[str, int, int], None]
"""Called with a test, the items that are done and all of them."""


@dataclass(frozen=True)
class Settings:
    """How a model answers."""

    positions: int = 52
    """Tokens that it writes."""
    steps: int = 32
    """Decoding steps of a masked model."""
    guidance: float = 0.8
    """Weight of unsupervised guidance of a masked model."""
    choice_samples: int = 32
    """Draws of masks for each likelihood of a masked model; 0: nothing is chosen from."""
    seed: int = 0


@dataclass(frozen=True)
class Result:
    """How one test went."""

    answers: list[str]
    """What is right, for each item."""
    written: list[str]
    """What was written."""
    right: list[bool]
    bleu: float
    """Of the corpus, from 0 to 100."""
    network_calls: float
    """Calls for an answer, on average."""
    chosen: list[bool] | None
    """For each item whether its right answer is the likeliest of the candidates."""
    chance: float
    """The share of right choices of one who guesses."""

    @property
    def items(self) -> int:
        """How many were asked."""
        return len(self.right)

    @property
    def exact(self) -> float:
        """Share of right answers."""
        return sum(self.right) / self.items

    @property
    def choice(self) -> float | None:
        """Share of right choices."""
        return None if self.chosen is None else sum(self.chosen) / self.items

    def to_dict(self) -> dict[str, Any]:
        """A dict for JSON."""
        return asdict(self)


def evaluate(
    lm: LanguageModel, tests: dict[str, list[Item]], settings: Settings, on_progress: OnProgress | None = None
) -> dict[str, Result]:
    """What `lm` answers in each of `tests`. Raises `UnmaskError` without the package sacrebleu."""
    check_installed()
    found: dict[str, Result] = {}
    for name, items in tests.items():
        written: list[str] = []
        calls = 0
        for start in range(0, len(items), BATCH):
            batch = items[start : start + BATCH]
            decoding: dict[str, Any] = {} if lm.config.causal else _masked(settings)
            for item, generation in zip(
                batch,
                lm.generate(
                    [item.prompt for item in batch],
                    max_new_tokens=settings.positions,
                    temperature=0.0,
                    seed=settings.seed,
                    **decoding,
                ),
                strict=True,
            ):
                written.append(generation.text[len(item.prompt) :])
                calls += generation.network_calls
            if on_progress is not None:
                on_progress(name, min(start + BATCH, len(items)), len(items))
        chosen = choices(lm, items, settings) if settings.choice_samples else None
        found[name] = summarise(items, written, chosen, calls)
    return found


def choices(lm: LanguageModel, items: Sequence[Item], settings: Settings) -> list[bool]:
    """For each item, whether its answer is likelier than those of the other candidates."""
    options = [candidates(items, item) for item in items]
    estimates = iter(
        lm.score_many(
            [(item.prompt, option) for item, each in zip(items, options, strict=True) for option in each],
            num_samples=settings.choice_samples,
            guidance=0.0 if lm.config.causal else settings.guidance,
            seed=settings.seed,
        )
    )
    likelihoods = [[next(estimates).log_likelihood for _ in each] for each in options]
    return [all(each[0] > other for other in each[1:]) for each in likelihoods]


def candidates(items: Sequence[Item], item: Item) -> list[str]:
    """The answer of `item` and up to nine that follow it in the alphabet among those of the test."""
    answers = sorted({each.completion for each in items})
    first = answers.index(item.completion)
    return [*answers[first:], *answers[:first]][:CANDIDATES]


def summarise(
    items: Sequence[Item], written: Sequence[str], chosen: Sequence[bool] | None = None, network_calls: int = 0
) -> Result:
    """Exact match and BLEU of what was written to each item, and the right choices."""
    expected = [wanted(item) for item in items]
    answers = [text.strip() for text in written]
    return Result(
        answers=[item.completion.strip() for item in items],
        written=answers,
        right=[text.startswith(each) for text, each in zip(answers, expected, strict=True)],
        bleu=corpus_bleu(np.sum([bleu_sums(*each) for each in _pairs(items, answers)], axis=0)),
        network_calls=network_calls / len(items),
        chosen=None if chosen is None else list(chosen),
        chance=1 / len(candidates(items, items[0])),
    )


def bleu_sums(written: str, answer: str) -> list[float]:
    """What sacrebleu counts of one text: matching n-grams, n-grams, and both lengths."""
    score = _sentence_metric().sentence_score(written, [answer])
    return [*map(float, score.counts), *map(float, score.totals), float(score.sys_len), float(score.ref_len)]


def corpus_bleu(sums_F: Floats) -> float:
    """BLEU of a corpus as sacrebleu has it, from the sums of `bleu_sums` over its texts.

    Of the order of the longest n-grams that there are: a name has no four words.
    """
    counts = list(map(int, sums_F))
    compute = _sentence_metric().compute_bleu
    score = compute(counts[:4], counts[4:8], counts[8], counts[9], smooth_method="exp", effective_order=True)
    return float(score.score)


def summarise_runs(runs: Sequence[dict[str, Any]], *, shared: bool, seed: int = 0) -> list[dict[str, Any]]:
    """A row for each model, way of decoding and test: figures over the runs of that model, each with its interval.

    `runs` are dicts with `model`, `objective`, `seed`, and `decodings`, each of which has `guidance`, `steps` and, as
    `tests`, the dicts of `evaluate`'s results. `shared`: all runs were asked the same items.
    """
    rows: list[dict[str, Any]] = []
    for model in dict.fromkeys(run["model"] for run in runs):
        mine = [run for run in runs if run["model"] == model]
        for place, decoding in enumerate(mine[0]["decodings"]):
            for test in decoding["tests"]:
                results = [run["decodings"][place]["tests"][test] for run in mine]
                rows.append(
                    {
                        "model": model,
                        "objective": mine[0]["objective"],
                        "runs": len(mine),
                        "guidance": decoding["guidance"],
                        "steps": decoding["steps"],
                        "test": test,
                        **asdict(TESTS[test]),
                        **_together(results, shared=shared, seed=seed),
                    }
                )
    return rows


def _together(results: Sequence[dict[str, Any]], *, shared: bool, seed: int) -> dict[str, Any]:
    clusters = [each["answers"] for each in results]
    sums = [
        by_cluster([bleu_sums(*pair) for pair in zip(each["written"], each["answers"], strict=True)], each["answers"])
        for each in results
    ]
    chosen = [each["chosen"] for each in results]
    choice = None if chosen[0] is None else share(chosen, clusters, shared=shared, seed=seed).to_dict()
    return {
        "items": sum(len(each["right"]) for each in results),
        "exact": share([each["right"] for each in results], clusters, shared=shared, seed=seed).to_dict(),
        "bleu": figure(sums, corpus_bleu, shared=shared, seed=seed).to_dict(),
        "choice": choice,
        "chance": results[0]["chance"],
        "network_calls": sum(each["network_calls"] for each in results) / len(results),
    }


def wanted(item: Item) -> str:
    """What an answer must begin with: the completion without the signs at its end."""
    return item.completion.strip().rstrip(".?! ")


def check_installed() -> None:
    """Raise `UnmaskError` unless sacrebleu is there."""
    if importlib.util.find_spec("sacrebleu") is None:
        raise UnmaskError("unmask reversal: needs the package sacrebleu: pip install sacrebleu")


@functools.cache
def _sentence_metric() -> Any:
    import sacrebleu

    return sacrebleu.BLEU(effective_order=True)


def _pairs(items: Sequence[Item], written: Sequence[str]) -> list[tuple[str, str]]:
    return [(text, item.completion.strip()) for item, text in zip(items, written, strict=True)]


def _masked(settings: Settings) -> dict[str, Any]:
    return {
        "sampler": "confidence",
        "steps": min(settings.steps, settings.positions),
        "guidance": settings.guidance,
    }
