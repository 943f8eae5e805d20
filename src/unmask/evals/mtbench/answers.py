"""Answer files: FastChat's fields, and beside them what each turn took and how it was written.

    {"question_id": 81, "answer_id": "...", "model_id": "...", "tstamp": 1.7e9,
     "choices": [{"index": 0, "turns": [...], "seconds": [...], "network_calls": [...], "new_tokens": [...],
                  "room": [...]}],
     "unmask": {"questions": ..., "weights": ..., "kind": "mdm", "settings": {...}, ...}}

`seconds` of an answer that was written together with others is its share of the batch's.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from unmask.errors import UnmaskError, UsageError
from unmask.evals.mtbench import lines
from unmask.evals.mtbench.lines import Record
from unmask.evals.mtbench.questions import Question, QuestionSet

FOLDER = "model_answer"
MEASURES = ("seconds", "network_calls", "new_tokens", "room")
"""Lists beside `turns`, an entry for each."""
MUST_MATCH = ("questions", "weights", "device", "settings")
"""Fields of `Origin` in which the answers of one file agree."""


@dataclass(frozen=True)
class Turn:
    """What one turn was answered, and what that took; None where the file does not tell."""

    text: str
    seconds: float | None = None
    network_calls: int | None = None
    new_tokens: int | None = None
    """Up to the end-of-text token, without it."""
    room: int | None = None
    """Tokens that it could have: the most that was asked for, or what the context had left."""


@dataclass(frozen=True)
class Origin:
    """How the answers of a file were written."""

    questions: str
    """The digest of the set of questions."""
    model: str
    """The model's name, the same for all settings that it is tried with."""
    kind: str
    """mdm or arm."""
    params: int
    """Non-embedding parameters."""
    weights: str
    """Digest of the model's weights."""
    label: str
    """The settings in words."""
    device: str
    machine: str
    settings: dict[str, Any]
    """What the text depends on, and how many prompts were answered together."""


@dataclass(frozen=True)
class Answer:
    """A model's answer to one question."""

    question: Question
    answer_id: str
    turns: tuple[Turn, ...]
    origin: Origin | None
    """None for one that unmask did not write."""


def read(path: Path, questions: QuestionSet) -> dict[int, Answer]:
    """The answers of a file by question; of several to one question the last counts.

    Raises `UsageError` for an answer to a question that is not there or to one of another set, and `UnmaskError`, which
    names the line, for one without turns.
    """
    found: dict[int, Answer] = {}
    for record, where in lines.read(path):
        answer = _parsed(record, where, questions)
        found[answer.question.id] = answer
    return found


def read_folder(folder: Path, questions: QuestionSet, models: Sequence[str] = ()) -> dict[str, dict[int, Answer]]:
    """The answers in `folder/model_answer`, by model id (the file's name, as FastChat has it) and question.

    `models` are the ids that are wanted; none: all. Raises `UsageError` where one of them, or any, is missing.
    """
    paths = {path.stem: path for path in sorted((folder / FOLDER).glob("*.jsonl"), key=_by_number)}
    if not paths:
        raise UsageError(f"{folder / FOLDER}: no answers in it: write some with unmask mtbench answers")
    for model in models:
        if model not in paths:
            raise UsageError(f"--models {model}: no {model}.jsonl in {folder / FOLDER}: there are {', '.join(paths)}")
    return {model: read(paths[model], questions) for model in models or paths}


def _by_number(path: Path) -> list[tuple[int, str]]:
    """An order in which 8 steps stand before 16."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", path.stem)]


def to_record(question: Question, model_id: str, turns: Sequence[Turn], origin: Origin, temperature: float) -> Record:
    """A line of an answer file."""
    texts = [turn.text for turn in turns]
    content = json.dumps([model_id, question.id, texts])
    return {
        "question_id": question.id,
        "answer_id": hashlib.sha256(content.encode()).hexdigest()[:22],
        "model_id": model_id,
        "choices": [
            {
                "index": 0,
                "turns": texts,
                **{name: [getattr(turn, name) for turn in turns] for name in MEASURES},
            }
        ],
        "tstamp": time.time(),
        "unmask": {**asdict(origin), "temperature": temperature},
    }


def check_same_origin(answers: dict[int, Answer], origin: Origin, path: Path) -> None:
    """Raises `UsageError` if some of the answers in `path` were written otherwise than by `origin`."""
    for answer in answers.values():
        if answer.origin is None:
            raise UsageError(f"{path}: has answers that unmask did not write: give another --model-id")
        for name in MUST_MATCH:
            before, now = getattr(answer.origin, name), getattr(origin, name)
            if before == now:
                continue
            if isinstance(before, dict) and isinstance(now, dict):
                name, before, now = _first_difference(cast(Record, before), cast(Record, now))
            raise UsageError(
                f"{path}: was answered with {name} {before}, not {now}: give another --model-id, or remove the file"
            )


def sort(path: Path) -> None:
    """Put the lines in the order of their questions, the last for each, as FastChat does in the end."""
    from unmask.data.digests import write_atomically

    latest = {record["question_id"]: record for record, _ in lines.read(path)}
    ordered = [latest[question_id] for question_id in sorted(latest)]
    write_atomically(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in ordered))


def _first_difference(before: Record, now: Record) -> tuple[str, Any, Any]:
    name = next(name for name in {**before, **now} if before.get(name) != now.get(name))
    return name.replace("_", "-"), before.get(name), now.get(name)


def _parsed(record: Record, where: str, questions: QuestionSet) -> Answer:
    question_id = record.get("question_id")
    if not isinstance(question_id, int):
        raise UnmaskError(f"{where}: no answer: needs question_id and choices")
    origin = _origin(record, where)
    if origin is not None and origin.questions != questions.digest:
        raise UsageError(
            f"{where}: answers another set of questions than {questions.path}: give the --questions that it was "
            "written with, and keep each set in a folder of its own"
        )
    try:
        question = questions[question_id]
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
    choices = record.get("choices")
    choice: Any = cast("list[Any]", choices)[0] if isinstance(choices, list) and choices else None
    fields = cast(Record, choice) if isinstance(choice, dict) else Record()
    turned = fields.get("turns")
    texts = cast("list[Any]", turned) if isinstance(turned, list) else list[Any]()
    if not texts or not all(isinstance(text, str) for text in texts):
        raise UnmaskError(f"{where}: the answer to question {question_id} has no turns: leave the line out")
    if len(texts) > len(question.turns):
        raise UnmaskError(
            f"{where}: {len(texts)} turns, and question {question_id} has {len(question.turns)}: leave the line out"
        )
    turns = tuple(
        Turn(text, *(_at(fields, name, place) for name in MEASURES))
        for place, text in enumerate(cast("list[str]", texts))
    )
    return Answer(question, str(record.get("answer_id", "")), turns, origin)


def _at(fields: Record, name: str, place: int) -> Any:
    values = fields.get(name)
    return (
        cast("list[Any]", values)[place]
        if isinstance(values, list) and place < len(cast("list[Any]", values))
        else None
    )


def _origin(record: Record, where: str) -> Origin | None:
    told = record.get("unmask")
    if told is None:
        return None
    try:
        return Origin(**{name: told[name] for name in Origin.__dataclass_fields__})
    except (KeyError, TypeError):
        raise UnmaskError(f"{where}: its field unmask is damaged: leave the line out") from None
