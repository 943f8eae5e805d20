"""Single-answer grading: which judgments are to be made, what each asks of the judge, and the rating it gives.

As in FastChat's gen_judgment.py: a turn is judged on its own call, the second one with the whole conversation in view;
math, reasoning and coding beside a reference answer.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from unmask.errors import UnmaskError, UsageError
from unmask.evals.mtbench import answers as answering
from unmask.evals.mtbench import lines
from unmask.evals.mtbench.answers import Answer
from unmask.evals.mtbench.endpoint import Reply
from unmask.evals.mtbench.lines import Record
from unmask.evals.mtbench.questions import WITH_REFERENCE, QuestionSet

FOLDER = "model_judgment"
PROMPTS = {
    (False, 1): "single-v1",
    (True, 1): "single-math-v1",
    (False, 2): "single-v1-multi-turn",
    (True, 2): "single-math-v1-multi-turn",
}
"""FastChat's prompts by whether there is a reference, and the turn."""
RATINGS = (re.compile(r"\[\[(\d+\.?\d*)\]\]"), re.compile(r"\[(\d+\.?\d*)\]"))
"""What the judge is asked for, and what it may write instead."""
HIGHEST = 10
NO_RATING = -1.0
"""The score of a judgment without a rating, as in FastChat: it counts in no mean."""
CHARACTERS = 4.0
"""Of English text in a token, about."""
COMPLETION_TOKENS = 200.0
"""Of a judgment, about."""


@dataclass(frozen=True)
class Prompt:
    """One of the judge's prompts."""

    name: str
    system: str
    template: str


@dataclass(frozen=True)
class Key:
    """Which judgment of one judge."""

    question_id: int
    model: str
    turn: int


@dataclass(frozen=True)
class Task:
    """A judgment to be made."""

    key: Key
    answer_id: str
    prompt: Prompt
    user_prompt: str

    @property
    def messages(self) -> list[dict[str, str]]:
        """What is sent."""
        return [
            {"role": "system", "content": self.prompt.system},
            {"role": "user", "content": self.user_prompt},
        ]

    @property
    def characters(self) -> int:
        """Of all that is sent."""
        return len(self.prompt.system) + len(self.user_prompt)


@dataclass(frozen=True)
class Judgment:
    """A judgment that was made."""

    key: Key
    judge: str
    score: float
    """`NO_RATING` where the judge gave none."""
    answer_id: str | None
    characters: int
    """Of the prompt."""
    prompt_tokens: int | None
    completion_tokens: int | None


@dataclass(frozen=True)
class Cost:
    """What judgments take, in tokens."""

    judgments: int
    prompt_tokens: float
    completion_tokens: float

    def money(self, price_in: float, price_out: float) -> float:
        """At prices for a million tokens."""
        return (self.prompt_tokens * price_in + self.completion_tokens * price_out) / 1e6


def read_prompts(path: Path) -> dict[str, Prompt]:
    """The prompts for single-answer grading in FastChat's judge_prompts.jsonl, by name.

    Raises `UsageError` where there is no such file, and `UnmaskError` where one of them is missing or damaged.
    """
    found: dict[str, Prompt] = {}
    for record, where in lines.read(path, "--prompts"):
        name, system, template = (record.get(field) for field in ("name", "system_prompt", "prompt_template"))
        if not (isinstance(name, str) and isinstance(system, str) and isinstance(template, str)):
            raise UnmaskError(f"{where}: no judge prompt: needs name, system_prompt and prompt_template")
        found[name] = Prompt(name, system, template)
    for name in PROMPTS.values():
        if name not in found:
            raise UnmaskError(f"--prompts {path}: has no prompt {name!r}: give FastChat's judge_prompts.jsonl")
    return found


def read_references(path: Path | None, questions: QuestionSet) -> dict[int, Answer]:
    """The reference answers by question; none without a file. Raises as `answers.read`."""
    if path is None:
        return {}
    lines.read(path, "--references")  # for the name of the option
    return answering.read(path, questions)


def tasks(
    models: Mapping[str, Mapping[int, Answer]], prompts: Mapping[str, Prompt], references: Mapping[int, Answer]
) -> list[Task]:
    """Every judgment of the answers of `models`, first turns first.

    Raises `UsageError` for a question that needs a reference answer and has none.
    """
    found: list[Task] = []
    for turn in (1, 2):
        for model, answers in models.items():
            for answer in answers.values():
                if len(answer.turns) >= turn:
                    found.append(_task(model, answer, turn, prompts, references))
    return found


