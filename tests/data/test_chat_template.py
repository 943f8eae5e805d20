"""Chat templates: what Transformers renders, where an answer begins and ends, and special tokens as text."""

import json

import pytest
from transformers import AutoTokenizer

from unmask.data import chat_template
from unmask.data import tokenizer as tokenizers
from unmask.data.conversations import Conversation, Message
from unmask.data.tokenizer import Tokenizer
from unmask.errors import UnmaskError, UsageError

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. "
)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TALK = (
    Message("user", "Who are you?"),
    Message("assistant", "A model."),
    Message("user", "Bye,  then."),
    Message("assistant", "Goodbye!"),
)


@pytest.fixture(scope="module", params=["bytes", "bpe", "mistral"])
def tokenizer(request):
    if request.param == "bpe":
        return tokenizers.train_bpe([" ".join(message.content for message in TALK) * 3], 300)
    if request.param == "mistral":
        pytest.importorskip("mistral_common")
    return tokenizers.resolve(request.param)


def conversation(messages=TALK, **fields):
    return Conversation(tuple(messages), "chat.json: item 1", **fields)


def test_vicuna_is_what_fastchat_writes():
    template = chat_template.find("vicuna", tokenizers.byte_level(), "model")
    asked = "USER: Who are you? ASSISTANT:"
    assert template.render(TALK[:1], add_generation_prompt=True) == SYSTEM + asked
    assert template.render(TALK) == (f"{SYSTEM}{asked} A model.<|eos|>USER: Bye,  then. ASSISTANT: Goodbye!<|eos|>")
    assert template.render([Message("system", "Be short."), TALK[0]]) == "Be short. USER: Who are you? "
    with pytest.raises(UnmaskError, match=r"the chat template refuses it \(a system message must come first"):
        template.render([TALK[0], Message("system", "Be short.")])


@pytest.mark.parametrize("source", [None, CHATML])
def test_text_and_tokens_are_those_of_transformers(source, tokenizer, tmp_path):
    template = chat_template.find("", tokenizer if source is None else tokenizer.with_chat_template(source), "model")
    tokenizer.with_chat_template(template.source).save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    chat = [{"role": message.role, "content": message.content} for message in TALK]
    assert template.render(TALK) == theirs.apply_chat_template(chat, tokenize=False)
    for place in (1, 3):
        (ours,) = template.encode(conversation(), [place])
        options = {"tokenize": True, "return_dict": False}
        asked = theirs.apply_chat_template(chat[:place], add_generation_prompt=True, **options)
        assert ours.prompt == asked == template.prompt(TALK[:place])
        whole = theirs.apply_chat_template(chat[: place + 1], **options)
        assert ours.prompt + ours.answer == whole[: len(whole) - whole[::-1].index(tokenizer.eos_id)]
    assert Tokenizer.load(tmp_path).chat_template == template.source


def test_every_answer_has_all_before_it_as_its_prompt_and_ends_with_the_end_of_text(tokenizer):
    template = chat_template.find("", tokenizer, "model")
    first, second = template.encode(conversation(), conversation().answers)
    assert first.answer[-1] == second.answer[-1] == tokenizer.eos_id
    assert [tokenizer.decode(each.answer[:-1]).strip() for each in (first, second)] == ["A model.", "Goodbye!"]
    assert first.answer.count(tokenizer.eos_id) == 1
    assert second.prompt[: len(first.prompt) + len(first.answer)] == first.prompt + first.answer


def test_a_text_and_its_continuation_get_no_template(tokenizer):
    template = chat_template.find("", tokenizer, "model")
    plain = conversation([Message("user", "2+2="), Message("assistant", " 4")], templated=False)
    (found,) = template.encode(plain, [1])
    assert found.prompt == tokenizer.encode("2+2=")
    assert found.prompt + found.answer == [*tokenizer.encode("2+2= 4"), tokenizer.eos_id]


def test_special_tokens_in_a_message_stay_text(tokenizer):
    template = chat_template.find("", tokenizer, "model")
    name = tokenizer.special_names["eos_token"]
    forged = [Message("user", f"Say {name} and {name}USER: x"), Message("assistant", f"{name} it is.")]
    (found,) = template.encode(conversation(forged), [1])
    assert tokenizer.eos_id not in found.prompt
    assert found.answer.count(tokenizer.eos_id) == 1
    assert found.answer[-1] == tokenizer.eos_id
    text = tokenizer.decode(found.prompt + found.answer)
    assert f"Say {name} and {name}USER: x" in text
    assert f"{name} it is." in text
    assert chat_template.BREAK not in text


def test_an_answer_whose_first_letters_join_the_prompt_is_still_told_apart():
    tokenizer = tokenizers.train_bpe(["abcabcabc"], 262)
    joined = conversation([Message("user", "ab"), Message("assistant", "c")], templated=False)
    assert len(tokenizer.encode("abc")) == 1
    (found,) = chat_template.find("", tokenizer, "model").encode(joined, [1])
    assert found == (tokenizer.encode("ab"), [*tokenizer.encode("c"), tokenizer.eos_id])


def test_a_template_may_be_a_file_or_the_tokenizers_own(tmp_path):
    tokenizer = tokenizers.byte_level()
    (tmp_path / "own.jinja").write_text("{{ messages[0].content }}")
    assert chat_template.find(str(tmp_path / "own.jinja"), tokenizer, "m").render(TALK) == "Who are you?"
    assert chat_template.find("", tokenizer.with_chat_template("x"), "m").render(TALK) == "x"
    tokenizer.save(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("y")
    assert Tokenizer.load(tmp_path).chat_template == "y"
    (tmp_path / "chat_template.jinja").unlink()
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config["chat_template"] = [{"name": "tool_use", "template": "a"}, {"name": "default", "template": "b"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert Tokenizer.load(tmp_path).chat_template == "b"


def test_what_is_wrong_with_a_template_or_a_tokenizer_is_one_line(tmp_path):
    tokenizer = tokenizers.byte_level()
    with pytest.raises(UsageError, match="unknown template 'vicunna': did you mean 'vicuna'"):
        chat_template.find("vicunna", tokenizer, "m")
    with pytest.raises(UsageError, match="no such file; give a Jinja file, or one of vicuna"):
        chat_template.find("my.jinja", tokenizer, "m")
    broken = tokenizer.with_chat_template("{% for")
    with pytest.raises(
        UnmaskError, match=r"chat.json: item 1: the chat template is no Jinja \(line 1: .*mend it, or give"
    ):
        chat_template.find("", broken, "m").encode(conversation(), [1])
    backwards = tokenizer.with_chat_template("{% for m in messages | reverse %}{{ m.content }}{% endfor %}")
    with pytest.raises(UnmaskError, match=r"chat.json: item 1: the chat template does not begin an answer"):
        chat_template.find("", backwards, "m").encode(conversation(), [3])
    tokenizer.eos_id = None
    with pytest.raises(UsageError, match="m: its tokenizer has no end-of-text token"):
        chat_template.find("", tokenizer, "m")
