"""Samplers that reveal as many tokens in a step as the network is certain enough of, instead of a scheduled number.

`entropy` (entropy-bounded; Ben-Hamu et al., 2025, arXiv 2505.24857) reveals the positions of lowest entropy while the
entropies of all of them but the largest stay under a bound: that sum bounds the dependence between tokens that are
drawn as if they were independent. `threshold` (Fast-dLLM; Wu et al., 2025, arXiv 2505.22618) reveals every position
whose drawn token has at least a given probability.

With both, `steps` is a limit: each step reveals so many at least that no more steps are needed.

Shapes: B rows, L positions, V vocabulary, R rows that reveal something, S masked positions in them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from unmask.errors import UsageError
from unmask.logits_fn import LogitsFn
from unmask.samplers import noise
from unmask.samplers.canvas import Canvas, OnStep, Sampled
from unmask.samplers.confidence import drawn_probability
from unmask.samplers.noise import Drawn
from unmask.samplers.ranked import Adaptive, fill_ranked


@torch.no_grad()
def entropy(
    logits_fn: LogitsFn,
    tokens_BL: Tensor,
    *,
    mask_id: int,
    steps: int | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    min_p: float = 0.0,
    generator: torch.Generator | Sequence[torch.Generator],
    on_step: OnStep | None = None,
    bound: float = 0.1,
) -> Sampled:
    """Fill the masks, those of lowest entropy first, as many at a time as the `bound` in nats allows.

    See `Sampler` for the arguments. `bound` 0 reveals one at a time, and with it all positions of entropy 0. Raises
    `UsageError` on a negative one.
    """
    if not bound >= 0:
        raise UsageError(f"bound {bound}: the entropy in nats must be 0 or more")
    draw = noise.Draw(temperature, top_k, top_p, min_p)
    canvas = Canvas(logits_fn, tokens_BL, mask_id=mask_id, steps=steps, draw=draw, on_step=on_step)
    generators = noise.row_generators(generator, len(tokens_BL))
    rule = Adaptive(functools.partial(under_bound, bound=bound), steps)
    return fill_ranked(canvas, generators, judge=negative_entropy, rule=rule)


@torch.no_grad()
def threshold(
    logits_fn: LogitsFn,
    tokens_BL: Tensor,
    *,
    mask_id: int,
    steps: int | None = None,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    min_p: float = 0.0,
    generator: torch.Generator | Sequence[torch.Generator],
    on_step: OnStep | None = None,
    confidence: float = 0.9,
) -> Sampled:
    """Fill the masks, in each step all whose token has a probability of at least `confidence`, or else the best one.

    See `Sampler` for the arguments. Raises `UsageError` on a `confidence` outside (0, 1].
    """
    if not 0 < confidence <= 1:
        raise UsageError(f"confidence {confidence}: must be more than 0 and at most 1")
    draw = noise.Draw(temperature, top_k, top_p, min_p)
    canvas = Canvas(logits_fn, tokens_BL, mask_id=mask_id, steps=steps, draw=draw, on_step=on_step)
    generators = noise.row_generators(generator, len(tokens_BL))
    rule = Adaptive(lambda sorted_RL: (sorted_RL >= confidence).sum(dim=1), steps)
    return fill_ranked(canvas, generators, judge=drawn_probability, rule=rule)


def negative_entropy(logits_SV: Tensor, drawn: Drawn) -> Tensor:
    """Minus the entropy in nats of the network's distribution."""
    parts: list[Tensor] = []
    for _, logits_CV in noise.chunks(logits_SV):
        log_probs_CV = logits_CV.log_softmax(dim=1)
        # a suppressed token has probability 0 and logarithm minus infinity, and adds nothing
        parts.append((log_probs_CV.exp() * log_probs_CV.clamp(min=torch.finfo(torch.float32).min)).sum(dim=1))
    return torch.cat(parts).clamp(max=0)


def under_bound(sorted_RL: Tensor, bound: float) -> Tensor:
    """The most positions, lowest entropy first, whose entropies without the last one's sum to `bound` at most."""
    entropy_RL = -sorted_RL.double()
    others_RL = entropy_RL.masked_fill(entropy_RL == math.inf, 0).cumsum(dim=1).roll(1, dims=1)
    others_RL[:, 0] = 0
    return ((others_RL <= bound) & (entropy_RL != math.inf)).sum(dim=1)
