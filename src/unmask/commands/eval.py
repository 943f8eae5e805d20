"""`unmask eval`: benchmark tasks through lm-evaluation-harness, with the estimator's error and cost."""

from __future__ import annotations

import hashlib
import importlib.util
import json as json_format
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import tyro

from unmask.errors import UnmaskError, UsageError
from unmask.wording import counted


@dataclass(frozen=True)
class Options:
    """Evaluate a model on benchmark tasks, by lm-evaluation-harness's own task definitions.

    An MDM's answers are scored by the bound on their likelihood, exactly where that is cheap; an ARM's exactly. The
    table gives two errors: of the choice of items, and of the choice of masks.
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """Model directory or directory of a training run; hf:NAME_OR_DIR is a causal model of Hugging Face."""
    tasks: Annotated[str, tyro.conf.arg(metavar="NAMES")]
    """Names of tasks in the harness, separated by commas; paper stands for the eight of the paper."""
    data_dir: Path | None = None
    """Local data, as DIR/<dataset_path>[/<dataset_name>]/<split>.jsonl[.xz]|.parquet|.arrow. None: the hub's."""
    estimator: str = "auto"
    """exact (all sets of masks), stratified, mc (the paper's), chain (left to right), or auto: exact if cheap."""
    num_samples: int = 128
    """Draws of masks; for auto, the most network calls that exact may take."""
    guidance: float = 0.0
    """Weight w of unsupervised classifier-free guidance; above 0 it takes twice the network calls."""
    adaptive: float | None = None
    """Stop drawing for options that are more than so many standard errors behind their question's best."""
    limit: int | None = None
    """Evaluate so many items of each task only, the first ones unless --offset says otherwise."""
    offset: int = 0
    """Pass over so many items of each task."""
    num_fewshot: int | None = None
    """Worked examples in each prompt; None leaves it to the task."""
    apply_chat_template: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Put each prompt into the model's chat template."""
    sampler: str | None = None
    """How texts are written where a task asks for them."""
    steps: int | None = None
    """Of that sampler; None is one for each token."""
    max_gen_toks: int = 256
    """Most tokens of such a text, unless the task says."""
    search_lengths: int = 8
    """LAMBADA's greedy answers are also searched for without telling their length, up to so many tokens; 0: not."""
    seed: int = 0
    """Of the masks."""
    batch_size: int | None = None
    """Rows in a batch; None goes by the memory. Changes nothing but memory and speed."""
    device: str = "auto"
    """Where to run: auto, cpu, cuda."""
    model_args: str = ""
    """For hf:, further arguments of the harness's class, such as gguf_file=model.gguf."""
    json: Path | None = None
    """Write the harness's result with our columns to this file; - prints it instead of the table.

    What is finished is kept beside the file until then: after an interruption the same command goes on from there.
    """
    log_samples: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Keep every document and answer in the file."""


def run(options: Options) -> None:
    """Evaluate, and print one row for each metric."""
    from unmask.evals.evaluate import PAPER_TASKS, Run, evaluate, nothing_scored, write
    from unmask.evals.task_names import require_harness

    require_harness()

    names = [name.strip() for name in options.tasks.split(",") if name.strip()]
    tasks = tuple(each for name in names for each in (PAPER_TASKS if name == "paper" else (name,)))
    job = Run(tasks, options.data_dir, options.limit, options.offset, options.num_fewshot, options.apply_chat_template)
    job.check()
    model = make_model(options)
    if options.json is None or str(options.json) == "-":
        result = evaluate(model, job, name=options.model)
    elif options.model.startswith("hf:"):
        cache = harness_cache(options, options.json)
        result = evaluate(model, job, name=options.model, cache=cache)
        write(result, options.json, samples=options.log_samples)
        for path in cache.parent.glob(f"{cache.name}_rank*.db"):
            path.unlink()
    else:
        with model.keep_in(options.json.with_name(f"{options.json.name}.finished.jsonl")) as finished:
            if finished.recovered:
                known = counted(finished.recovered, "finished batch", "finished batches")
                print(f"{finished.path}: going on with {known}", file=sys.stderr)
            if finished.others:
                print(f"{finished.path}: of another run ({', '.join(finished.others)}): begun anew", file=sys.stderr)
            result = evaluate(model, job, name=options.model)
            write(result, options.json, samples=options.log_samples)
            finished.remove()
    if options.json is not None and str(options.json) == "-":
        print(json_format.dumps(result["unmask"], indent=1, default=str))
    else:
        print_table(result["unmask"])
    nothing = [(task, each["errors"]) for task, each in result["unmask"]["tasks"].items() if not each["items"]]
    if nothing:
        raise UsageError("; ".join(nothing_scored(*each) for each in nothing))


def harness_cache(options: Options, out: Path) -> Path:
    """Where the harness keeps what a model of its own has answered: a name for each model and its files' state."""
    name = options.model.removeprefix("hf:")
    files = sorted(Path(name).iterdir()) if Path(name).is_dir() else []
    state = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    digest = hashlib.blake2b(repr((name, options.model_args, state)).encode(), digest_size=8).hexdigest()
    return out.with_name(f"{out.name}.{digest}")


