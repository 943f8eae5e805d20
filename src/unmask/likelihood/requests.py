"""Many requests of all lengths at once: in batches by length, with common masks, stopping early where asked to.

A request is a prompt with a continuation, of which the likelihood is wanted. Its masks follow from the seed and its
prompt alone: what it gets does not depend on which requests come along, and the options of a question, which have the
prompt in common, draw the same ones.

Shapes: B requests of one length, L positions, R rows.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from unmask import logits_fn as logits_functions
from unmask import seeding
from unmask.errors import UsageError, unknown_name
from unmask.guidance import classifier_free
from unmask.likelihood.bounds import check
from unmask.likelihood.plans import ESTIMATORS, Estimate, Plan, causal_plan, chain_plan, is_cheap, plan
from unmask.likelihood.rows import BatchSize, Reading, Sequences, row_losses
from unmask.logits_fn import LogitsFn

OnProgress = Callable[[int, int], None]
"""Called with the requests that are done and all of them."""
Once = Callable[[str, Callable[[], Any]], Any]
"""Called with a key and what computes its value, which goes into JSON; may know the value from before."""
WINDOW = 4096
"""Rows that are planned, and searched for duplicates, at a time."""
WINDOW_BATCHES = 16
"""Most batches of such rows: what is lost if the process is killed."""
PADDING = 1.125
"""Times the length of a batch's shortest request that its longest one may have, for an ARM, but for options of one
question that are mostly prompt."""
SKIPPED_PADDING = 1.5
"""The same for a network that computes nothing of padding but its share of the attention."""
FIRST_STAGE = 8
"""Part of the draws after which adaptive stopping looks for the first time."""


@dataclass(frozen=True)
class Request:
    """What to score."""

    prompt: tuple[int, ...]
    continuation: tuple[int, ...]
    question: int | None = None
    """Requests with one number are the options of one question."""
    scale: float = 1.0
    """What the log-likelihood is divided by where options are compared by length, such as their bytes."""


@dataclass(frozen=True)
class Settings:
    """How to score."""

    estimator: str = "auto"
    """As in `bound`, or "chain"."""
    num_samples: int = 128
    """Draws of masks; for auto, the most network calls that exact may take."""
    guidance: float = 0.0
    """Weight of unsupervised classifier-free guidance towards the prompt."""
    seed: int = 0
    batch_size: int | None = None
    """Rows evaluated at a time; None goes by the memory."""
    adaptive: float | None = None
    """Stop drawing for options that are further than so many standard errors from their question's best."""

    def __post_init__(self) -> None:
        """Raises `UsageError` on a value out of range."""
        names = (*ESTIMATORS, "chain")
        if self.estimator not in names:
            raise unknown_name("estimator", self.estimator, names)
        if self.num_samples < 1:
            raise UsageError(f"num_samples {self.num_samples}: must be at least 1")
        if not 0 <= self.guidance < math.inf:
            raise UsageError(f"guidance {self.guidance}: must be 0 (none) or more, and finite")
        if self.batch_size is not None and self.batch_size < 1:
            raise UsageError(f"batch_size {self.batch_size}: must be at least 1")
        if self.adaptive is not None and not 0 < self.adaptive < math.inf:
            raise UsageError(f"adaptive {self.adaptive}: must be a number of standard errors above 0")


@dataclass
class Scored:
    """The estimates in the order of the requests, and what they cost together."""

    estimates: list[Estimate]
    network_calls: int = 0
    """Rows that went through the network; what several requests need counts once."""
    calls_saved: int = 0
    """Network calls that adaptive stopping did without."""
    batches_halved: int = 0
    """How many times a batch did not fit into the memory."""


@dataclass
class _Counted:
    """The network, counting the rows that pass through it."""

    logits_fn: LogitsFn
    rows: int = 0

    def __call__(self, tokens_BL: Tensor, select_BL: Tensor | None = None, /) -> Tensor:
        logits = self.logits_fn(tokens_BL, select_BL)
        self.rows += len(tokens_BL)
        return logits