def rating(text: str) -> float:
    """The first rating from 0 to 10 in what a judge wrote; `NO_RATING` if there is none."""
    for pattern in RATINGS:
        for match in pattern.finditer(text):
            value = float(match[1])
            if value <= HIGHEST:
                return value
    return NO_RATING


def to_record(task: Task, judge: str, reply: Reply) -> Record:
    """A line of a judgment file: FastChat's fields, and which answer it was and what it took."""
    score = rating(reply.text)
    return {
        "question_id": task.key.question_id,
        "model": task.key.model,
        "judge": [judge, task.prompt.name],
        "user_prompt": task.user_prompt,
        "judgment": reply.text,
        "score": int(score) if score.is_integer() else score,
        "turn": task.key.turn,
        "tstamp": time.time(),
        "answer_id": task.answer_id,
        "usage": {"prompt_tokens": reply.prompt_tokens, "completion_tokens": reply.completion_tokens},
    }


def file_of(folder: Path, judge: str) -> Path:
    """Where a judge's judgments are."""
    return folder / FOLDER / f"{judge.replace('/', '_')}_single.jsonl"


def read(path: Path) -> dict[Key, Judgment]:
    """The judgments of a file, of several of one turn the last; none if there is no file.

    Raises `UnmaskError`, which names the line, for one that is no judgment of a single answer.
    """
    if not path.is_file() or not path.stat().st_size:
        return {}
    found: dict[Key, Judgment] = {}
    for record, where in lines.read(path):
        try:
            key = Key(int(record["question_id"]), str(record["model"]), int(record["turn"]))
            usage: Any = record.get("usage") or Record()
            judgment = Judgment(
                key,
                judge=str(record["judge"][0]),
                score=float(record["score"]),
                answer_id=record.get("answer_id"),
                characters=len(record["user_prompt"]),
                prompt_tokens=usage.get("prompt_tokens"),
                completion_tokens=usage.get("completion_tokens"),
            )
        except (LookupError, TypeError, ValueError, AttributeError):
            raise UnmaskError(f"{where}: no judgment of a single answer: leave the line out") from None
        found[key] = judgment
    return found


def missing(wanted: Iterable[Task], made: Mapping[Key, Judgment]) -> list[Task]:
    """The tasks that have no judgment with a rating, or one of an answer that has changed since."""
    return [task for task in wanted if not _is_made(task, made.get(task.key))]


def expected_cost(wanted: Sequence[Task], made: Iterable[Judgment] = ()) -> Cost:
    """What `wanted` will take, about: by the judgments that are made and tell, else by the length of the text."""
    told = [each for each in made if each.prompt_tokens and each.completion_tokens]
    per_character, completion = 1 / CHARACTERS, COMPLETION_TOKENS
    if told:
        per_character = sum(each.prompt_tokens or 0 for each in told) / max(1, sum(each.characters for each in told))
        completion = sum(each.completion_tokens or 0 for each in told) / len(told)
    prompt = per_character * sum(task.characters for task in wanted)
    return Cost(len(wanted), prompt, completion * len(wanted))


def _is_made(task: Task, judgment: Judgment | None) -> bool:
    if judgment is None or judgment.score == NO_RATING:
        return False
    return judgment.answer_id is None or judgment.answer_id == task.answer_id


def _task(
    model: str, answer: Answer, turn: int, prompts: Mapping[str, Prompt], references: Mapping[int, Answer]
) -> Task:
    question, turns = answer.question, [each.text for each in answer.turns]
    referred = question.category in WITH_REFERENCE
    reference = references.get(question.id)
    if referred and (reference is None or len(reference.turns) < turn):
        raise UsageError(
            f"--references: question {question.id} ({question.category}) is judged beside a reference answer and has "
            "none: give FastChat's reference_answer/gpt-4.jsonl"
        )
    given = [each.text for each in reference.turns] if reference is not None else []
    fields = {
        "question": question.turns[0],
        "answer": turns[0],
        **{f"question_{place}": text for place, text in enumerate(question.turns, 1)},
        **{f"answer_{place}": text for place, text in enumerate(turns, 1)},
        **{f"ref_answer_{place}": text for place, text in enumerate(given, 1)},
    }
    prompt = prompts[PROMPTS[referred, turn]]
    try:
        user_prompt = prompt.template.format(**cast("dict[str, Any]", fields))
    except (LookupError, ValueError) as error:
        raise UnmaskError(f"--prompts: the prompt {prompt.name!r} asks for {error}, which there is not") from None
    return Task(Key(question.id, model, turn), answer.answer_id, prompt, user_prompt)
