"""Files of conversations, of which each tells its format by its fields: ShareGPT, Alpaca, OpenAI, completions.

    sharegpt    {"conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}]}
    alpaca      {"instruction": "...", "input": "...", "output": "..."}, also with "system" and "history"
    openai      {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}
    completion  {"prompt": "...", "completion": "..."}; of texts, which no template is put around, or of messages

A file is a JSON array of such items, or has one on each line. All of them must be of one format.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from unmask.errors import UnmaskError, UsageError

Role = Literal["system", "user", "assistant"]
ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "assistant": "assistant",
}
"""What the formats call the three roles."""
OnBroken = Literal["refuse", "skip"]


@dataclass(frozen=True)
class Message:
    """What one side says."""

    role: Role
    content: str


@dataclass(frozen=True)
class Conversation:
    """Messages that end with an answer."""

    messages: tuple[Message, ...]
    where: str
    """The file, and the item or line."""
    templated: bool = True
    """Whether a chat template is put around it; not around a text and its continuation."""

    @property
    def answers(self) -> list[int]:
        """The places of the answers among the messages."""
        return [place for place, message in enumerate(self.messages) if message.role == "assistant"]


@dataclass(frozen=True)
class ConversationFile:
    """What one file holds."""

    path: Path
    format: str
    conversations: list[Conversation]
    broken: list[str]
    """What was wrong with the items that were skipped, a line for each."""


class _BrokenError(Exception):
    """An item that is no conversation; says why and how to mend it."""


def read(path: str | Path, on_broken: OnBroken = "refuse") -> ConversationFile:
    """The conversations of a file, and which format they have.

    Raises `UsageError` for a path that is no file, and `UnmaskError`, which names the item or line, for anything that
    is not JSON, an unknown format, a mixture of two, and an empty file. A conversation without an answer, an unknown
    role or a text that is missing is refused too, or with `on_broken` "skip" left out and told of.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"{path}: {'not a file' if path.exists() else 'no such file'}: give a .json or .jsonl file")
    name = ""
    first = ""
    conversations: list[Conversation] = []
    broken: list[str] = []
    for item, where in _items(path):
        found = _format_of(item)
        if found is None:
            fields = ", ".join(sorted(cast("dict[str, Any]", item))) if isinstance(item, dict) else "no object"
            known = "; ".join(f"{name} has {' and '.join(each.fields)}" for name, each in FORMATS.items())
            raise UnmaskError(f"{where}: of no known format ({fields or 'no fields'}): {known}")
        if name and found != name:
            raise UnmaskError(f"{where}: {found}, and {first} is {name}: put each format into a file of its own")
        name, first = found, first or where.removeprefix(f"{path}: ")
        try:
            messages, templated = FORMATS[name].parse(item)
            conversations.append(Conversation(_checked(messages), where, templated))
        except _BrokenError as problem:
            if on_broken == "refuse":
                raise UnmaskError(f"{where}: {problem}, or skip such items with --broken skip") from None
            broken.append(f"{where}: {problem}")
    if not name:
        raise UnmaskError(f"{path}: holds no conversations: give a file with some")
    return ConversationFile(path, name, conversations, broken)