def make_model(options: Options) -> Any:
    """The model as the harness wants it."""
    if options.model.startswith("hf:"):
        if options.guidance or options.estimator not in ("auto", "exact"):
            raise UsageError("--guidance, --estimator: a Hugging Face causal model has no mask token: leave them out")
        if importlib.util.find_spec("accelerate") is None:
            raise UsageError("hf: needs accelerate, which is not installed: pip install 'unmask[eval]'")
        import torch
        from lm_eval import utils
        from lm_eval.api.registry import get_model

        here = "cuda" if torch.cuda.is_available() else "cpu"
        arguments: dict[str, Any] = {
            "pretrained": options.model.removeprefix("hf:"),
            "batch_size": options.batch_size or 16,
            "device": here if options.device == "auto" else options.device,
            **cast("Any", utils).simple_parse_args_string(options.model_args),
        }
        try:
            return get_model("hf")(**arguments)
        except (OSError, ValueError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise UnmaskError(
                f"{options.model}: no model that Transformers opens ({reason}): check its name"
            ) from error
    from unmask import machine
    from unmask.evals.harness import UnmaskLM

    model = UnmaskLM(
        options.model,
        guidance=options.guidance,
        estimator=options.estimator,
        num_samples=options.num_samples,
        adaptive=options.adaptive,
        seed=options.seed,
        batch_size=options.batch_size,
        device=options.device,
        max_gen_toks=options.max_gen_toks,
        sampler=options.sampler,
        steps=options.steps,
        search_lengths=options.search_lengths,
    )
    machine.keep_freed_memory(model.lm.device)
    return model


def print_table(summary: dict[str, Any]) -> None:
    """One row for each metric of each task."""
    from rich.console import Console
    from rich.table import Table

    from unmask.evals.compare import figure

    table = Table(box=None, pad_edge=False)
    table.add_column("task", no_wrap=True)
    table.add_column("metric", no_wrap=True)
    for title in ("value", "± items", "± masks", "items", "calls", "seconds"):
        table.add_column(title, justify="right", no_wrap=True)
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console = Console(highlight=False, soft_wrap=True, width=200)
    for task, figures in summary["tasks"].items():
        first = True
        for metric, each in figures["metrics"].items():
            ends = [figures["items"], figures["network_calls"], figures["seconds"]] if first else [None] * 3
            table.add_row(
                task if first else "",
                metric,
                *(figure(each[key]) for key in ("value", "stderr_items", "stderr_estimate")),
                "" if ends[0] is None else f"{ends[0]:,}",
                "" if ends[1] is None else f"{ends[1]:,}",
                "" if ends[2] is None else f"{ends[2]:.1f}",
            )
            first = False
    console.print(table)
    for task, figures in summary["tasks"].items():
        if figures["split"] not in ("test", "validation"):
            console.print(f"{task}: evaluated on {figures['split']}")
        if figures["examples_from"] == figures["split"]:
            console.print(f"{task}: its examples come from {figures['split']} too, as there is no training split")
        if figures["truncated"]:
            cut = f"{figures['truncated']:,} of {counted(figures['requests'], 'prompt')}"
            console.print(f"{task}: {cut} cut on the left to fit the context")
        if figures["errors"] and figures["items"]:
            first = figures["errors"][0]
            left_out = counted(len(figures["errors"]), "item")
            console.print(f"{task}: {left_out} left out, without a score; item {first['doc_id']}: {first['error']}")
        if figures["calls_saved"]:
            console.print(f"{task}: {counted(figures['calls_saved'], 'network call')} saved by stopping early")
