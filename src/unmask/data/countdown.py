"""Countdown: reach a target from given numbers with + - * /, each number used once (Ye et al., 2024).

    {"input": "15,44,79,50", "output": "44-15=29,79-29=50"}      JSON lines; the target is the last number of the input

A solution is a chain of equations. Each takes two of the numbers that are there and puts its result in their place; at
the end the target alone is left. All numbers are whole and none is below zero, so that - and / are only used where they
give such a number. A problem has many solutions, of which a file names one.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from unmask.data.problems import Problem
from unmask.errors import UnmaskError, UsageError
from unmask.seeding import derived_seed

EQUATION = re.compile(r"\s*(\d+)\s*([-+*/])\s*(\d+)\s*=\s*(\d+)\s*", re.ASCII)
QUESTION = re.compile(r"\d{1,9}(,\d{1,9}){2,}", re.ASCII)
MOST_NUMBERS = 6
FRUITLESS = 10_000
"""Problems in a row that are there already or miss the targets, after which no more are looked for."""


class Countdown(Problem):
    """A problem whose answer is a chain of equations, without a rationale: it is solved in one stage."""

    @property
    def numbers(self) -> list[int]:
        """What may be used."""
        return self._values[:-1]

    @property
    def target(self) -> int:
        """What is to be reached."""
        return self._values[-1]

    @property
    def key(self) -> tuple[int, ...]:
        """The same for problems that differ in the order of their numbers alone."""
        return (*sorted(self.numbers), self.target)

    @property
    def _values(self) -> list[int]:
        return [int(each) for each in self.question.split(",")]


@dataclass(frozen=True)
class Ranges:
    """What is generated. Raises `UsageError`, in the words of the command's options, for numbers out of range."""

    numbers: int = 3
    """How many are given."""
    largest: int = 20
    """Numbers are from 1 to this."""
    target: int = 100
    """Targets are from 1 to this."""

    def __str__(self) -> str:
        return f"countdown of {self.numbers} numbers up to {self.largest}, targets up to {self.target}"

    def __post_init__(self) -> None:
        if not 2 <= self.numbers <= MOST_NUMBERS:
            raise UsageError(f"--numbers {self.numbers}: must be from 2 to {MOST_NUMBERS}")
        for option, value in (("largest-number", self.largest), ("largest-target", self.target)):
            if not 1 <= value <= 10**6:
                raise UsageError(f"--{option} {value}: must be from 1 to a million")


def reaches(numbers: Sequence[int], target: int, written: str) -> bool:
    """Whether what is written is a chain of equations that uses each number once and ends at the target.

    Any right chain counts. Nothing else may stand in the text but spaces between its parts, and numbers are written
    without leading zeros.
    """
    left = [str(number) for number in numbers]
    equations = written.split(",")
    if len(equations) != len(left) - 1:
        return False
    for equation in equations:
        parts = EQUATION.fullmatch(equation)
        if parts is None:
            return False
        first, operation, second, result = parts.groups()
        for used in (first, second):
            if used not in left:
                return False
            left.remove(used)
        # Texts are compared, and only numbers that were there are computed with: what is written cannot be too long.
        value = applied(int(first), operation, int(second))
        if value is None or str(value) != result:
            return False
        left.append(result)
    return left == [str(target)]


def applied(first: int, operation: str, second: int) -> int | None:
    """The result, or None where it is below zero or no whole number."""
    if operation == "+":
        return first + second
    if operation == "*":
        return first * second
    if operation == "-":
        return first - second if first >= second else None
    return first // second if second and first % second == 0 else None


def parse(fields: dict[str, Any], where: str) -> Countdown:
    """The problem of one line of a file. Raises `UnmaskError`, with `where` it is, for one whose solution is none."""
    question, answer = fields.get("input"), fields.get("output")
    if not isinstance(question, str) or not QUESTION.fullmatch(question):
        raise UnmaskError(f"{where}: input {question!r}: give two or more numbers and the target, with commas between")
    problem = Countdown(question, "", answer if isinstance(answer, str) else "")
    if not reaches(problem.numbers, problem.target, problem.answer):
        raise UnmaskError(f"{where}: output {answer!r}: no solution of {question}: give equations such as 1+2=3,3*4=12")
    return problem


def generate(ranges: Ranges, count: int, seed: int = 0, *, apart_from: Iterable[Problem] = ()) -> list[Countdown]:
    """So many different problems, none of which is in `apart_from`, in whatever order its numbers stand.

    Numbers are drawn, then pairs of them and what is done with them; what misses the range of targets is drawn again,
    and no equation has the result 0. Raises `UsageError` where no more problems are found.
    """
    rng = random.Random(derived_seed(seed, "countdown"))
    known = {each.key for each in apart_from if isinstance(each, Countdown)}
    found: list[Countdown] = []
    fruitless = 0
    while len(found) < count:
        problem = _drawn(ranges, rng)
        if problem is not None and problem.key not in known:
            known.add(problem.key)
            found.append(problem)
            fruitless = 0
        elif (fruitless := fruitless + 1) == FRUITLESS:
            raise UsageError(
                f"--problems: only {len(found)} of {count} found, to train on and to test (--limit, 0: 200), for "
                f"{ranges}: ask for fewer, or raise --largest-number, --largest-target or --numbers"
            )
    return found


def _drawn(ranges: Ranges, rng: random.Random) -> Countdown | None:
    """A problem with its solution, or None where what was drawn comes to nothing."""
    given = [rng.randint(1, ranges.largest) for _ in range(ranges.numbers)]
    left = list(given)
    chain: list[str] = []
    while len(left) > 1:
        first, second = (left.pop(rng.randrange(len(left))) for _ in range(2))
        results = {operation: applied(first, operation, second) for operation in "+-*/"}
        operation, value = rng.choice([(operation, value) for operation, value in results.items() if value])
        chain.append(f"{first}{operation}{second}={value}")
        left.append(value)
    if left[0] > ranges.target:
        return None
    return Countdown(",".join(map(str, [*given, left[0]])), "", ",".join(chain))
