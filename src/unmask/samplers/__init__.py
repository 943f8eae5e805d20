"""Samplers: pure functions over a `LogitsFn` that fill the masked positions of a batch, wherever they stand.

Generation, infilling and block decoding are the same call. Every sampler has the form of `Sampler`: given tokens are
never touched, every mask is filled, the mask token is never drawn, and a row's result depends on its own tokens and
its own noise alone. A sampler of your own is a function of this form and one entry in `SAMPLERS`.
"""

from __future__ import annotations

from unmask.errors import unknown_name
from unmask.samplers.ancestral import ancestral
from unmask.samplers.autoregressive import autoregressive
from unmask.samplers.canvas import OnStep, Sampled, Sampler, Step
from unmask.samplers.confidence import SCHEDULES, confidence

__all__ = [
    "SAMPLERS",
    "SCHEDULES",
    "OnStep",
    "Sampled",
    "Sampler",
    "Step",
    "ancestral",
    "autoregressive",
    "confidence",
    "lookup",
]

SAMPLERS: dict[str, Sampler] = {
    "ancestral": ancestral,
    "autoregressive": autoregressive,
    "confidence": confidence,
}
"""The samplers by name."""


def lookup(name: str) -> Sampler:
    """The sampler called `name`. Raises `UsageError` with the nearest name where there is none."""
    if name not in SAMPLERS:
        raise unknown_name("sampler", name, SAMPLERS)
    return SAMPLERS[name]
