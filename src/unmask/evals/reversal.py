"""Asking a model in the direction that it was trained in and in the other (Berglund et al., 2023; Nie et al., 2025).

A name is right if the generated text begins with it; so is a description, whose BLEU (sacrebleu) is told beside. The
paper decodes 52 positions in 32 steps, with unsupervised guidance 0.8; an ARM writes as many tokens, without guidance.
A model too small to write what it knows may still tell it apart: `choice` is how often the right answer is likelier
than nine wrong ones, which are those of other items of the same test.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from scipy import stats

from unmask.data.reversal import Item
from unmask.errors import UnmaskError
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

    items: int
    exact: float
    """Share of right answers."""
    exact_ci95: tuple[float, float]
    """Wilson's interval."""
    bleu: float
    """Of the corpus, from 0 to 100."""
    network_calls: float
    """Calls for an answer, on average."""
    choice: float | None
    """Share of items whose right answer is the likeliest of the candidates."""
    choice_ci95: tuple[float, float] | None
    chance: float
    """That share for one who guesses."""
    samples: list[dict[str, str]]
    """The first few prompts, answers, and what was written."""

    def to_dict(self) -> dict[str, Any]:
        """A dict for JSON."""
        interval = None if self.choice_ci95 is None else list(self.choice_ci95)
        return {**self.__dict__, "exact_ci95": list(self.exact_ci95), "choice_ci95": interval}


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
    """Exact match and BLEU of what was written to each item, and the share of right choices."""
    import sacrebleu

    expected = [wanted(item) for item in items]
    answers = [text.strip() for text in written]
    right = sum(text.startswith(each) for text, each in zip(answers, expected, strict=True))
    scorer: Any = sacrebleu
    return Result(
        items=len(items),
        exact=right / len(items),
        exact_ci95=wilson(right, len(items)),
        bleu=float(scorer.corpus_bleu(answers, [[item.completion.strip() for item in items]]).score),
        network_calls=network_calls / len(items),
        choice=None if chosen is None else sum(chosen) / len(items),
        choice_ci95=None if chosen is None else wilson(sum(chosen), len(items)),
        chance=1 / len(candidates(items, items[0])),
        samples=[
            {"prompt": item.prompt, "expected": each, "written": text}
            for item, each, text in zip(items[:3], expected, answers, strict=False)
        ],
    )


def wilson(right: int, items: int) -> tuple[float, float]:
    """Wilson's 95% interval of a share."""
    tested: Any = stats.binomtest(right, items)
    interval = tested.proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def wanted(item: Item) -> str:
    """What an answer must begin with: the completion without the signs at its end."""
    return item.completion.strip().rstrip(".?! ")


def check_installed() -> None:
    """Raise `UnmaskError` unless sacrebleu is there."""
    if importlib.util.find_spec("sacrebleu") is None:
        raise UnmaskError("unmask reversal: needs the package sacrebleu: pip install sacrebleu")


def _masked(settings: Settings) -> dict[str, Any]:
    return {
        "sampler": "confidence",
        "steps": min(settings.steps, settings.positions),
        "guidance": settings.guidance,
    }
