"""Answering the questions with a model: in its chat template, turn after turn, several conversations at a time.

An answer's seed comes from the question and the turn alone, so it does not depend on what shares its batch, nor on
which questions are asked. Where a conversation leaves less room in the context than an answer may take, the answer gets
what is left, and none if nothing is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from unmask.data.conversations import Message
from unmask.errors import UsageError
from unmask.evals.mtbench.answers import Turn
from unmask.evals.mtbench.questions import Question
from unmask.language_model import LanguageModel
from unmask.seeding import derived_seed

Turns = Literal["first", "all"]


@dataclass(frozen=True)
class Settings:
    """How answers are written."""

    max_new_tokens: int = 1024
    turns: Turns = "all"
    template: str = ""
    """A name or a file, as in `chat_template.find`; "": the model's own."""
    temperature: float | None = None
    """None: FastChat's, by category."""
    batch_size: int = 1
    seed: int = 0
    generate: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Further arguments of `LanguageModel.generate`."""

    def __post_init__(self) -> None:
        """Raises `UsageError` for numbers out of range."""
        for name in ("max_new_tokens", "batch_size"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be at least 1")
        if self.temperature is not None and not 0 <= self.temperature < float("inf"):
            raise UsageError(f"--temperature {self.temperature:g}: must be 0 or more, and finite")

    def temperature_of(self, question: Question) -> float:
        """What the question's answer is drawn with."""
        return question.temperature if self.temperature is None else self.temperature


def check_template(lm: LanguageModel, settings: Settings, name: str) -> None:
    """Raises `UsageError` if `lm` has no chat template and none is named."""
    if not settings.template and not lm.tokenizer.chat_template:
        raise UsageError(
            f"{name}: has no chat template, so it was not taught to answer: fine-tune it with unmask train sft, "
            "or give --template, such as vicuna"
        )


def answer(
    lm: LanguageModel,
    questions: Sequence[Question],
    settings: Settings,
    on_turns: Callable[[int], None] = lambda count: None,
) -> Iterator[tuple[Question, list[Turn]]]:
    """The answers to `questions`, those of one temperature in batches by length; `on_turns` hears of each turn.

    Raises `UsageError` as `LanguageModel.generate`, and what the chat template raises.
    """
    _warm_up(lm)
    for batch in _batches(questions, settings):
        messages = [list[Message]() for _ in batch]
        answered = [list[Turn]() for _ in batch]
        for place in range(1 if settings.turns == "first" else max(len(question.turns) for question in batch)):
            rows = [row for row, question in enumerate(batch) if place < len(question.turns)]
            for row in rows:
                messages[row].append(Message("user", batch[row].turns[place]))
            prompts = [lm.chat_prompt(messages[row], settings.template) for row in rows]
            turns = _written(lm, prompts, [batch[row] for row in rows], place, settings)
            for row, turn in zip(rows, turns, strict=True):
                answered[row].append(turn)
                messages[row].append(Message("assistant", turn.text))
            on_turns(len(rows))
        yield from zip(batch, answered, strict=True)


def turns_of(questions: Sequence[Question], settings: Settings) -> int:
    """How many turns they will be answered in."""
    return sum(1 if settings.turns == "first" else len(question.turns) for question in questions)


def _written(
    lm: LanguageModel, prompts: list[list[int]], questions: Sequence[Question], place: int, settings: Settings
) -> list[Turn]:
    """The answers to prompts of one turn, those with the same room together."""
    rooms = [min(settings.max_new_tokens, lm.config.context_length - len(prompt)) for prompt in prompts]
    found: dict[int, Turn] = {row: Turn("", 0.0, 0, 0, 0) for row, room in enumerate(rooms) if room < 1}
    for room in sorted({room for room in rooms if room > 0}):
        rows = [row for row, own in enumerate(rooms) if own == room]
        generations = lm.generate(
            [prompts[row] for row in rows],
            max_new_tokens=room,
            temperature=settings.temperature_of(questions[0]),
            seed=[derived_seed(settings.seed, f"mt-bench turn {place + 1}", questions[row].id) for row in rows],
            batch_size=len(rows),
            **settings.generate,
        )
        for row, made in zip(rows, generations, strict=True):
            new = made.tokens[len(prompts[row]) :]
            eos_id = lm.tokenizer.eos_id
            length = new.index(eos_id) if eos_id in new else len(new)
            found[row] = Turn(made.fills[0].strip(), made.seconds / len(rows), made.network_calls, length, room)
    return [found[row] for row in range(len(prompts))]


def _batches(questions: Sequence[Question], settings: Settings) -> list[list[Question]]:
    found: list[list[Question]] = []
    for temperature in dict.fromkeys(settings.temperature_of(question) for question in questions):
        alike = [question for question in questions if settings.temperature_of(question) == temperature]
        if settings.batch_size > 1:
            alike.sort(key=lambda question: len(question.turns[0]))
        starts = range(0, len(alike), settings.batch_size)
        found += [alike[start : start + settings.batch_size] for start in starts]
    return found


def _warm_up(lm: LanguageModel) -> None:
    """Let what is done once be done before the first answer is timed."""
    lm.generate([[0, 0]], max_new_tokens=1)
