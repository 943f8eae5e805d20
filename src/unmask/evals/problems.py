"""Solving problems in two decodings (Nie et al., 2025, section 5): a rationale after the question, then the answer.

An answer is right if it is equal to the known one by `math-verify`: 5.50 is 5.5, 70,000 is 70000; that of a countdown,
which has no rationale and is decoded once, if its equations reach the target. The paper's decoding of a masked model is
256 steps each, temperature 0.1 and unsupervised guidance 0.1; an autoregressive model writes as many tokens.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from unmask.data import countdown
from unmask.data.countdown import Countdown
from unmask.data.problems import Problem
from unmask.errors import UnmaskError
from unmask.evals.resampling import share
from unmask.language_model import LanguageModel

BATCH = 50
OnProgress = Callable[[int, int], None]
"""Called with the problems that are done and all of them."""


@dataclass(frozen=True)
class Settings:
    """How a model solves."""

    rationale_positions: int
    answer_positions: int
    """Tokens that it writes in the first and in the second decoding; with none in the first, it answers at once."""
    sampler: str = "confidence"
    """Of a masked model: confidence (the paper's greedy decoding), ancestral, or another."""
    steps: int = 256
    guidance: float = 0.1
    temperature: float = 0.1
    seed: int = 0


@dataclass(frozen=True)
class Solved:
    """What a model wrote to each problem."""

    rationales: list[str]
    answers: list[str]
    right: list[bool]
    network_calls: float
    """For a problem, in all its decodings, on average."""

    def to_dict(self) -> dict[str, Any]:
        """A dict for JSON."""
        return asdict(self)


def solve(
    lm: LanguageModel, problems: Sequence[Problem], settings: Settings, on_progress: OnProgress | None = None
) -> Solved:
    """Decode a rationale for each problem, then an answer after it. Raises `UnmaskError` if math-verify is missing."""
    check_installed(problems)
    rationales: list[str] = []
    answers: list[str] = []
    calls = 0
    for start in range(0, len(problems), BATCH):
        batch = problems[start : start + BATCH]
        first = [""] * len(batch)
        if settings.rationale_positions:
            first, cost = _written(lm, [each.asked for each in batch], settings.rationale_positions, settings)
            calls += cost
        rationales += first
        asked = [each.with_rationale(rationale) for each, rationale in zip(batch, first, strict=True)]
        second, cost = _written(lm, asked, settings.answer_positions, settings)
        answers += second
        calls += cost
        if on_progress is not None:
            on_progress(len(answers), len(problems))
    right = [is_right(problem, answer) for problem, answer in zip(problems, answers, strict=True)]
    return Solved(rationales, answers, right, calls / len(problems))


def _written(lm: LanguageModel, prompts: Sequence[str], positions: int, settings: Settings) -> tuple[list[str], int]:
    """What follows each prompt, and the network calls of all; no more than the context has room for."""
    masked: dict[str, Any] = (
        {}
        if lm.config.causal
        else {
            "sampler": settings.sampler,
            "steps": min(settings.steps, positions),
            "guidance": settings.guidance,
        }
    )
    texts = [""] * len(prompts)
    calls = 0
    lengths = [len(lm.tokenizer.encode(prompt)) for prompt in prompts]
    fitting = [place for place, length in enumerate(lengths) if length + positions <= lm.config.context_length]
    if fitting:
        found = lm.generate(
            [prompts[place] for place in fitting],
            max_new_tokens=positions,
            temperature=settings.temperature,
            seed=settings.seed,
            **masked,
        )
        for place, each in zip(fitting, found, strict=True):
            texts[place] = each.fills[0].strip()
            calls += each.network_calls
    return texts, calls


def is_right(problem: Problem, written: str) -> bool:
    """Whether an answer solves the problem."""
    if isinstance(problem, Countdown):
        return countdown.reaches(problem.numbers, problem.target, written)
    return equal(problem.answer, written)


def equal(expected: str, written: str) -> bool:
    """Whether an answer is that which is expected, as numbers or expressions; digits may be written apart."""
    import math_verify

    verify: Any = math_verify.verify
    gold, answer = (_parsed(_joined(text)) for text in (expected, written))
    return bool(gold and answer and verify(gold, answer))


def _parsed(text: str) -> list[Any]:
    import math_verify

    parse: Any = math_verify.parse
    return parse(text) if text else []


def _joined(text: str) -> str:
    """Digits that stand apart, each by itself, together; what follows a second mark left out."""
    text = text.split("####")[-1].strip()
    words = text.split()
    return "".join(words) if len(words) > 1 and all(len(word) == 1 and word.isdigit() for word in words) else text


def accuracy(runs: Sequence[dict[str, Any]], *, shared: bool, seed: int = 0) -> list[dict[str, Any]]:
    """A row for each model and way of decoding: the share of solved problems over the runs, with its interval.

    `runs` are dicts with `model`, `objective`, and `decodings`, each with `sampler` and what `Solved` holds.
    """
    rows: list[dict[str, Any]] = []
    for model in dict.fromkeys(run["model"] for run in runs):
        mine = [run for run in runs if run["model"] == model]
        for place, decoding in enumerate(mine[0]["decodings"]):
            solved = [run["decodings"][place] for run in mine]
            right = [each["right"] for each in solved]
            found = share(right, [range(len(each)) for each in right], shared=shared, seed=seed)
            rows.append(
                {
                    "model": model,
                    "objective": mine[0]["objective"],
                    "runs": len(mine),
                    "sampler": decoding["sampler"],
                    "problems": sum(map(len, right)),
                    "network_calls": sum(each["network_calls"] for each in solved) / len(solved),
                    "accuracy": found.to_dict(),
                }
            )
    return rows


def check_installed(problems: Sequence[Problem]) -> None:
    """Raise `UnmaskError` if these problems need math-verify and it is not there."""
    needed = not all(isinstance(each, Countdown) for each in problems)
    if needed and importlib.util.find_spec("math_verify") is None:
        raise UnmaskError("unmask gsm8k: needs the package math-verify: pip install math-verify")
