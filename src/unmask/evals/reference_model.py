"""The model under whose eyes generated text is judged: an autoregressive one of ours, or any of Transformers.

The likelihood of text is exact under it. A masked model's is a bound, looser for some texts than for others, and so no
measure of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from unmask import likelihood, model_directory
from unmask.errors import UnmaskError, UsageError
from unmask.evals.samples import Sample
from unmask.language_model import LanguageModel, load

BATCH = 8
"""Rows that go through a model of Transformers at a time."""
LONGEST = 2048
"""Tokens of a window where a model tells no context."""


@dataclass(frozen=True)
class Likelihood:
    """What a sample costs."""

    nll: float
    """Nats, of all its tokens."""
    tokens: int


class Reference(Protocol):
    """A model that judges."""

    @property
    def name(self) -> str:
        """What a report calls it."""
        ...

    def encode(self, text: str) -> list[int]:
        """The tokens of a text."""
        ...

    def likelihoods(self, samples: Sequence[Sample], on_progress: Callable[[int], None]) -> list[Likelihood]:
        """Of each sample behind its prompt; `on_progress` gets the number of those that are done."""
        ...


def open_reference(name: str, device: str = "auto") -> Reference:
    """The model in the folder `name`: one of ours, or a causal one of Transformers (also as `hf:FOLDER_OR_NAME`).

    Raises `UsageError` if there is none, or if it is not autoregressive.
    """
    path = Path(name)
    if not name.startswith("hf:"):
        if not path.is_dir():
            raise UsageError(f"--reference {name}: no such folder: give a model's, or hf:NAME for one of the hub's")
        if any(model_directory.is_model(folder) for folder in (path, path / "model")):
            lm = load(path, device)
            if not lm.config.causal:
                raise UsageError(f"--reference {name}: a masked model, which gives no exact likelihood: take an ARM")
            return _Ours(name, lm)
        if not (path / "config.json").is_file():
            raise UsageError(f"--reference {name}: no config.json of a model in it: give a model's folder")
    return _theirs(name, device)


def windows(tokens: Sequence[int], first: int, context: int) -> list[tuple[int, int, int]]:
    """Cut a text that is longer than the context: (start, first scored, stop) of each piece.

    Every token from `first` on is scored once, after the first piece behind half a context at least.
    """
    pieces: list[tuple[int, int, int]] = []
    while first < len(tokens):
        start = 0 if len(tokens) <= context else max(0, min(first - context // 2, len(tokens) - context))
        stop = min(len(tokens), start + context)
        pieces.append((start, first, stop))
        first = stop
    return pieces


def _joined(encode: Callable[[str], list[int]], sample: Sample) -> tuple[list[int], int]:
    """The tokens of prompt and text, and where those begin that the prompt alone does not have."""
    tokens = encode(sample.prompt + sample.text)
    given = encode(sample.prompt) if sample.prompt else []
    same = 0
    while same < min(len(given), len(tokens)) and given[same] == tokens[same]:
        same += 1
    return tokens, same


@dataclass(frozen=True)
class _Ours:
    name: str
    lm: LanguageModel

    def encode(self, text: str) -> list[int]:
        return self.lm.tokenizer.encode(text)

    def likelihoods(self, samples: Sequence[Sample], on_progress: Callable[[int], None]) -> list[Likelihood]:
        requests: list[likelihood.Request] = []
        owners: list[int] = []
        lengths: list[int] = []
        for owner, sample in enumerate(samples):
            tokens, begin = _joined(self.encode, sample)
            lengths.append(len(tokens) - begin)
            for start, first, stop in windows(tokens, begin, self.lm.config.context_length):
                requests.append(likelihood.Request(tuple(tokens[start:first]), tuple(tokens[first:stop])))
                owners.append(owner)
        scored = self.lm.score_tokens(requests, likelihood.Settings(), on_progress=lambda done, _: on_progress(done))
        nlls = [0.0] * len(samples)
        for owner, estimate in zip(owners, scored.estimates, strict=True):
            nlls[owner] -= estimate.log_likelihood
        return [Likelihood(*each) for each in zip(nlls, lengths, strict=True)]


@dataclass(frozen=True)
class _Theirs:
    name: str
    model: Any
    tokenizer: Any
    context: int

    def encode(self, text: str) -> list[int]:
        return cast("list[int]", self.tokenizer.encode(text, add_special_tokens=False))

    @torch.no_grad()
    def likelihoods(self, samples: Sequence[Sample], on_progress: Callable[[int], None]) -> list[Likelihood]:
        begin_id = cast("int | None", self.tokenizer.bos_token_id)
        if begin_id is None:
            begin_id = cast("int | None", self.tokenizer.eos_token_id)
        pieces: list[tuple[int, list[int], int]] = []  # whose it is, its tokens, and the first that is scored
        lengths: list[int] = []
        for owner, sample in enumerate(samples):
            tokens, begin = _joined(self.encode, sample)
            before = [] if begin_id is None else [begin_id]
            begin = max(begin, 1 - len(before))  # nothing tells the first token if nothing is before it
            lengths.append(max(0, len(tokens) - begin))
            for start, first, stop in windows(tokens, begin, self.context - len(before)):
                pieces.append((owner, [*before, *tokens[start:stop]], len(before) + first - start))
        nlls = [0.0] * len(samples)
        order = sorted(range(len(pieces)), key=lambda index: len(pieces[index][1]))
        for at in range(0, len(order), BATCH):
            batch = [pieces[index] for index in order[at : at + BATCH]]
            nll_BL = self._nlls([tokens for _, tokens, _ in batch])
            for (owner, tokens, first), nll_L in zip(batch, nll_BL, strict=True):
                nlls[owner] += nll_L[first : len(tokens)].double().sum().item()
            on_progress(min(at + BATCH, len(order)))
        return [Likelihood(*each) for each in zip(nlls, lengths, strict=True)]

    def _nlls(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """(B, L): of each token given those before it; 0 for the first. What is behind a row changes nothing in it."""
        longest = max(map(len, rows))
        device = self.model.device
        tokens_BL = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=device)
        there_BL = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=device)
        logits_BLV = self.model(input_ids=tokens_BL, attention_mask=there_BL).logits.float()
        nll_BL = F.cross_entropy(logits_BLV[:, :-1].transpose(1, 2), tokens_BL[:, 1:], reduction="none")
        return F.pad(nll_BL, (1, 0)).cpu()


def _theirs(name: str, device: str) -> Reference:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = name.removeprefix("hf:")
    try:
        tokenizer = cast(Any, AutoTokenizer).from_pretrained(source)
        model = cast(Any, AutoModelForCausalLM).from_pretrained(source, dtype=torch.float32)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UnmaskError(f"--reference {name}: Transformers cannot open it ({reason}): check the name") from None
    where = torch.device(
        "cuda" if device == "auto" and torch.cuda.is_available() else "cpu" if device == "auto" else device
    )
    told = getattr(model.config, "max_position_embeddings", None)
    return _Theirs(name, model.to(where).eval(), tokenizer, told if isinstance(told, int) and told > 1 else LONGEST)


def finite(likelihoods: Sequence[Likelihood], name: str) -> None:
    """Raises `UnmaskError` where a likelihood is no number."""
    if not all(math.isfinite(each.nll) for each in likelihoods):
        raise UnmaskError(f"--reference {name}: gives a likelihood that is no number: its weights are damaged")