@dataclass
class _Engine:
    logits_fn: _Counted
    mask_id: int
    settings: Settings
    causal: bool
    device: torch.device
    batch_size: BatchSize
    on_progress: OnProgress | None
    once: Once
    pads: bool
    total: int
    done: int = 0

    def estimate(self, requests: Sequence[Request], plans: Sequence[Plan]) -> list[Estimate]:
        """Each request by its plan, whatever their lengths."""
        lengths = _lengths(requests, self.causal)
        order = sorted(range(len(requests)), key=lambda i: (lengths[i], requests[i].prompt))
        found: list[Estimate | None] = [None] * len(requests)
        window: list[int] = []
        rows = 0
        for place, index in enumerate(order):
            window.append(index)
            rows += len(plans[index].masks_RK)
            following = order[place + 1] if place + 1 < len(order) else None
            positions = rows * lengths[index]
            ends = following is None or rows >= WINDOW or positions >= WINDOW_BATCHES * self.batch_size.positions
            if following is not None:
                padding = PADDING if self.causal else SKIPPED_PADDING if self.pads else 1
                ends |= lengths[following] > padding * lengths[window[0]]
            if ends:
                estimates = self._finished([requests[i] for i in window], [plans[i] for i in window])
                for i, estimate in zip(window, estimates, strict=True):
                    found[i] = estimate
                window, rows = [], 0
        return [estimate for estimate in found if estimate is not None]

    def _finished(self, requests: Sequence[Request], plans: Sequence[Plan]) -> list[Estimate]:
        """`_window`, or what it gave before: estimates, and the rows that passed through the network."""

        def compute() -> list[Any]:
            before = self.logits_fn.rows
            estimates = self._window(requests, plans)
            return [self.logits_fn.rows - before, [astuple(estimate) for estimate in estimates]]

        before = self.logits_fn.rows
        rows, estimates = self.once(_key(requests, plans), compute)
        self.logits_fn.rows = before + rows
        self.done += len(requests)
        if self.on_progress is not None:
            self.on_progress(min(self.done, self.total), self.total)
        return [Estimate(*each) for each in estimates]

    def _window(self, requests: Sequence[Request], plans: Sequence[Plan]) -> list[Estimate]:
        length = max(_length(request) for request in requests)
        # what stands behind a text changes nothing for a causal network
        tokens_BL = torch.full((len(requests), length), 0 if self.causal else logits_functions.PADDING)
        scored_BL = torch.zeros(len(requests), length, dtype=torch.bool)
        prompt_BL = torch.zeros(len(requests), length, dtype=torch.bool)
        for b, request in enumerate(requests):
            first, end = len(request.prompt), _length(request)
            tokens_BL[b, :end] = torch.tensor([*request.prompt, *request.continuation])
            scored_BL[b, first:end] = True
            prompt_BL[b, :first] = True
        check(tokens_BL, scored_BL, None if self.causal else self.mask_id, None)
        tokens_BL, scored_BL, prompt_BL = (each.to(self.device) for each in (tokens_BL, scored_BL, prompt_BL))
        weight = self.settings.guidance
        kinds = [len(request.prompt) if weight else 0 for request in requests]
        reading: Reading = "causal" if self.causal else "first" if self.settings.estimator == "chain" else "masked"
        sequences = Sequences(tokens_BL, scored_BL, [plan.masks_RK for plan in plans], kinds, reading)
        losses = row_losses(
            lambda rows_R: classifier_free(self.logits_fn, prompt_BL[rows_R], weight, self.mask_id),
            sequences,
            self.mask_id,
            self.batch_size,
        )
        return [plan.estimate(*each) for plan, each in zip(plans, losses, strict=True)]


def score(
    logits_fn: LogitsFn,
    requests: Sequence[Request],
    settings: Settings | None = None,
    *,
    mask_id: int,
    causal: bool = False,
    device: torch.device | str = "cpu",
    vocab_size: int | None = None,
    pads: bool = False,
    on_progress: OnProgress | None = None,
    once: Once | None = None,
) -> Scored:
    """The log-likelihood of each request's continuation after its prompt; the same figures as one by one.

    `logits_fn` is the bare network; with `causal` that of an ARM, whose likelihoods are exact in one call by "auto",
    "exact" or "chain". Without `vocab_size`, the number of its logits, a first small batch tells it. `pads`: it knows
    `PADDING`, so texts of different lengths may share a batch. `once` may keep what is finished; its keys tell
    everything but network and settings. Raises `UsageError` on a request without a continuation, a scored mask token,
    and for an ARM on guidance or an estimator that masks.
    """
    settings = settings or Settings()
    device = torch.device(device)
    if causal and settings.guidance:
        raise UsageError(f"guidance {settings.guidance}: needs a mask token, and this model is autoregressive")
    if causal and settings.estimator in ("stratified", "mc"):
        raise UsageError(
            f"estimator {settings.estimator!r}: an autoregressive model has no mask token, "
            "and its likelihood is exact: take auto"
        )
    for index, request in enumerate(requests):
        if not request.continuation:
            raise UsageError(f"request {index}: nothing to score: its continuation has no tokens")
    counted = _Counted(logits_fn)
    batch_size = replace(BatchSize.on(device, settings.batch_size), vocab_size=vocab_size)
    once = once or (lambda _key, compute: compute())
    engine = _Engine(counted, mask_id, settings, causal, device, batch_size, on_progress, once, pads, len(requests))
    if settings.adaptive is None or causal or settings.estimator in ("chain", "exact"):
        scored = Scored(engine.estimate(requests, [_plan(request, settings, causal) for request in requests]))
    else:
        scored = _adaptive(engine, requests, settings)
    return replace(scored, network_calls=counted.rows, batches_halved=batch_size.halved)


