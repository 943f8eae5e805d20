"""Samplers: pure functions over a `LogitsFn` that fill the masked positions of a batch, wherever they stand.

Generation, infilling and block decoding are the same call. Every sampler has the form of `Sampler`: given tokens are
never touched, every mask is filled, the mask token is never drawn, and a row's result depends on its own tokens and
its own noise alone. A sampler of your own is a function of this form and one entry in `block.INSIDE`.
"""

from __future__ import annotations

from unmask.errors import unknown_name
from unmask.samplers.adaptive import entropy, threshold
from unmask.samplers.ancestral import ancestral
from unmask.samplers.autoregressive import autoregressive
from unmask.samplers.block import INSIDE, block, own_options
from unmask.samplers.canvas import OnStep, Sampled, Sampler, Step
from unmask.samplers.confidence import confidence, margin
from unmask.samplers.first_hitting import first_hitting
from unmask.samplers.noise import Draw
from unmask.samplers.remask import remask
from unmask.samplers.schedules import SCHEDULES
from unmask.samplers.trace import Trace

__all__ = [
    "SAMPLERS",
    "SCHEDULES",
    "Draw",
    "OnStep",
    "Sampled",
    "Sampler",
    "Step",
    "Trace",
    "ancestral",
    "autoregressive",
    "block",
    "confidence",
    "entropy",
    "first_hitting",
    "lookup",
    "margin",
    "options_of",
    "remask",
    "threshold",
]

SAMPLERS: dict[str, Sampler] = {**INSIDE, "block": block}
"""The samplers by name."""


def lookup(name: str) -> Sampler:
    """The sampler called `name`. Raises `UsageError` with the nearest name where there is none."""
    if name not in SAMPLERS:
        raise unknown_name("sampler", name, SAMPLERS)
    return SAMPLERS[name]


def options_of(name: str, inner: str | None = None) -> set[str]:
    """The names of the options that the sampler `name` takes beyond those of every sampler.

    `inner` is the sampler inside the blocks of the block sampler, whose options it takes too. Raises as `lookup`.
    """
    options = own_options(lookup(name))
    return options | own_options(lookup(inner or "confidence")) if name == "block" else options
