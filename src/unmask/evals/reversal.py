"""Asking a model in the direction that it was trained in and in the other (Berglund et al., 2023; Nie et al., 2025).

A name is right if the generated text begins with it; so is a description, whose BLEU (sacrebleu) is told beside. The
paper decodes 52 positions in 32 steps, with unsupervised guidance 0.8; an ARM writes as many tokens, without guidance.
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
    samples: list[dict[str, str]]
    """The first few prompts, answers, and what was written."""

    def to_dict(self) -> dict[str, Any]:
        """A dict for JSON."""
        return {**self.__dict__, "exact_ci95": list(self.exact_ci95)}


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
        found[name] = summarise(items, written, calls)
    return found


def summarise(items: Sequence[Item], written: Sequence[str], network_calls: int = 0) -> Result:
    """Exact match and BLEU of what was written to each item."""
    import sacrebleu

    expected = [wanted(item) for item in items]
    answers = [text.strip() for text in written]
    right = sum(text.startswith(each) for text, each in zip(answers, expected, strict=True))
    scorer: Any = sacrebleu
    tested: Any = stats.binomtest(right, len(items))
    interval = tested.proportion_ci(method="wilson")
    return Result(
        items=len(items),
        exact=right / len(items),
        exact_ci95=(float(interval.low), float(interval.high)),
        bleu=float(scorer.corpus_bleu(answers, [[item.completion.strip() for item in items]]).score),
        network_calls=network_calls / len(items),
        samples=[
            {"prompt": item.prompt, "expected": each, "written": text}
            for item, each, text in zip(items[:3], expected, answers, strict=False)
        ],
    )


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