def _plan(request: Request, settings: Settings, causal: bool, stage: int = 0) -> Plan:
    scored = len(request.continuation)
    if causal:
        return causal_plan(scored)
    if settings.estimator == "chain":
        return chain_plan(scored)
    digest = hashlib.blake2b(repr(request.prompt).encode(), digest_size=8).hexdigest()
    generator = seeding.generator(settings.seed, f"likelihood {digest}", stage)
    return plan(scored, estimator=settings.estimator, num_samples=settings.num_samples, generator=generator)


def _adaptive(engine: _Engine, requests: Sequence[Request], settings: Settings) -> Scored:
    """Draw in stages, each doubling the draws so far, for the options that may still turn out best.

    A request that belongs to no question gets all its draws at once, and so does one that needs few anyway.
    """
    limit = settings.num_samples
    sizes = [min(limit, max(3, limit // FIRST_STAGE))]  # one or two draws tell no error
    while sum(sizes) < limit:
        sizes.append(min(sum(sizes), limit - sum(sizes)))
    estimates: dict[int, Estimate] = {}
    drawn: dict[int, int] = {}
    full = {
        index: limit if not is_cheap(len(request.continuation), limit) else 2 ** len(request.continuation) - 1
        for index, request in enumerate(requests)
    }
    waiting = list(range(len(requests)))
    for stage, size in enumerate(sizes):
        plans: list[Plan] = []
        for index in waiting:
            request, draws = requests[index], size
            cheap = settings.estimator == "auto" and full[index] < limit
            if request.question is None or (cheap and (stage or full[index] <= 2 * size)):
                draws = limit  # all of it: exact, where that is no more than so many calls
            drawn[index] = drawn.get(index, 0) + draws
            plans.append(_plan(request, replace(settings, num_samples=draws), False, stage))
        for index, found in zip(waiting, engine.estimate([requests[i] for i in waiting], plans), strict=True):
            before = estimates.get(index)
            share = 1.0 if before is None or found.exact else size / drawn[index]
            estimates[index] = found if before is None else _together(before, found, share)
        engine.done = 0
        waiting = _undecided(requests, estimates, settings.adaptive or 0.0)
        if not waiting:
            break
    passes = 2 if settings.guidance else 1
    saved = sum(passes * full[i] - estimates[i].network_calls for i in estimates if requests[i].question is not None)
    return Scored([estimates[index] for index in range(len(requests))], calls_saved=saved)


def _together(before: Estimate, found: Estimate, share: float) -> Estimate:
    """Two independent estimates, the later one with weight `share`."""
    return Estimate(
        (1 - share) * before.log_likelihood + share * found.log_likelihood,
        math.hypot((1 - share) * before.standard_error, share * found.standard_error) if share < 1 else 0.0,
        before.network_calls + found.network_calls,
        found.exact,
    )


def _undecided(requests: Sequence[Request], estimates: dict[int, Estimate], errors: float) -> list[int]:
    """The options that are not known exactly and may, by their errors, still be the best of their question.

    The best is looked for by the log-likelihoods as they are and divided by `scale`.
    """
    questions: dict[int, list[int]] = {}
    for index, request in enumerate(requests):
        if request.question is not None:
            questions.setdefault(request.question, []).append(index)
    undecided: set[int] = set()
    for options in questions.values():
        for scales in ([1.0] * len(options), [requests[index].scale for index in options]):
            values = [estimates[index].log_likelihood / scale for index, scale in zip(options, scales, strict=True)]
            spreads = [estimates[index].standard_error / scale for index, scale in zip(options, scales, strict=True)]
            best = max(range(len(options)), key=lambda place: values[place])
            close = [
                place
                for place in range(len(options))
                if place != best
                # an error that is not known yet is no reason to stop
                and not values[best] - values[place] > errors * math.hypot(spreads[best], spreads[place])
            ]
            undecided.update(options[place] for place in [best, *close] if close)
    return sorted(index for index in undecided if not estimates[index].exact)


def _lengths(requests: Sequence[Request], causal: bool) -> list[int]:
    """By what length each request is sorted: an ARM's that is mostly prompt by the longest one with the same prompt.

    The network then computes their prompt once.
    """
    lengths = [_length(request) for request in requests]
    mostly_prompt = {i for i, request in enumerate(requests) if causal and lengths[i] <= 2 * len(request.prompt)}
    longest: dict[tuple[int, ...], int] = {}
    for i in mostly_prompt:
        longest[requests[i].prompt] = max(lengths[i], longest.get(requests[i].prompt, 0))
    return [longest[requests[i].prompt] if i in mostly_prompt else length for i, length in enumerate(lengths)]


def _key(requests: Sequence[Request], plans: Sequence[Plan]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for request, each in zip(requests, plans, strict=True):
        digest.update(repr((request.prompt, request.continuation, tuple(each.masks_RK.shape))).encode())
        digest.update(each.masks_RK.numpy().tobytes())
    return digest.hexdigest()


def _length(request: Request) -> int:
    return len(request.prompt) + len(request.continuation)
