"""`unmask sample`: write text with a model, or fill in blanks; in a terminal one watches it happen."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from unmask.errors import UsageError

if TYPE_CHECKING:
    from unmask.language_model import Generation, LanguageModel
    from unmask.samplers import OnStep, Step, Trace


@dataclass(frozen=True)
class Options:
    """Write text after a prompt, or fill in the blanks of a text."""

    model: Annotated[Path, tyro.conf.Positional]
    """Model directory, or directory of a training run."""
    prompt: str = ""
    """Text to go on from."""
    chat: bool = False
    """The prompt is what a user says: put it into the model's chat template, and print the answer alone."""
    infill: str | None = None
    """Text with blanks to fill: _ stands for one token, __ for two, _[20] for twenty, _[2-8] for 2 to 8, of which the
    most likely number is taken."""
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
    temperature: float = 1.0
    """0 takes the likeliest token."""
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
    max_new_tokens: int = 64
    """Tokens to write after the prompt."""
    num_samples: int = 1
    """How many texts; the k-th has the seed + k."""
    seed: int = 0
    """The same seed gives the same text."""
    device: str = "auto"
    """Where to run: auto, cpu, cuda."""
    trace: Path | None = None
    """Write what each step revealed, and how confidently, to this JSON file."""
    json: bool = False
    """Print one JSON object a line for each text."""


def run(options: Options) -> None:
    """Print the texts with their cost."""
    if options.num_samples < 1:
        raise UsageError(f"--num-samples {options.num_samples}: must be at least 1")
    if options.infill is not None and options.prompt:
        raise UsageError("--prompt and --infill exclude each other: write the prompt into the text with blanks")
    if options.chat and not options.prompt:
        raise UsageError("--chat: there is nothing to answer: give --prompt")

    from unmask.language_model import load
    from unmask.samplers import Trace

    lm = load(options.model, options.device)
    watched = sys.stdout.isatty() and not options.json
    traces: list[dict[str, Any]] = []
    for number in range(options.num_samples):
        seed = options.seed + number
        trace = Trace()
        generation = _watch(lm, options, seed, trace) if watched else _generate(lm, options, seed, trace.on_step)
        traces.append({"pieces": lm.pieces(generation.tokens), "steps": trace.steps, **generation.to_dict()})
        if options.json:
            print(json.dumps(generation.to_dict(), ensure_ascii=False))
        else:
            calls = f"{generation.network_calls} network call{'s' if generation.network_calls != 1 else ''}"
            text = generation.fills[0].strip() if options.chat else generation.text
            print(f"{text}\n[{generation.sampler}, seed {seed}: {calls}, {generation.seconds:.2f} s]")
            _print_details(generation)
    if options.trace is not None:
        text = json.dumps({"model": str(options.model), "mask_id": lm.mask_id, "samples": traces}, ensure_ascii=False)
        options.trace.write_text(text + "\n", encoding="utf-8")


def _print_details(generation: Generation) -> None:
    """What a cache did, and the lengths that were tried, where there is something to tell."""
    cache = generation.cache
    if cache is not None:
        drift = "not measured" if cache.drift is None else f"{cache.drift:.2g} nats per token"
        kind = "exact" if cache.exact else f"approximate, drift {drift}"
        print(f"[cache: {cache.computed_share:.0%} of the positions computed, {kind}]")
    for candidate in generation.candidates:
        lengths = ", ".join(map(str, candidate.lengths))
        error = f" +- {candidate.standard_error:.3f}" if candidate.standard_error else ""
        print(f"[length {lengths}: {candidate.loss:.3f}{error} nats per token: {' | '.join(candidate.fills)}]")


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


def _generate(lm: LanguageModel, options: Options, seed: int, on_step: OnStep | None = None) -> Generation:
    from unmask.generation import Cache
    from unmask.guidance import Ramp

    guided = options.guidance_end is not None or options.guidance_until != 1
    common: dict[str, Any] = {
        "sampler": options.sampler,
        "steps": options.steps,
        "guidance": Ramp(options.guidance, options.guidance_end, options.guidance_until)
        if guided
        else options.guidance,
        "temperature": options.temperature,
        "top_k": options.top_k,
        "top_p": options.top_p,
        "min_p": options.min_p,
        "repetition_penalty": options.repetition_penalty,
        "suppress": options.suppress,
        "cache": options.cache and Cache(options.cache, options.cache_refresh, options.drift_limit),
        "seed": seed,
        "on_step": on_step,
    }
    common |= {name: value for name in OWN_OPTIONS if (value := getattr(options, name)) not in (None, False)}
    if options.infill is not None:
        return lm.infill(options.infill, **common)
    return lm.generate(options.prompt, chat=options.chat, max_new_tokens=options.max_new_tokens, **common)


def _watch(lm: LanguageModel, options: Options, seed: int, trace: Trace) -> Generation:
    from unmask.view import DenoisingView

    with DenoisingView(lm.pieces, lm.mask_id) as view:

        def on_step(state: Step) -> None:
            view.on_step(state)
            trace.on_step(state)

        return _generate(lm, options, seed, on_step)
