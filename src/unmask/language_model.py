"""A `LanguageModel`: weights, tokenizer and objective together, with what one wants of them.

It generates, fills in blanks, and scores. Everything is deterministic given a seed: prompts in one call give what they
give one by one, and each result carries what it cost.

Shapes: B rows, L positions.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import torch

from unmask import generation, infilling, likelihood, model_directory
from unmask.config import ModelConfig
from unmask.data import chat_template
from unmask.data.conversations import Message
from unmask.data.tokenizer import Tokenizer
from unmask.errors import UsageError
from unmask.generation import Candidate, Filled, Generation, Passage, Sampling
from unmask.likelihood import Estimate
from unmask.logits_fn import LogitsFn
from unmask.model import Transformer
from unmask.network_logits import CausalLogits, MaskedLogits

Text = str | Sequence[int]
"""A text, or the ids of its tokens."""
ESTIMATORS = ("auto", "exact", "stratified", "mc", "chain")
BROKEN = "\ufffd"
"""What bytes that are no character decode to."""
LONGEST_CHARACTER = 4
"""In bytes of UTF-8."""
LENGTHS_TRIED = 64
"""Most choices of lengths that `infill` tries."""


class LanguageModel:
    """Weights, tokenizer and objective of one model. Made by `load`, or from a network in memory."""

    def __init__(self, model: Transformer, tokenizer: Tokenizer, objective: str) -> None:
        """Raises `UnmaskError` if the vocabularies of network and tokenizer differ."""
        model_directory.check_vocabulary(model.config, tokenizer, "the model")
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.objective = objective

    @property
    def config(self) -> ModelConfig:
        """The shape of the network."""
        return self.model.config

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def mask_id(self) -> int:
        """The id that stands for a position to be filled: the mask token's; for an ARM one that nothing else has."""
        return self.config.vocab_size if self.config.mask_id is None else self.config.mask_id

    @property
    def _padding(self) -> frozenset[int]:
        """The ids that the head predicts and no token has."""
        rows, mask_id = self.config.vocab_size, self.config.mask_id
        return frozenset(range(rows - self.config.padded_rows, rows)) - {mask_id}

    @property
    def logits_fn(self) -> LogitsFn:
        """The network as a `LogitsFn`: position i's logits predict token i, for an ARM from the tokens before it."""
        if self.config.causal:
            return CausalLogits(self.model, self.tokenizer.bos_id, share_prefixes=True)
        return MaskedLogits(self.model, skip_padding=True)

    def save(self, directory: str | Path) -> None:
        """Write a model directory in Hugging Face layout that `load` opens."""
        model_directory.save(
            directory, self.model.state_dict(), config=self.config, tokenizer=self.tokenizer, objective=self.objective
        )

    @overload
    def generate(self, prompt: str, **arguments: Any) -> Generation: ...

    @overload
    def generate(self, prompt: list[str] | list[list[int]], **arguments: Any) -> list[Generation]: ...

    def generate(
        self,
        prompt: str | list[str] | list[list[int]],
        *,
        chat: bool = False,
        max_new_tokens: int = 64,
        seed: int | Sequence[int] = 0,
        **settings: Any,
    ) -> Generation | list[Generation]:
        """Write `max_new_tokens` tokens after `prompt`, or after each of several prompts, which may be ids.

        With `chat` a prompt is what a user says, put into the tokenizer's chat template (where it has none, Vicuna's):
        what is written is the answer, which `fills` has alone.

        A prompt may be empty: the text begins with what is written. `settings` are those of `generation.Sampling.of`:
        `sampler`, `steps`, `guidance`, `temperature` and so on, and a sampler's own. `seed` is one for all prompts
        (each gives what it gives alone) or one for each; `on_step` sees each batch, with `PADDING` behind shorter rows.

        Raises `UsageError` on an unknown sampler or option, a number out of range, text longer than the context, and
        for an ARM on guidance or a sampler that needs a mask token.
        """
        if max_new_tokens < 1:
            raise UsageError(f"max_new_tokens {max_new_tokens}: must be at least 1")
        prompts = [prompt] if isinstance(prompt, str) else prompt
        passages: list[Passage] = []
        for text in prompts:
            if chat and isinstance(text, str):
                text = self.chat_prompt([Message("user", text)])
            given = self.tokenizer.encode(text) if isinstance(text, str) else text
            length = len(given) + max_new_tokens
            self._check_length(length, f"prompt of {len(given)} tokens and max_new_tokens {max_new_tokens}")
            tokens = [*given, *[self.mask_id] * max_new_tokens]
            passages.append(Passage(tokens, [range(len(given), length)], stops=True))
        seeds = [seed] * len(prompts) if isinstance(seed, int) else list(seed)
        if len(seeds) != len(prompts):
            raise UsageError(f"{len(seeds)} seeds for {len(prompts)} prompts: give one, or one for each")
        filled = self._fill(passages, Sampling.of(**settings), seeds)
        generations = [self._generation(*each) for each in zip(passages, filled, seeds, strict=True)]
        return generations[0] if isinstance(prompt, str) else generations

    def infill(
        self,
        text: str,
        *,
        seed: int = 0,
        num_samples: int = 128,
        **settings: Any,
    ) -> Generation:
        r"""Fill the blanks of `text`: `_` is a blank of one token, `__` of two, `_[20]` of twenty, `\_` an underscore.

        `_[2-8]` is a blank of 2 to 8 tokens: every length is filled, and the one whose text has the lowest bound is
        taken, in nats per token from the first blank to the end, estimated with `num_samples` network calls each. The
        other arguments are those of `generate`; guidance takes all of the given text as its prompt. Raises `UsageError`
        as `generate`, on a text without a blank or with more than 64 choices of lengths, for an ARM, which can't look
        ahead, and for a block-causal network, which looks no further than its block.
        """
        if self.config.mask_id is None or self.config.block_length:
            kind = "no mask token (it is autoregressive)" if self.config.mask_id is None else "causal blocks"
            raise UsageError(f"infill: this model has {kind}: take one that was trained with masks and sees both ways")
        choices = infilling.choices(infilling.parse(text))
        if len(choices) > LENGTHS_TRIED:
            raise UsageError(
                f"infill {text!r}: {len(choices)} choices of lengths, more than {LENGTHS_TRIED}: narrow the ranges"
            )
        passages = [Passage(*infilling.encode(parts, self.tokenizer, self.mask_id), stops=False) for parts in choices]
        longest = max(len(passage.tokens) for passage in passages)
        self._check_length(longest, f"infill text of {longest} tokens")
        filled = self._fill(passages, Sampling.of(**settings), [seed] * len(passages))
        if len(passages) == 1:
            return self._generation(passages[0], filled[0], seed)
        return self._best_length(passages, filled, seed, num_samples)

    def score(
        self,
        prompt: Text,
        continuation: Text,
        *,
        estimator: str = "auto",
        num_samples: int = 128,
        guidance: float = 0.0,
        seed: int = 0,
        batch_size: int = 64,
    ) -> Estimate:
        """The log-likelihood of `continuation` after `prompt`, in nats; minus the bound unless by the chain rule.

        `estimator`: "exact", "stratified", "mc" and "auto" as in `likelihood.bound`, "chain" as in
        `likelihood.chain_rule`. An ARM's likelihood is exact in one call, by "auto", "exact" or "chain". Both may be
        given as token ids, as a model without a tokenizer needs them.
        """
        return self.score_many(
            [(prompt, continuation)],
            estimator=estimator,
            num_samples=num_samples,
            guidance=guidance,
            seed=seed,
            batch_size=batch_size,
        )[0]

    def score_many(
        self,
        requests: Iterable[tuple[Text, Text]],
        *,
        estimator: str = "auto",
        num_samples: int = 128,
        guidance: float = 0.0,
        seed: int = 0,
        batch_size: int = 64,
    ) -> list[Estimate]:
        """`score` of many (prompt, continuation) pairs in batches by length; the same figures as one by one.

        Continuations of one prompt draw the same masks where they have as many tokens (common random numbers). Raises
        `UsageError` on an unknown estimator, an empty continuation, text longer than the context, and for an ARM on
        guidance or an estimator that masks.
        """
        if self.config.causal:
            self._refuse_guidance(guidance)
        settings = likelihood.Settings(estimator, num_samples, guidance, seed, batch_size)
        encoded = [self._encode_pair(*request) for request in requests]
        return self.score_tokens(
            [likelihood.Request(tuple(tokens[:first]), tuple(tokens[first:])) for tokens, first in encoded], settings
        ).estimates

    def score_tokens(
        self,
        requests: Sequence[likelihood.Request],
        settings: likelihood.Settings,
        *,
        on_progress: likelihood.OnProgress | None = None,
        once: likelihood.Once | None = None,
    ) -> likelihood.Scored:
        """`likelihood.score` of requests in tokens, under this model; of a block-causal one by the chain rule.

        Raises `UsageError` as that does, and for a block-causal model on an estimator whose masks reach over blocks.
        """
        if self.config.block_length:
            if settings.estimator not in ("auto", "chain"):
                raise UsageError(
                    f"estimator {settings.estimator!r}: a block-causal model has learnt no masks in the blocks before: "
                    "take chain"
                )
            settings = replace(settings, estimator="chain", adaptive=None)
        return likelihood.score(
            self.logits_fn,
            requests,
            settings,
            mask_id=self.mask_id,
            causal=self.config.causal,
            device=self.device,
            vocab_size=self.config.vocab_size,
            pads=True,
            on_progress=on_progress,
            once=once,
        )

    def chat_prompt(self, messages: Sequence[Message], template: str = "") -> list[int]:
        """The tokens after which an answer to `messages`, the last of them a question, is written.

        `template` is a name or a file as in `chat_template.find`; "" is the tokenizer's own, where it has none
        Vicuna's. Raises `UnmaskError` where the template refuses the messages.
        """
        tokens = chat_template.find(template, self.tokenizer, "chat").prompt(messages)
        doubled = self.config.causal and tokens[:1] == [self.tokenizer.bos_id]  # the network reads one anyway
        return tokens[1:] if doubled else tokens

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """The text of each token, masks and special tokens ''; joined, they are the decoded text.

        A character whose bytes are spread over several tokens is the last one's.
        """
        texts: list[str] = []
        start = 0  # decoding from here shows what each further token adds
        before = ""
        unfinished: int | None = None  # the token that began a character which is not whole yet
        for end in range(1, len(tokens) + 1):
            decoded = self.tokenizer.decode(tokens[start:end])
            if decoded.endswith(BROKEN) and end < len(tokens) and end - start <= LONGEST_CHARACTER:
                unfinished = end - 1 if unfinished is None else unfinished
                texts.append("")
                continue
            added = decoded[len(before) :]
            if unfinished is not None:  # bytes that turned out to belong to no character
                whole = added.lstrip(BROKEN)
                texts[unfinished] = added[: len(added) - len(whole)]
                added = whole
            texts.append(added)
            if decoded != before:
                start, unfinished = end - 1, None
            before = self.tokenizer.decode(tokens[start:end])
        return texts

    def _encode_pair(self, prompt: Text, continuation: Text) -> tuple[list[int], int]:
        """The tokens of both, and where the continuation begins; it takes a space at the end of the prompt along."""
        if not isinstance(prompt, str) or not isinstance(continuation, str):
            return self._joined_ids(prompt, continuation)
        space = len(prompt) - len(prompt.rstrip(" "))
        if space:
            prompt, continuation = prompt[:-space], prompt[-space:] + continuation
        given, tokens = self.tokenizer.encode(prompt), self.tokenizer.encode(prompt + continuation)
        if len(tokens) <= len(given):
            raise UsageError(f"continuation {continuation!r}: has no tokens of its own: give some text")
        self._check_length(len(tokens), f"prompt and continuation of {len(tokens)} tokens")
        return tokens, len(given)

    def _joined_ids(self, prompt: Text, continuation: Text) -> tuple[list[int], int]:
        """The ids of both where one is not text, and where the continuation begins."""
        given, added = (
            self.tokenizer.encode(part) if isinstance(part, str) else list(part) for part in (prompt, continuation)
        )
        tokens = [*given, *added]
        strange = [token for token in tokens if not 0 <= token < self.config.vocab_size]
        if strange or not added:
            what = (
                f"token id {strange[0]}: not in the vocabulary of {self.config.vocab_size}"
                if strange
                else "continuation []: has no tokens"
            )
            raise UsageError(f"{what}: give other ids")
        self._check_length(len(tokens), f"prompt and continuation of {len(tokens)} tokens")
        return tokens, len(given)

    def _fill(self, passages: Sequence[Passage], settings: Sampling, seeds: Sequence[int]) -> list[Filled]:
        return generation.fill(
            self.model,
            self.logits_fn,
            passages,
            replace(settings, suppress=settings.suppress | self._padding),
            seeds,
            mask_id=self.mask_id,
            eos_id=self.tokenizer.eos_id,
        )

    def _generation(self, passage: Passage, filled: Filled, seed: int) -> Generation:
        """The text of a passage and of its blanks; one that stops ends before its first new end-of-text token."""
        tokens = filled.tokens
        eos_id, start = self.tokenizer.eos_id, passage.blanks[0].start
        if passage.stops and eos_id is not None and eos_id in tokens[start:]:
            tokens = tokens[: tokens.index(eos_id, start)]
        pieces = self.pieces(tokens)
        return Generation(
            text="".join(pieces),
            fills=["".join(pieces[blank.start : blank.stop]) for blank in passage.blanks],
            tokens=filled.tokens,
            reveal_steps=filled.reveal_steps,
            network_calls=filled.network_calls,
            seconds=filled.seconds,
            sampler=filled.sampler,
            seed=seed,
            cache=filled.cache,
        )

    def _best_length(
        self, passages: Sequence[Passage], filled: Sequence[Filled], seed: int, num_samples: int
    ) -> Generation:
        """The generation whose text has the lowest bound per token from its first blank on."""
        begun = time.perf_counter()
        start = passages[0].blanks[0].start
        requests = [likelihood.Request(tuple(f.tokens[:start]), tuple(f.tokens[start:])) for f in filled]
        settings = likelihood.Settings("auto", num_samples, seed=seed)
        estimates = self.score_tokens(requests, settings).estimates
        found: list[tuple[Candidate, Generation]] = []
        for passage, one, estimate in zip(passages, filled, estimates, strict=True):
            made = self._generation(passage, one, seed)
            scored = len(one.tokens) - start
            lengths = [len(blank) for blank in passage.blanks]
            loss, error = -estimate.log_likelihood / scored, estimate.standard_error / scored
            found.append((Candidate(lengths, loss, error, made.fills), made))
        found.sort(key=lambda pair: pair[0].loss)
        calls = sum(f.network_calls for f in filled) + sum(estimate.network_calls for estimate in estimates)
        seconds = sum({id(f): f.seconds for f in filled}.values()) + time.perf_counter() - begun
        candidates = [candidate for candidate, _ in found]
        return replace(found[0][1], network_calls=calls, seconds=seconds, candidates=candidates)

    def _check_length(self, length: int, what: str) -> None:
        if length > self.config.context_length:
            raise UsageError(f"{what}: more than the context of {self.config.context_length} tokens: shorten it")

    def _refuse_guidance(self, weight: float) -> None:
        if weight:
            raise UsageError(f"guidance {weight}: needs a mask token, and this model is autoregressive: leave it at 0")


def _device(name: str | torch.device) -> torch.device:
    """Raises `UsageError` for one that is not here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"device {name!r}: torch knows no such device: take auto, cpu or cuda") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"device {str(device)!r}: this machine has {torch.cuda.device_count()} of them: take auto")
    return device


def load(path: str | Path, device: str | torch.device = "auto", dtype: torch.dtype | None = None) -> LanguageModel:
    """Open the model in `path`: a model directory, or the directory of a training run.

    `device` "auto" is the GPU where there is one, else the CPU. `dtype` None is float32 on a CPU, and elsewhere what
    the weights are stored in. Raises `UsageError` if there is no model, and `UnmaskError` if its files are damaged or
    do not belong together.
    """
    device = _device(device)
    stored = model_directory.read(path)
    if dtype is None:
        dtype = torch.float32 if device.type == "cpu" else stored.weights["model.embed_tokens.weight"].dtype
    model = Transformer.of_weights(stored.config, model_directory.fitting_weights(stored))
    return LanguageModel(model.to(device, dtype), stored.tokenizer, stored.objective)
