"""Generation: passages with blanks, filled in batches by any sampler over a network.

A passage is a row of tokens with masks in its blanks. Rows of different lengths share a batch, padded at the end; what
a row gets depends on its own seed alone.

Shapes: B rows, L positions.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from unmask import guidance as guiding
from unmask import samplers, seeding
from unmask.cached_logits import ApproximateLogits, BlockCausalLogits, CacheReport
from unmask.errors import UsageError, unknown_name
from unmask.guidance import Weight
from unmask.logits_fn import PADDING, LogitsFn
from unmask.model import Transformer
from unmask.samplers import Draw, OnStep


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
    cache: CacheReport | None = None
    """What a cache of a network that sees both ways saved in the batch, and how far it drifted."""
    candidates: list[Candidate] = field(default_factory=lambda: list[Candidate]())
    """The lengths that were tried for blanks of searched length, the best first; empty without such."""

    def to_dict(self) -> dict[str, Any]:
        """A dict for JSON."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Candidate:
    """One choice of lengths for the blanks of a text."""

    lengths: list[int]
    """Tokens of each blank."""
    loss: float
    """Bound in nats per token of all that stands behind the beginning of the first blank; the least is taken."""
    standard_error: float
    fills: list[str]


@dataclass(frozen=True)
class Passage:
    """A row to fill: its tokens, where its blanks are, and whether it ends at the end-of-text token."""

    tokens: list[int]
    blanks: list[range]
    stops: bool


@dataclass(frozen=True)
class Filled:
    """A passage with its blanks filled, and what that took."""

    tokens: list[int]
    reveal_steps: list[int]
    network_calls: int
    seconds: float
    sampler: str
    cache: CacheReport | None


@dataclass(frozen=True)
class Cache:
    """An approximate cache of a bidirectional network; see `cached_logits`."""

    strategy: str
    """prefix or block."""
    refresh: int = 16
    """Changed tokens after which everything is computed anew; 1 is exact."""
    drift_limit: float | None = None
    """Nats per position that cached logits may be from exact ones; `refresh` adapts to it."""


@dataclass(frozen=True)
class Sampling:
    """How to fill passages."""

    sampler: str | None = None
    """A name in `SAMPLERS`. None: confidence; autoregressive for an ARM, block for a block-causal network."""
    steps: int | None = None
    guidance: float | Weight = 0.0
    draw: Draw = field(default_factory=Draw)
    repetition_penalty: float = 1.0
    suppress: frozenset[int] = frozenset()
    batch_size: int = 16
    cache: Cache | None = None
    on_step: OnStep | None = None
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The sampler's own."""

    @classmethod
    def of(
        cls,
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
        batch_size: int = 16,
        cache: Cache | None = None,
        on_step: OnStep | None = None,
        **options: Any,
    ) -> Sampling:
        """From keyword arguments, as `LanguageModel.generate` and `infill` take them.

        `sampler` is a name in `SAMPLERS`, by default "confidence", for an ARM "autoregressive" and for a block-causal
        network "block"; `options` are its own keyword arguments. `steps` None is one per token. More steps than masks
        are allowed: those that reveal nothing cost nothing ("remask" takes tokens back in them). The autoregressive
        sampler always takes one per token. `guidance` is a weight, or a function of the revealed share such as
        `guidance.Ramp`. `temperature`, `top_k`, `top_p` and `min_p` are those of `samplers.Draw`; `suppress` are ids
        that are never drawn. `cache` is an approximate one for a bidirectional network; the others have an exact one
        anyway. `batch_size` rows run at a time, those of similar length together.

        Raises `UsageError` on numbers out of range.
        """
        return cls(
            sampler,
            steps,
            guidance,
            Draw(temperature, top_k, top_p, min_p),
            repetition_penalty,
            frozenset(suppress),
            batch_size,
            cache,
            on_step,
            options,
        )

    def __post_init__(self) -> None:
        """Raises `UsageError` on a batch size below 1."""
        if self.batch_size < 1:
            raise UsageError(f"batch_size {self.batch_size}: must be at least 1")