def _items(path: Path) -> Iterator[tuple[Any, str]]:
    """The items of a JSON array or of JSON lines, and where each stands."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnmaskError(f"{path}: byte {error.start}: not UTF-8: save it as UTF-8") from None
    if text.lstrip().startswith("["):
        try:
            array = json.loads(text)
        except ValueError as error:
            raise UnmaskError(f"{path}: not JSON ({error}): mend it") from None
        for number, item in enumerate(array, 1):
            yield item, f"{path}: item {number}"
        return
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
        except ValueError as error:
            raise UnmaskError(
                f"{path}: line {number}: not JSON ({error}): one item on each line, or one array"
            ) from None
        yield item, f"{path}: line {number}"


def _sharegpt(item: dict[str, Any]) -> tuple[list[Message], bool]:
    turns = item["conversations"]
    if "chosen" in item and "rejected" in item:
        raise _BrokenError("a preference between two answers, not a conversation: make it one with the chosen answer")
    messages = _messages(turns, "from", "value")
    if item.get("system"):
        messages.insert(0, Message("system", _text(item, "system")))
    return messages, True


def _alpaca(item: dict[str, Any]) -> tuple[list[Message], bool]:
    """`input` follows on a line of its own."""
    messages = [Message("system", _text(item, "system"))] if item.get("system") else []
    for turn in cast("list[Any]", item.get("history") or []):
        if not (isinstance(turn, list) and len(cast("list[Any]", turn)) == 2):
            raise _BrokenError("history: each turn must be a pair of question and answer")
        asked, answered = (str(text) for text in cast("list[Any]", turn))
        messages += [Message("user", asked), Message("assistant", answered)]
    question = _text(item, "instruction")
    if item.get("input"):
        question += "\n" + _text(item, "input")
    answer = next((_text(item, name) for name in ("output", "response") if item.get(name)), "")
    return [*messages, Message("user", question), Message("assistant", answer)], True


def _openai(item: dict[str, Any]) -> tuple[list[Message], bool]:
    return _messages(item["messages"], "role", "content"), True


def _completion(item: dict[str, Any]) -> tuple[list[Message], bool]:
    both = ("prompt", "completion")
    if any(isinstance(item[name], list) for name in both):
        asked, answered = (_messages(item[name], "role", "content") for name in both)
        return [*asked, *answered], True
    return [Message("user", _text(item, "prompt")), Message("assistant", _text(item, "completion"))], False


@dataclass(frozen=True)
class Format:
    """How to know an item of a format by its fields, and how to read it."""

    fields: tuple[str, ...]
    parse: Callable[[dict[str, Any]], tuple[list[Message], bool]]
    """Item to messages, and whether a template is put around them."""


FORMATS: dict[str, Format] = {
    "sharegpt": Format(("conversations",), _sharegpt),
    "openai": Format(("messages",), _openai),
    "alpaca": Format(("instruction",), _alpaca),
    "completion": Format(("prompt", "completion"), _completion),
}
"""The formats by name; the first whose fields an item has is its own."""


def _format_of(item: Any) -> str | None:
    if not isinstance(item, dict):
        return None
    return next((name for name, each in FORMATS.items() if all(field in item for field in each.fields)), None)


def _messages(turns: Any, role_field: str, text_field: str) -> list[Message]:
    if not isinstance(turns, list):
        raise _BrokenError("the messages are no list: give one of objects")
    messages: list[Message] = []
    for number, turn in enumerate(cast("list[Any]", turns), 1):
        if not isinstance(turn, dict):
            raise _BrokenError(f"message {number} is not an object with {role_field!r} and {text_field!r}: mend it")
        fields = cast("dict[str, Any]", turn)
        role = str(fields.get(role_field))
        if role.lower() not in ROLES:
            raise _BrokenError(f"message {number}: unknown role {role!r}: known are {', '.join(ROLES)}")
        messages.append(Message(ROLES[role.lower()], _text(fields, text_field, f"message {number}: ")))
    return messages


def _text(fields: dict[str, Any], name: str, where: str = "") -> str:
    """The text of a field; of parts, as OpenAI has them, the texts together."""
    value = fields.get(name)
    if isinstance(value, list):
        parts = cast("list[Any]", value)
        if all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in parts):
            value = "".join(part["text"] for part in parts)
    if not isinstance(value, str):
        raise _BrokenError(f"{where}{name!r} is {'missing' if value is None else 'no text'}: give one")
    return value


def _checked(messages: list[Message]) -> tuple[Message, ...]:
    """From the first question (or system message) on, up to the last answer, as FastChat does."""
    start = next((place for place, message in enumerate(messages) if message.role != "assistant"), len(messages))
    answers = [place for place, message in enumerate(messages) if message.role == "assistant" and place > start]
    if not answers:
        raise _BrokenError("a conversation without an answer: leave it out")
    kept = messages[start : answers[-1] + 1]
    if any(not message.content.strip() for message in kept if message.role == "assistant"):
        raise _BrokenError("an empty answer: leave it out")
    return tuple(kept)
