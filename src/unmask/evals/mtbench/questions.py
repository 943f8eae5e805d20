"""The questions, and what FastChat does by their category: the temperature of an answer, a reference for the judge."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from unmask.errors import UnmaskError, UsageError, unknown_name
from unmask.evals.mtbench import lines

TEMPERATURES = {
    "writing": 0.7,
    "roleplay": 0.7,
    "extraction": 0.0,
    "math": 0.0,
    "coding": 0.0,
    "reasoning": 0.0,
    "stem": 0.1,
    "humanities": 0.1,
}
"""Of answers, by category (FastChat, llm_judge/common.py)."""
OTHER_TEMPERATURE = 0.7
"""Of answers in any other category."""
WITH_REFERENCE = ("math", "reasoning", "coding")
"""The categories whose answers are judged beside a reference answer."""


@dataclass(frozen=True)
class Question:
    """What one conversation asks."""

    id: int
    category: str
    turns: tuple[str, ...]

    @property
    def temperature(self) -> float:
        """FastChat's for an answer."""
        return TEMPERATURES.get(self.category, OTHER_TEMPERATURE)


@dataclass(frozen=True)
class QuestionSet:
    """The questions of one file, in its order."""

    path: Path
    questions: dict[int, Question]
    digest: str
    """Of all ids, categories and turns: tells one set of questions from another."""

    def __getitem__(self, question_id: int) -> Question:
        """Raises `UsageError` if there is no such question."""
        found = self.questions.get(question_id)
        if found is None:
            ids = sorted(self.questions)
            raise UsageError(
                f"question {question_id}: not in {self.path}, which has {len(ids)} ({ids[0]} to {ids[-1]}): "
                "take one of these, or give the file that it is in"
            )
        return found

    @property
    def categories(self) -> list[str]:
        """In the order of their first questions."""
        return list(dict.fromkeys(question.category for question in self.questions.values()))


def read(path: Path, option: str = "--questions") -> QuestionSet:
    """The questions of a file of FastChat's (`question_id`, `category`, `turns`).

    Raises `UsageError` where there is no such file, and `UnmaskError`, which names the line, for one that is no
    question, has an id for the second time, or asks nothing.
    """
    found: dict[int, Question] = {}
    for record, where in lines.read(path, option):
        question_id, category, turns = (record.get(name) for name in ("question_id", "category", "turns"))
        if not isinstance(question_id, int) or not isinstance(category, str):
            raise UnmaskError(f"{where}: no question: needs question_id, category and turns")
        if question_id in found:
            raise UnmaskError(f"{where}: question {question_id} for the second time: leave one out")
        asked = cast("list[Any]", turns) if isinstance(turns, list) else []
        if not asked or not all(isinstance(turn, str) and turn.strip() for turn in asked):
            raise UnmaskError(f"{where}: question {question_id} has an empty turn or none: write what is asked")
        found[question_id] = Question(question_id, category, tuple(cast("list[str]", asked)))
    canonical = json.dumps([[each.id, each.category, each.turns] for each in found.values()])
    return QuestionSet(path, found, hashlib.sha256(canonical.encode()).hexdigest()[:16])


def chosen(
    questions: QuestionSet, ids: Sequence[int] = (), categories: Sequence[str] = (), limit: int = 0
) -> list[Question]:
    """Those with the `ids` (none: all) and of the `categories` (none: all), at most `limit` of each category.

    Raises `UsageError` for what is not there, and where nothing is left.
    """
    if limit < 0:
        raise UsageError(f"--limit {limit}: must not be negative")
    for category in categories:
        if category not in questions.categories:
            raise unknown_name("category", category, questions.categories)
    asked = [questions[question_id] for question_id in dict.fromkeys(ids)] or list(questions.questions.values())
    asked = [question for question in asked if not categories or question.category in categories]
    counts: dict[str, int] = {}
    kept: list[Question] = []
    for question in asked:
        counts[question.category] = counts.get(question.category, 0) + 1
        if not limit or counts[question.category] <= limit:
            kept.append(question)
    if not kept:
        raise UsageError("--question-ids and --categories: no question is of both: leave one out")
    return kept
