"""Files of conversations: every format, known by its fields, and what is wrong with a file in one line."""

import json
from pathlib import Path

import pytest

from unmask.data import conversations
from unmask.data.conversations import Message
from unmask.errors import UnmaskError, UsageError

SHARED = Path(__file__).parents[2] / "../shared/data/sharegpt_like"
ASKED, ANSWERED = Message("user", "Who are you?"), Message("assistant", "A model.")
ITEMS = {
    "sharegpt": {"conversations": [{"from": "human", "value": "Who are you?"}, {"from": "gpt", "value": "A model."}]},
    "alpaca": {"instruction": "Who are you?", "input": "", "output": "A model."},
    "openai": {"messages": [{"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "A model."}]},
    "completion": {"prompt": "Who are you?", "completion": "A model."},
}


def written(path, items, lines=False):
    path.write_text("\n".join(json.dumps(item) for item in items) + "\n" if lines else json.dumps(items, indent=1))
    return path


@pytest.mark.parametrize("lines", [False, True])
@pytest.mark.parametrize("name", ITEMS)
def test_each_format_is_known_by_its_fields_in_an_array_and_on_lines(name, lines, tmp_path):
    found = conversations.read(written(tmp_path / "chat.json", [ITEMS[name]] * 2, lines))
    assert (found.format, found.broken) == (name, [])
    assert [each.messages for each in found.conversations] == [(ASKED, ANSWERED)] * 2
    assert [each.where for each in found.conversations] == [
        f"{found.path}: {'line' if lines else 'item'} {n}" for n in (1, 2)
    ]
    assert [each.templated for each in found.conversations] == [name != "completion"] * 2


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (
            {"instruction": "Add.", "input": "1 2", "response": "3", "system": "Be short.", "history": [["a", "b"]]},
            [("system", "Be short."), ("user", "a"), ("assistant", "b"), ("user", "Add.\n1 2"), ("assistant", "3")],
        ),
        (  # an answer without a question, and a question without an answer, at the ends
            {
                "conversations": [
                    {"from": "gpt", "value": "Hi"},
                    *({"from": who, "value": who} for who in ("human", "chatgpt", "human")),
                ]
            },
            [("user", "human"), ("assistant", "chatgpt")],
        ),
        (
            {
                "messages": [
                    {"role": "developer", "content": "Rules."},
                    {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                    {"role": "assistant", "content": "c"},
                ]
            },
            [("system", "Rules."), ("user", "ab"), ("assistant", "c")],
        ),
        (
            {"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]},
            [("user", "a"), ("assistant", "b")],
        ),
    ],
)
def test_what_the_formats_have_beside_a_question_and_an_answer(item, expected, tmp_path):
    (found,) = conversations.read(written(tmp_path / "chat.jsonl", [item], lines=True)).conversations
    assert [(message.role, message.content) for message in found.messages] == expected
    assert found.templated


@pytest.mark.parametrize(
    ("items", "told"),
    [
        ([{"conversations": [{"from": "human", "value": "a"}]}], "item 1: a conversation without an answer"),
        ([ITEMS["openai"], {"messages": []}], "item 2: a conversation without an answer"),
        (
            [{"messages": [{"role": "tool", "content": "a"}]}],
            "item 1: message 1: unknown role 'tool': known are system",
        ),
        ([{"prompt": "a", "completion": ""}], "item 1: an empty answer"),
        ([{"prompt": "a", "completion": None}], "item 1: 'completion' is missing"),
        ([{"messages": [{"role": "user"}]}], "item 1: message 1: 'content' is missing"),
        ([{"messages": "a"}], "item 1: the messages are no list"),
        ([{"messages": ["a"]}], "item 1: message 1 is not an object"),
        ([{**ITEMS["sharegpt"], "chosen": {}, "rejected": {}}], "item 1: a preference between two answers"),
    ],
)
def test_an_item_that_is_no_conversation_is_refused_by_its_place_or_skipped_and_told_of(items, told, tmp_path):
    path = written(tmp_path / "chat.json", [*items, ITEMS[conversations._format_of(items[0])]])
    with pytest.raises(UnmaskError, match=told) as refused:
        conversations.read(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert "\n" not in str(refused.value)
    assert str(refused.value).endswith("or skip such items with --broken skip")
    found = conversations.read(path, "skip")
    assert len(found.conversations) == len(items)
    assert [told in line for line in found.broken] == [True]
    assert "--broken" not in found.broken[0]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "holds no conversations"),
        ("[]", "holds no conversations"),
        ("[{]", "not JSON"),
        ('{"prompt": "a", "completion": "b"}\n{"prompt"\n', "line 2: not JSON"),
        ('[{"text": "a"}]', r"item 1: of no known format \(text\): sharegpt has conversations; .* has prompt and"),
        ("[1]", r"item 1: of no known format \(no object\)"),
        (json.dumps([ITEMS["alpaca"], ITEMS["openai"]]), "item 2: openai, and item 1 is alpaca: put each format"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_in_one_line(text, told, tmp_path):
    path = tmp_path / "chat.json"
    path.write_text(text)
    with pytest.raises(UnmaskError, match=told):
        conversations.read(path, "skip")


def test_a_path_that_is_no_file_and_bytes_that_are_no_text_are_refused(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        conversations.read(tmp_path / "missing.json")
    (tmp_path / "latin.json").write_bytes(b'[{"prompt": "\xe9"}]')
    with pytest.raises(UnmaskError, match="byte 13: not UTF-8"):
        conversations.read(tmp_path / "latin.json")


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data/sharegpt_like")
@pytest.mark.parametrize(
    ("file", "name", "count", "broken"),
    [
        ("fastchat_dummy_conversation", "sharegpt", 500, 0),
        ("alpaca_en_demo", "alpaca", 999, 0),
        ("gpteacher_roleplay", "alpaca", 1923, 0),
        ("dpo_en_demo", "sharegpt", 0, 300),
    ],
)
def test_real_files_are_read(file, name, count, broken):
    found = conversations.read(SHARED / f"{file}.json", "skip")
    assert (found.format, len(found.conversations), len(found.broken)) == (name, count, broken)
