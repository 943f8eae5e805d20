"""`unmask frontier`: speed against quality, an MDM's samplers beside an ARM with its cache."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.errors import UsageError

if TYPE_CHECKING:
    from unmask.evals.frontier import Measured
    from unmask.language_model import LanguageModel

FORMAT = "unmask-frontier-1"
DEFAULT_SAMPLERS = ("ancestral", "confidence")


@dataclass(frozen=True)
class Options:
    """Seconds for a sample against quality: every sampler at every number of steps and guidance weight, and an ARM.

    Same prompts, same lengths, same machine, one run; medians after a warm-up. Quality is compared at equal entropy.
    Writes frontier.json, frontier.csv, samples.jsonl, figures and index.html.
    """

    mdm: Path
    """Masked model: its directory, or that of its run."""
    arm: Path
    """Autoregressive model with the same tokenizer, for comparison."""
    out: Path
    """Folder for the result."""
    reference: str = ""
    """Autoregressive model that judges the texts: a folder of ours or of Transformers. Empty: the ARM itself, which
    flatters it."""
    samplers: tuple[str, ...] = DEFAULT_SAMPLERS
    """Samplers of the MDM, with options as in block:inner=margin or confidence:cache=block,cache_refresh=8."""
    steps: tuple[int, ...] = (4, 8, 16, 32)
    """Numbers of steps."""
    guidance: tuple[float, ...] = (0.0,)
    """Guidance weights."""
    block_lengths: tuple[int, ...] = ()
    """Lengths of the block sampler's blocks."""
    temperatures: tuple[float, ...] = (1.0,)
    """Temperatures of the MDM."""
    arm_temperatures: tuple[float, ...] = (1.0, 0.9, 0.8, 0.7, 0.5)
    """Temperatures of the ARM, whose texts of each entropy the MDM's are compared with; the first one is timed."""
    prompts: Path | None = None
    """Text file with a prompt a line. None: from the beginning."""
    max_new_tokens: int = 64
    """Tokens to write after each prompt."""
    num_samples: int = 64
    """Texts of each setting that are judged."""
    batch: tuple[int, ...] = (1, 8)
    """Samples at a time."""
    rounds: int = 5
    """Rounds of timing, in which the settings take turns."""
    seed: int = 0
    """The same seed gives the same texts."""
    device: str = "auto"
    """Where to run: auto, cpu, cuda."""


