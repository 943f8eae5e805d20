"""`unmask sample`: write text with a model, or fill in blanks; in a terminal one watches it happen."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from unmask.commands.sampling_options import SamplingOptions
from unmask.errors import UsageError
from unmask.wording import counted

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
    sampling: tyro.conf.OmitArgPrefixes[SamplingOptions] = field(default_factory=SamplingOptions)
    """How tokens are drawn."""
    temperature: float = 1.0
    """0 takes the likeliest token."""
    max_new_tokens: int = 64
    """Tokens to write after the prompt."""
    num_samples: int = 1
    """How many texts; the k-th has the seed + k."""
    seed: int = 0
    """The same seed gives the same text."""
    device: str = "auto"
    """Where to run: auto, cpu, cuda."""
    trace: Path | None = None
    """Write what each step revealed, and how confidently, to this JSON file, and a page that shows it beside it."""
    json: bool = False
    """Print one JSON object a line for each text."""


def run(options: Options) -> None:
    """Print the texts with their cost."""
    if options.num_samples < 1:
        raise UsageError(f"--num-samples {options.num_samples}: must be at least 1")
    if options.infill is not None and options.prompt:
        raise UsageError("--prompt and --infill exclude each other: write the prompt into the text with blanks")
    if options.trace is not None and options.trace.suffix == ".html":
        raise UsageError(f"--trace {options.trace}: is for JSON, and its page takes that name: give a name in .json")
    if options.chat and not options.prompt:
        raise UsageError("--chat: there is nothing to answer: give --prompt")

    from unmask import machine
    from unmask.language_model import load
    from unmask.samplers import Trace

    lm = load(options.model, options.device)
    machine.keep_freed_memory(lm.device)  # each step frees and takes the logits of all masked positions
    watched = sys.stdout.isatty() and not options.json
    traces: list[dict[str, Any]] = []
    for number in range(options.num_samples):
        seed = options.seed + number
        trace = Trace()
        generation = _watch(lm, options, seed, trace) if watched else _generate(lm, options, seed, trace.on_step)
        if generation.candidates and options.trace is not None:  # of all the lengths that were tried, the one taken
            trace = _of_length(lm, options, seed, generation.candidates[0].lengths)
        traces.append({"pieces": lm.pieces(generation.tokens), "steps": trace.steps, **generation.to_dict()})
        if options.json:
            print(json.dumps(generation.to_dict(), ensure_ascii=False))
        else:
            calls = counted(generation.network_calls, "network call")
            text = generation.fills[0].strip() if options.chat else generation.text
            print(f"{text}\n[{generation.sampler}, seed {seed}: {calls}, {generation.seconds:.2f} s]")
            _print_details(generation)
    if options.trace is not None:
        from unmask.report import trace_page

        written = {"model": str(options.model), "mask_id": lm.mask_id, "samples": traces}
        options.trace.write_text(json.dumps(written, ensure_ascii=False) + "\n", encoding="utf-8")
        page = trace_page.write(written, options.trace.with_suffix(".html"))
        if not options.json:
            print(f"[{page}]")


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


def _generate(lm: LanguageModel, options: Options, seed: int, on_step: OnStep | None = None) -> Generation:
    common: dict[str, Any] = {
        **options.sampling.arguments(),
        "temperature": options.temperature,
        "seed": seed,
        "on_step": on_step,
    }
    if options.infill is not None:
        return lm.infill(options.infill, **common)
    return lm.generate(options.prompt, chat=options.chat, max_new_tokens=options.max_new_tokens, **common)


def _of_length(lm: LanguageModel, options: Options, seed: int, lengths: list[int]) -> Trace:
    """The trace of a text whose blanks have these lengths; a row is the same whatever else is in its batch."""
    from unmask.infilling import with_lengths
    from unmask.samplers import Trace

    trace = Trace()
    assert options.infill is not None
    _generate(lm, replace(options, infill=with_lengths(options.infill, lengths)), seed, trace.on_step)
    return trace


def _watch(lm: LanguageModel, options: Options, seed: int, trace: Trace) -> Generation:
    from unmask.view import DenoisingView

    with DenoisingView(lm.pieces, lm.mask_id) as view:

        def on_step(state: Step) -> None:
            view.on_step(state)
            trace.on_step(state)

        return _generate(lm, options, seed, on_step)
