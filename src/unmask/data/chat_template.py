"""Chat templates: conversations as text and as tokens, in the Jinja that Transformers renders.

The template is the tokenizer's own (`tokenizer.chat_template`), else Vicuna's, as in the paper (Nie et al., 2025,
section 5). An answer begins where the prompt that asks for it ends, and its end is marked with the end-of-text token:
so a prompt is encoded in training exactly as it is when an answer is to be written. Special tokens come from the
template alone; where a message has the text of one, it stays text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

from unmask.data.conversations import Conversation, Message
from unmask.data.tokenizer import Tokenizer
from unmask.errors import UnmaskError, UsageError, unknown_name

VICUNA = """\
{%- if messages[0]['role'] == 'system' -%}
    {%- set system = messages[0]['content'] -%}
    {%- set turns = messages[1:] -%}
{%- else -%}
    {%- set system = "A chat between a curious user and an artificial intelligence assistant. \
The assistant gives helpful, detailed, and polite answers to the user's questions." -%}
    {%- set turns = messages -%}
{%- endif -%}
{{- system + ' ' -}}
{%- for turn in turns -%}
    {%- if turn['role'] == 'user' -%}
        {{- 'USER: ' + turn['content'] + ' ' -}}
    {%- elif turn['role'] == 'assistant' -%}
        {{- 'ASSISTANT: ' -}}
        {%- generation -%}{{- turn['content'] + eos_token -}}{%- endgeneration -%}
    {%- else -%}
        {{- raise_exception('a system message must come first') -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- 'ASSISTANT:' -}}
{%- endif -%}
"""
"""Vicuna 1.1, as FastChat writes it; the space before an answer belongs to the answer."""

TEMPLATES = {"vicuna": VICUNA}
"""Templates by name."""
BREAK = "\ufdd0"
"""A code point that no text has, put into what looks like a special token in a message."""


class Encoded(NamedTuple):
    """A prompt and its answer in tokens."""

    prompt: list[int]
    answer: list[int]
    """With the end-of-text token."""


@dataclass(frozen=True)
class ChatTemplate:
    """A template and the tokenizer that it is rendered for."""

    source: str
    tokenizer: Tokenizer

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> str:
        """The text of `messages`, and with `add_generation_prompt` what asks for an answer.

        Raises `UnmaskError` with the template's own words where it refuses them.
        """
        return self._render([(message.role, message.content) for message in messages], add_generation_prompt)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The tokens after which an answer to `messages` is to be written."""
        return self.encode_rendered([self.marked(messages, add_generation_prompt=True)])[0]

    def encode(self, conversation: Conversation, answers: Sequence[int]) -> list[Encoded]:
        """Each of the `answers` (places among the messages) with all before it as its prompt.

        Raises `UnmaskError` where the template refuses the messages, or does not begin an answer with its prompt.
        """
        pairs: list[tuple[str, str]] = []
        for place in answers:
            before, upto = conversation.messages[:place], conversation.messages[: place + 1]
            if not conversation.templated:
                asked = "".join(message.content for message in before)
                pairs.append((asked, asked + upto[-1].content))
                continue
            try:
                asked, answered = self.marked(before, add_generation_prompt=True), self.marked(upto)
            except UnmaskError as error:
                raise UnmaskError(f"{conversation.where}: {error}") from None
            if not answered.startswith(asked):
                raise UnmaskError(
                    f"{conversation.where}: the chat template does not begin an answer with the prompt that asks for "
                    "it: give another --template"
                )
            pairs.append((asked, answered))
        texts = [text for pair in pairs for text in pair]
        ids = iter(self.encode_rendered(texts) if conversation.templated else self.tokenizer.encode_batch(texts))
        return [self._divided(pair, next(ids), next(ids)) for pair in pairs]

    def _divided(self, texts: tuple[str, str], prompt: list[int], whole: list[int]) -> Encoded:
        """The tokens of an answer, of those of prompt and answer together where they begin with the prompt's own."""
        spanned = whole[: len(prompt)] != prompt  # by a token
        answer = self.encode_rendered([texts[1][len(texts[0]) :]])[0] if spanned else whole[len(prompt) :]
        eos_id = self.tokenizer.eos_id
        assert eos_id is not None
        end = answer.index(eos_id) if eos_id in answer else len(answer)
        return Encoded(prompt, [*answer[:end], eos_id])

    def marked(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> str:
        """Rendered, with what looks like a special token in a message broken in two."""
        special = self._special
        return self._render(
            [
                (message.role, special.sub(lambda found: found[0][0] + BREAK + found[0][1:], message.content))
                for message in messages
            ],
            add_generation_prompt,
        )

    def encode_rendered(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokens of rendered texts, special tokens as such but for the broken ones."""
        return [
            ids
            if BREAK not in text
            else [
                token
                for piece in re.split(f"({self._special.pattern})", text)
                for token in self.tokenizer.encode_special([piece.replace(BREAK, "")], plain=BREAK in piece)[0]
            ]
            for text, ids in zip(texts, self.tokenizer.encode_special(list(texts)), strict=True)
        ]

    @property
    def _special(self) -> re.Pattern[str]:
        longest_first = sorted(self.tokenizer.special_tokens, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    def _render(self, messages: Sequence[tuple[str, str]], add_generation_prompt: bool) -> str:
        import jinja2
        from transformers.utils import chat_template_utils

        render = cast("Callable[..., tuple[list[str], Any]]", chat_template_utils.render_jinja_template)
        chat: list[Any] = [{"role": role, "content": content} for role, content in messages]
        try:
            rendered, _ = render(
                conversations=[chat],
                chat_template=self.source,
                add_generation_prompt=add_generation_prompt,
                **self.tokenizer.special_names,
            )
        except jinja2.TemplateSyntaxError as error:
            problem = f"line {error.lineno}: {error.message}"
            raise UnmaskError(f"the chat template is no Jinja ({problem}): mend it, or give another one") from None
        except jinja2.TemplateError as error:
            raise UnmaskError(f"the chat template refuses it ({error}): change the messages or the template") from None
        return rendered[0]


def find(named: str, tokenizer: Tokenizer, where: str) -> ChatTemplate:
    """The template called `named`, of the file `named`, or where it is "" that of `tokenizer`, else Vicuna's.

    Raises `UsageError` for an unknown name, and where `tokenizer`, that of `where`, has no end-of-text token.
    """
    if tokenizer.eos_id is None:
        raise UsageError(
            f"{where}: its tokenizer has no end-of-text token, which marks the end of an answer: "
            "name one as eos_token in its tokenizer_config.json"
        )
    if not named:
        return ChatTemplate(tokenizer.chat_template or VICUNA, tokenizer)
    if named in TEMPLATES:
        return ChatTemplate(TEMPLATES[named], tokenizer)
    if Path(named).is_file():
        return ChatTemplate(Path(named).read_text(encoding="utf-8"), tokenizer)
    if "/" in named or Path(named).suffix:
        raise UsageError(f"template {named!r}: no such file; give a Jinja file, or one of {', '.join(TEMPLATES)}")
    raise unknown_name("template", named, TEMPLATES)