def run(options: Options) -> None:
    """Measure, write the result, and print the table and what it says."""
    for name in ("max_new_tokens", "num_samples", "rounds"):
        least = 2 if name == "num_samples" else 1
        if getattr(options, name) < least:
            raise UsageError(f"--{name.replace('_', '-')} {getattr(options, name)}: must be at least {least}")
    if not options.batch or min(options.batch) < 1 or len(set(options.batch)) < len(options.batch):
        raise UsageError(f"--batch {' '.join(map(str, options.batch))}: give different numbers from 1 on")
    if not options.arm_temperatures or min(options.arm_temperatures) < 0:
        raise UsageError("--arm-temperatures: give at least one, none below 0")
    from unmask.evals.frontier_settings import Setting, grid

    masked = grid(options.samplers, options.steps, options.guidance, options.block_lengths, options.temperatures)
    arms = [Setting("arm", "autoregressive", temperature=each) for each in dict.fromkeys(options.arm_temperatures)]
    prompts = _prompts(options.prompts)

    from rich.console import Console

    from unmask import machine, model_directory
    from unmask.evals import frontier
    from unmask.evals.reference_model import open_reference
    from unmask.language_model import load
    from unmask.report import frontier_page

    models = {"mdm": load(options.mdm, options.device), "arm": load(options.arm, options.device)}
    machine.keep_freed_memory(models["mdm"].device)
    _check(models, options)
    reference_name = options.reference or str(options.arm)
    reference = open_reference(reference_name, options.device)
    work = frontier.Workload(
        tuple(prompts),
        options.max_new_tokens,
        options.seed,
        {name: _end_of_text(lm) for name, lm in models.items()},
    )
    console = Console(stderr=True)
    with console.status("opening") as status:  # nothing is drawn where this is no terminal
        found = frontier.run(
            models,
            [*masked, *arms],
            [*masked, arms[0]],
            work,
            num_samples=options.num_samples,
            batches=options.batch,
            rounds=options.rounds,
            on_progress=status.update,
        )
        frontier.judge(found, reference, status.update, options.seed)
        status.update("comparing")
        speedups = frontier.speedups(found, options.seed)
    result: dict[str, Any] = {
        "format": FORMAT,
        "machine": machine.describe(),
        "versions": machine.versions(),
        "command": "unmask " + shlex.join(sys.argv[1:]),
        "models": {
            name: {"name": model_directory.short_name(path), "params": models[name].config.params}
            for name, path in (("mdm", options.mdm), ("arm", options.arm))
        },
        "reference": model_directory.short_name(Path(reference_name)),
        "prompts": len(prompts),
        "new_tokens": options.max_new_tokens,
        "samples": options.num_samples,
        "batches": list(options.batch),
        "rounds": options.rounds,
        "seed": options.seed,
        "speedups": [dataclasses.asdict(each) for each in speedups],
        "settings": [_setting(each, options.max_new_tokens) for each in found],
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "frontier.json").write_text(
        json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    with (options.out / "samples.jsonl").open("w", encoding="utf-8") as file:
        for each in found:
            for sample in each.texts:
                record = {"setting": each.setting.label, "prompt": sample.prompt, "text": sample.prompt + sample.text}
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
    page = frontier_page.write(result, options.out)
    _print(result)
    for each in result["speedups"]:
        print(frontier_page.headline(each))
    print(f"[{page}]")


def _prompts(path: Path | None) -> list[str]:
    if path is None:
        return [""]
    if not path.is_file():
        raise UsageError(f"--prompts {path}: no such file: give a text file with a prompt a line")
    prompts = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not prompts:
        raise UsageError(f"--prompts {path}: no prompt in it: write one a line")
    return prompts


def _check(models: dict[str, LanguageModel], options: Options) -> None:
    if models["mdm"].config.causal:
        raise UsageError(f"--mdm {options.mdm}: is autoregressive: name a masked model")
    if not models["arm"].config.causal:
        raise UsageError(f"--arm {options.arm}: is a masked model: name an autoregressive one")
    if not models["mdm"].tokenizer.same_tokens(models["arm"].tokenizer):
        raise UsageError(
            f"--arm {options.arm}: has another tokenizer than {options.mdm}, so that as many tokens are not as much "
            "text: train both on one corpus"
        )


def _end_of_text(lm: LanguageModel) -> frozenset[int]:
    return frozenset() if lm.tokenizer.eos_id is None else frozenset({lm.tokenizer.eos_id})


def _setting(each: Measured, new_tokens: int) -> dict[str, Any]:
    figures = each.figures
    assert figures is not None
    setting = each.setting
    return {
        "label": setting.label,
        **dataclasses.asdict(setting),
        "network_calls": each.network_calls,
        **{name: _asdict(getattr(figures, name)) for name in ("loss", "perplexity", "entropy", "repetition")},
        "gap": _asdict(each.gap),
        "timings": [
            {
                "batch": timing.batch,
                "seconds_per_sample": timing.per_sample(),
                "tokens_per_second": new_tokens / timing.per_sample(),
                "first_token_seconds": timing.first_token,
                "seconds": timing.seconds,
            }
            for timing in each.timings
        ],
        "example": each.texts[0].prompt + each.texts[0].text,
    }


def _asdict(figure: Any) -> dict[str, Any] | None:
    return None if figure is None else dataclasses.asdict(figure)


def _print(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table

    console = Console()
    table = Table(box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    for head in ("calls", "perplexity", "entropy", "gap", *(f"s/sample x{batch}" for batch in result["batches"])):
        table.add_column(head, justify="right", no_wrap=True)
    for each in result["settings"]:
        gap = each["gap"]
        table.add_row(
            each["label"],
            f"{each['network_calls']:.0f}",
            f"{each['perplexity']['value']:.1f}",
            f"{each['entropy']['value']:.2f}",
            "-" if gap is None or not each["timings"] else f"{gap['value']:+.2f} ± {gap['standard_error']:.2f}",
            *([f"{timing['seconds_per_sample']:.4f}" for timing in each["timings"]] or ["-"] * len(result["batches"])),
        )
    needed = Measurement.get(console, console.options.update(max_width=1000), table).maximum
    console.width = max(console.width, needed)  # figures are not worth breaking
    console.print(table)
