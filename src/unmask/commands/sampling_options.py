"""The options of a sampler, which several commands have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

OWN_OPTIONS = (
    "schedule",
    "confidence",
    "bound",
    "remasking",
    "eta",
    "by_confidence",
    "inner",
    "block_length",
    "lookahead",
)
"""Options of some samplers alone, handed on where they are given."""


@dataclass(frozen=True)
class SamplingOptions:
    """How tokens are drawn."""

    sampler: str | None = None
    """ancestral, first_hitting, confidence, margin, entropy, threshold, remask, block or autoregressive. None:
    confidence, and autoregressive for an ARM."""
    steps: int | None = None
    """Steps in which the masks are revealed. None: one for each token."""
    guidance: float = 0.0
    """Weight w of classifier-free guidance towards the prompt; above 0 it takes twice the network calls."""
    guidance_end: float | None = None
    """Weight that guidance goes to, evenly, while tokens are revealed. None: it stays as it is."""
    guidance_until: float = 1.0
    """Share of revealed tokens from which on there is no guidance, and no second network call."""
    top_k: int | None = None
    """Draw among the k likeliest tokens only."""
    top_p: float = 1.0
    """Draw among the fewest tokens that reach this probability only."""
    min_p: float = 0.0
    """Draw among tokens of at least this share of the likeliest one's probability only."""
    repetition_penalty: float = 1.0
    """Above 1, tokens that the text has already are held for less likely."""
    suppress: tuple[int, ...] = ()
    """Ids of tokens that are never drawn."""
    schedule: str | None = None
    """How many tokens a step reveals: even, or released as in the paper's code (confidence, margin)."""
    confidence: float | None = None
    """Probability from which on a token is revealed (threshold; 0.9)."""
    bound: float | None = None
    """Sum of entropies in nats under which tokens are revealed together (entropy; 0.1)."""
    remasking: str | None = None
    """How many tokens are masked again: cap, rescale or loop (remask; cap)."""
    eta: float | None = None
    """How strongly, from 0 to 1 (remask; 0.02)."""
    by_confidence: bool = False
    """Mask improbable tokens again more often (remask)."""
    inner: str | None = None
    """The sampler inside a block (block; confidence)."""
    block_length: int | None = None
    """Tokens of a block (block; 32, or what the network was trained with)."""
    lookahead: int | None = None
    """Masks behind a block that the network sees; 0: the canvas grows block by block (block; all of them)."""
    cache: Literal["prefix", "block"] | None = None
    """Keep keys and values of a network that sees both ways: of what is before the masks (prefix), or of all but the
    masks that are looked at (block). Faster, and approximate; the result tells how far it drifted."""
    cache_refresh: int = 16
    """Changed tokens after which a cache is computed anew; 1 is exact."""
    drift_limit: float | None = None
    """Nats per token that a cache may be from exact; the refreshes adapt to it."""

    def arguments(self) -> dict[str, Any]:
        """Those of `LanguageModel.generate` and `infill`."""
        from unmask.generation import Cache
        from unmask.guidance import Ramp

        ramp = self.guidance_end is not None or self.guidance_until != 1
        common: dict[str, Any] = {
            "sampler": self.sampler,
            "steps": self.steps,
            "guidance": Ramp(self.guidance, self.guidance_end, self.guidance_until) if ramp else self.guidance,
            "top_k": self.top_k,
            "top_p": self.top_p,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "suppress": self.suppress,
            "cache": self.cache and Cache(self.cache, self.cache_refresh, self.drift_limit),
        }
        return common | {name: value for name in OWN_OPTIONS if (value := getattr(self, name)) not in (None, False)}
