"""A `LanguageModel`: weights, tokenizer and objective together, with what one wants of them.

It generates, fills in blanks, and scores. Everything is deterministic given a seed: prompts in one call give what they
give one by one, and each result carries what it cost.

Shapes: B rows, L positions.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, overload

import torch

from unmask import guidance as guiding
from unmask import infilling, likelihood, model_directory, samplers, seeding
from unmask.config import ModelConfig
from unmask.data.tokenizer import Tokenizer
from unmask.errors import UsageError, unknown_name
from unmask.guidance import Weight
from unmask.likelihood import Estimate
from unmask.logits_fn import LogitsFn
from unmask.model import Transformer
from unmask.network_logits import CausalLogits, MaskedLogits
from unmask.samplers import Draw, OnStep

Text = str | Sequence[int]
"""A text, or the ids of its tokens."""
ESTIMATORS = ("auto", "exact", "stratified", "mc", "chain")
BROKEN = "\ufffd"
"""What bytes that are no character decode to."""
LONGEST_CHARACTER = 4
"""In bytes of UTF-8."""
DEFAULT_SAMPLER = {True: "autoregressive", False: "confidence"}
"""By whether the network is causal."""


@dataclass(frozen=True)
class Generation:
    """One generated or filled-in text."""

    text: str
    """The whole passage; after a prompt, up to the end-of-text token."""
    fills: list[str]
    """The new text alone: one piece after a prompt, one for each blank of an infilling."""
    tokens: list[int]
    """All tokens, given and new, past the end of text too."""
    reveal_steps: list[int]
    """The step, from 0, in which each token was revealed; -1 for a given one."""
    network_calls: int
    """Calls that this text needed; two per evaluation under guidance."""
    seconds: float
    """Wall time of the batch that it was made in."""
    sampler: str
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """A dict for JSON."""
        return dataclasses.asdict(self)


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
            return CausalLogits(self.model, self.tokenizer.bos_id)
        return MaskedLogits(self.model)

    def save(self, directory: str | Path) -> None:
        """Write a model directory in Hugging Face layout that `load` opens."""
        model_directory.save(
            directory, self.model.state_dict(), config=self.config, tokenizer=self.tokenizer, objective=self.objective
        )

    @overload
    def generate(self, prompt: str, **arguments: Any) -> Generation: ...

    @overload
    def generate(self, prompt: list[str], **arguments: Any) -> list[Generation]: ...

    def generate(
        self,
        prompt: str | list[str],
        *,
        max_new_tokens: int = 64,
        sampler: str | None = None,
        steps: int | None = None,
        guidance: float | Weight = 0.0,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        suppress: Collection[int] = (),
        seed: int | Sequence[int] = 0,
        batch_size: int = 16,
        on_step: OnStep | None = None,
        **options: Any,
    ) -> Generation | list[Generation]:
        """Write `max_new_tokens` tokens after `prompt`, or after each of several prompts.

        `sampler` is a name in `SAMPLERS`, by default "confidence", and "autoregressive" for an ARM; `options` are its
        own keyword arguments. `steps` None is one per token; the autoregressive sampler always takes that. `guidance`
        is a weight, or a function of the revealed share such as `guidance.Ramp`. `temperature`, `top_k`, `top_p` and
        `min_p` are those of `samplers.Draw`; `suppress` are ids that are never drawn. `seed` is one for all prompts
        (each gives what it gives alone) or one for each. `batch_size` rows run at a time. `on_step` sees each batch.

        Raises `UsageError` on an unknown sampler or option, a number out of range, text longer than the context, and
        for an ARM on guidance or a sampler that needs a mask token.
        """
        if max_new_tokens < 1:
            raise UsageError(f"max_new_tokens {max_new_tokens}: must be at least 1")
        prompts = [prompt] if isinstance(prompt, str) else prompt
        jobs: list[_Job] = []
        for text in prompts:
            given = self.tokenizer.encode(text)
            length = len(given) + max_new_tokens
            self._check_length(length, f"prompt of {len(given)} tokens and max_new_tokens {max_new_tokens}")
            jobs.append(_Job([*given, *[self.mask_id] * max_new_tokens], [range(len(given), length)], stops=True))
        draw = Draw(temperature, top_k, top_p, min_p)
        settings = _Sampling(
            sampler, steps, guidance, draw, repetition_penalty, frozenset(suppress), batch_size, on_step, options
        )
        generations = self._sample(jobs, settings, seed)
        return generations[0] if isinstance(prompt, str) else generations

    def infill(
        self,
        text: str,
        *,
        sampler: str | None = None,
        steps: int | None = None,
        guidance: float | Weight = 0.0,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        suppress: Collection[int] = (),
        seed: int = 0,
        on_step: OnStep | None = None,
        **options: Any,
    ) -> Generation:
        r"""Fill the blanks of `text`: `_` is a blank of one token, `__` of two, `_[20]` of twenty, `\_` an underscore.

        The other arguments are those of `generate`; guidance takes all of the given text as its prompt. Raises
        `UsageError` as `generate`, on a text without a blank, and for an ARM, which can't look ahead.
        """
        if self.config.mask_id is None:
            raise UsageError(
                "infill: this model has no mask token (it is autoregressive): take one that was trained with masks"
            )
        tokens, blanks = infilling.encode(text, self.tokenizer, self.mask_id)
        self._check_length(len(tokens), f"infill text of {len(tokens)} tokens")
        draw = Draw(temperature, top_k, top_p, min_p)
        settings = _Sampling(
            sampler, steps, guidance, draw, repetition_penalty, frozenset(suppress), 1, on_step, options
        )
        return self._sample([_Job(tokens, blanks, stops=False)], settings, seed)[0]

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
    ) -> likelihood.Scored:
        """`likelihood.score` of requests in tokens, under this model."""
        return likelihood.score(
            self.logits_fn,
            requests,
            settings,
            mask_id=self.mask_id,
            causal=self.config.causal,
            device=self.device,
            on_progress=on_progress,
        )

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

    def _sample(self, jobs: list[_Job], settings: _Sampling, seed: int | Sequence[int]) -> list[Generation]:
        name = settings.sampler or DEFAULT_SAMPLER[self.config.causal]
        sampler = samplers.lookup(name)
        options = settings.options
        if self.config.causal:
            self._refuse_guidance(settings.guidance)
            if name != "autoregressive":
                raise UsageError(
                    f"sampler {name!r}: needs a mask token, and this model is autoregressive: leave it out"
                )
        known = samplers.options_of(name, cast("str | None", options.get("inner")))
        for option in options:
            if option not in known:
                raise unknown_name("option", option, known)
        if "stop_id" in known and all(job.stops for job in jobs):
            options = {"stop_id": self.tokenizer.eos_id, **options}
        seeds = [seed] * len(jobs) if isinstance(seed, int) else list(seed)
        if len(seeds) != len(jobs):
            raise UsageError(f"{len(seeds)} seeds for {len(jobs)} prompts: give one, or one for each")
        if settings.batch_size < 1:
            raise UsageError(f"batch_size {settings.batch_size}: must be at least 1")

        generations: dict[int, Generation] = {}
        for group in _by_length([job.tokens for job in jobs]):
            for indices in (group[i : i + settings.batch_size] for i in range(0, len(group), settings.batch_size)):
                begun = time.perf_counter()
                tokens_BL = torch.tensor([jobs[index].tokens for index in indices], device=self.device)
                given_BL = tokens_BL != self.mask_id
                guided = guiding.classifier_free(self.logits_fn, given_BL, settings.guidance, self.mask_id)
                penalised = guiding.repetition_penalty(guided, settings.repetition_penalty, self.mask_id)
                sampled = sampler(
                    guiding.suppress(penalised, settings.suppress | self._padding),
                    tokens_BL,
                    mask_id=self.mask_id,
                    steps=settings.steps,
                    temperature=settings.draw.temperature,
                    top_k=settings.draw.top_k,
                    top_p=settings.draw.top_p,
                    min_p=settings.draw.min_p,
                    generator=[seeding.generator(seeds[index], "sample") for index in indices],
                    on_step=settings.on_step,
                    **options,
                )
                tokens = cast("list[list[int]]", sampled.tokens_BL.tolist())
                steps = cast("list[list[int]]", sampled.reveal_step_BL.tolist())
                calls = cast("list[int]", sampled.network_calls_B.tolist())
                seconds = time.perf_counter() - begun
                for row, index in enumerate(indices):
                    text, fills = self._texts(jobs[index], tokens[row])
                    generations[index] = Generation(
                        text, fills, tokens[row], steps[row], calls[row], seconds, sampler=name, seed=seeds[index]
                    )
        return [generations[index] for index in range(len(jobs))]

    def _texts(self, job: _Job, tokens: list[int]) -> tuple[str, list[str]]:
        """The passage and the text of each blank; a passage that stops ends before its first new end-of-text token."""
        eos_id, start = self.tokenizer.eos_id, job.blanks[0].start
        if job.stops and eos_id is not None and eos_id in tokens[start:]:
            tokens = tokens[: tokens.index(eos_id, start)]
        pieces = self.pieces(tokens)
        return "".join(pieces), ["".join(pieces[blank.start : blank.stop]) for blank in job.blanks]

    def _check_length(self, length: int, what: str) -> None:
        if length > self.config.context_length:
            raise UsageError(f"{what}: more than the context of {self.config.context_length} tokens: shorten it")

    def _refuse_guidance(self, weight: float | Weight) -> None:
        if weight:
            raise UsageError(f"guidance {weight}: needs a mask token, and this model is autoregressive: leave it at 0")


@dataclass(frozen=True)
class _Job:
    """A row to sample: its tokens, where its blanks are, and whether it ends at the end-of-text token."""

    tokens: list[int]
    blanks: list[range]
    stops: bool


@dataclass(frozen=True)
class _Sampling:
    """How to sample; the arguments of `LanguageModel.generate`."""

    sampler: str | None
    steps: int | None
    guidance: float | Weight
    draw: Draw
    repetition_penalty: float
    suppress: frozenset[int]
    batch_size: int
    on_step: OnStep | None
    options: dict[str, Any]


def _by_length(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """The indices of `rows`, those of one length together."""
    groups: dict[int, list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(len(row), []).append(index)
    return list(groups.values())


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