def fill(
    model: Transformer,
    logits_fn: LogitsFn,
    passages: Sequence[Passage],
    settings: Sampling,
    seeds: Sequence[int],
    *,
    mask_id: int,
    eos_id: int | None,
) -> list[Filled]:
    """Fill the blanks of `passages`, each with its own seed, those of similar length together.

    `logits_fn` is that of `model`, which is asked for a cache where there can be one. Raises `UsageError` on an unknown
    sampler or option, numbers out of range, and what does not go with the network.
    """
    name, options = _chosen(model, settings)
    if "stop_id" in samplers.options_of(name, options.get("inner")) and all(passage.stops for passage in passages):
        options = {"stop_id": eos_id, **options}
    sampler = samplers.lookup(name)
    device = next(model.parameters()).device
    filled: dict[int, Filled] = {}
    for indices in _batches([len(passage.tokens) for passage in passages], settings.batch_size):
        begun = time.perf_counter()
        tokens_BL = _padded([passages[index].tokens for index in indices]).to(device)
        batch_fn, report = _with_cache(model, logits_fn, tokens_BL, settings.cache)
        guided = guiding.classifier_free(batch_fn, tokens_BL != mask_id, settings.guidance, mask_id)
        penalised = guiding.repetition_penalty(guided, settings.repetition_penalty, mask_id)
        sampled = sampler(
            guiding.suppress(penalised, settings.suppress),
            tokens_BL,
            mask_id=mask_id,
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
            length = len(passages[index].tokens)
            filled[index] = Filled(tokens[row][:length], steps[row][:length], calls[row], seconds, name, report())
    return [filled[index] for index in range(len(passages))]


def _chosen(model: Transformer, settings: Sampling) -> tuple[str, dict[str, Any]]:
    """The sampler's name and options, checked against the network."""
    config = model.config
    default = "autoregressive" if config.causal else "block" if config.block_length else "confidence"
    name = settings.sampler or default
    known = samplers.options_of(name, settings.options.get("inner"))
    for option in settings.options:
        if option not in known:
            raise unknown_name("option", option, known)
    if config.causal:
        if settings.guidance:
            raise UsageError(
                f"guidance {settings.guidance}: needs a mask token, and this model is autoregressive: leave it at 0"
            )
        if name != "autoregressive":
            raise UsageError(f"sampler {name!r}: needs a mask token, and this model is autoregressive: leave it out")
    if config.block_length and name not in ("block", "autoregressive"):
        raise UsageError(
            f"sampler {name!r}: this model is block-causal and fills one block after the other: "
            f"take the sampler 'block' with inner {name!r}"
        )
    if settings.cache and (config.causal or config.block_length):
        raise UsageError(f"cache {settings.cache.strategy!r}: this model has an exact one already: leave it out")
    return name, dict(settings.options)


def _with_cache(
    model: Transformer, logits_fn: LogitsFn, tokens_BL: Tensor, cache: Cache | None
) -> tuple[LogitsFn, Callable[[], CacheReport | None]]:
    """The `LogitsFn` for one batch, and what tells what its cache did."""
    rows, length = tokens_BL.shape
    if model.config.block_length:
        exact = BlockCausalLogits.of(model, rows, length)
        return exact, exact.report
    if cache is not None:
        approximate = ApproximateLogits.of(
            model, rows, length, strategy=cache.strategy, refresh=cache.refresh, drift_limit=cache.drift_limit
        )
        return approximate, approximate.report
    return logits_fn, lambda: None


def _batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """The indices of `batch_size` rows at a time, in the order of their lengths."""
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def _padded(rows: Sequence[Sequence[int]]) -> Tensor:
    """The rows in one tensor (B, L), with `PADDING` behind the shorter ones."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[PADDING] * (longest - len(row))] for row in rows])
