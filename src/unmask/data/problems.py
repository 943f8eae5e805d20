"""Problems with rationales, and multiplication that is generated.

Each problem gives two examples to train on (Nie et al., 2025, section 5): the rationale after the question, and the
answer after both. So it is also decoded twice. One without a rationale gives the second alone.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from unmask.errors import UsageError
from unmask.seeding import derived_seed

QUESTION_END, ANSWER_MARK = "||", "####"
MOST_DIGITS = 4


@dataclass(frozen=True)
class Problem:
    """A question with how it is solved."""

    question: str
    rationale: str
    answer: str

    @property
    def asked(self) -> str:
        """The prompt that a rationale follows."""
        return f"{self.question} {QUESTION_END}"

    def with_rationale(self, rationale: str) -> str:
        """The prompt that an answer follows."""
        return " ".join(filter(None, [self.asked, rationale, ANSWER_MARK]))

    def examples(self) -> list[tuple[str, str]]:
        """Both examples, each a prompt and what follows; the second alone where there is no rationale."""
        rationale = [(self.asked, f" {self.rationale}")] if self.rationale else []
        return [*rationale, (self.with_rationale(self.rationale), f" {self.answer}")]


def multiplication(digits: int, train: int, test: int, seed: int = 0) -> tuple[list[Problem], list[Problem]]:
    """Products of two numbers of so many digits, to train on and to test: no test is trained on, in either order.

    Digits are written apart, the rationale is the partial products as in Deng et al. Raises `UsageError` for numbers
    of no or too many digits, and for more problems than there are.
    """
    if not 1 <= digits <= MOST_DIGITS:
        raise UsageError(f"--digits {digits}: must be from 1 to {MOST_DIGITS}")
    numbers = range(10 ** (digits - 1), 10**digits)
    pairs = len(numbers) * (len(numbers) + 1) // 2
    if train < 1 or test < 1 or train + test > pairs:
        raise UsageError(
            f"--problems {train} to train on, and {test} to test (--limit, 0: 200): must be at least 1 each, and "
            f"together no more than the {pairs} products there are"
        )
    rng = random.Random(derived_seed(seed, "multiplication"))
    chosen: dict[tuple[int, int], None] = {}
    while len(chosen) < train + test:
        first, second = rng.choice(numbers), rng.choice(numbers)
        if (second, first) not in chosen:
            chosen[first, second] = None
    found = [product(*pair) for pair in chosen]
    return found[:train], found[train:]


def product(first: int, second: int) -> Problem:
    """One product: 12 * 34 is 1 2 * 3 4 || 4 8 + 3 6 0 #### 4 0 8."""
    parts = [first * int(digit) * 10**place for place, digit in enumerate(reversed(str(second)))]
    return Problem(f"{_spaced(first)} * {_spaced(second)}", " + ".join(map(_spaced, parts)), _spaced(first * second))


def examples(problems: Sequence[Problem]) -> list[tuple[str, str]]:
    """Both examples of each."""
    return [each for problem in problems for each in problem.examples()]


def _spaced(number: int) -> str:
    return " ".join(str(number))
