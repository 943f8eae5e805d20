"""`unmask score`: the likelihood of a continuation, with its error and its cost."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro

from unmask.wording import counted


@dataclass(frozen=True)
class Options:
    """The log-likelihood of a continuation after a prompt, in nats."""

    model: Annotated[Path, tyro.conf.Positional]
    """Model directory, or directory of a training run."""
    continuation: str
    """Text to score."""
    prompt: str = ""
    """Text before it."""
    estimator: str = "auto"
    """exact (all sets of masks), stratified, mc (the paper's), chain (left to right), or auto: exact if cheap."""
    num_samples: int = 128
    """Draws of masks; for auto, the most network calls that exact may take."""
    guidance: float = 0.0
    """Weight w of classifier-free guidance towards the prompt; above 0 it takes twice the network calls."""
    seed: int = 0
    """Of the masks."""
    batch_size: int = 64
    """Masked rows evaluated at a time; changes nothing but memory and speed."""
    device: str = "auto"
    """Where to run: auto, cpu, cuda."""
    json: bool = False
    """Print one JSON object."""


def run(options: Options) -> None:
    """Print the estimate, its error, what kind of figure it is, and its cost."""
    from unmask.language_model import load

    lm = load(options.model, options.device)
    begun = time.perf_counter()
    estimate = lm.score(
        options.prompt,
        options.continuation,
        estimator=options.estimator,
        num_samples=options.num_samples,
        guidance=options.guidance,
        seed=options.seed,
        batch_size=options.batch_size,
    )
    seconds = time.perf_counter() - begun
    bound = not lm.config.causal and options.estimator != "chain"
    known = math.isfinite(estimate.standard_error)
    if options.json:
        figures = asdict(estimate) | {"standard_error": estimate.standard_error if known else None}
        print(json.dumps({**figures, "bound": bound, "estimator": options.estimator, "seconds": seconds}))
        return
    error = "" if estimate.exact else f" ± {estimate.standard_error:.4f}" if known else " (error unknown: one draw)"
    kind = "minus the bound on the negative log-likelihood: the true value is no lower" if bound else "exact"
    if not bound and not lm.config.causal:
        kind = "exact for revealing from left to right"
    calls = counted(estimate.network_calls, "network call")
    print(f"log-likelihood {estimate.log_likelihood:.4f}{error} nats\n[{kind}; {calls}, {seconds:.2f} s]")
