"""A run directory: claiming it for a run, and what the run leaves in it beside metrics and checkpoints.

    config.json      the run's configuration
    metrics.jsonl    all that was measured
    checkpoints/     to resume from
    tensorboard/     event files
    best/            the model of the lowest validation loss, where the run keeps it (`keep_best`)
    model/           the trained model in Hugging Face layout, once the run has ended; with LoRA its adapters are merged
                     into it, and lie in model/adapter/ on their own

A directory belongs to one run: another one is refused, so that nothing is ever overwritten.
"""

from __future__ import annotations

import datetime
import fcntl
import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from unmask import config as configs
from unmask import machine, model_directory, records
from unmask.config import ModelConfig, RunConfig
from unmask.data.digests import is_temporary, write_atomically
from unmask.errors import UnmaskError, UsageError
from unmask.model import Transformer
from unmask.records import Record
from unmask.sft_config import SftConfig
from unmask.train import lora
from unmask.train.parallel import World
from unmask.train.tasks import Task

CONFIG, METRICS = "config.json", "metrics.jsonl"
MODEL, BEST, WHICH = "model", "best", "best.json"
MAY_CHANGE = frozenset(
    {
        "data",  # a corpus may move; what it contains may not change
        "conversations",
        "validation_conversations",
        "tokenizer",
        "init_from",  # the weights are those of the checkpoint
        "micro_batch_size",
        "compile",
        "activation_checkpointing",
        "log_every",
        "validate_every",
        "keep_best",
        "sample_every",
        "sample_prompts",
        "sample_tokens",
        "checkpoint_every",
        "keep_checkpoints",
        "async_checkpoints",
        "tensorboard",
    }
)
"""Fields that a resumed run may have otherwise: they change how it is computed or reported, not what it learns."""
OF_OTHERS = frozenset({"failure.json"})
"""Files that a study may have put into a directory before its run begins."""


def size_name(run: RunConfig, config: ModelConfig) -> str:
    """What a record calls the size of the network: its name, or the parameters of one that came from elsewhere."""
    return run.size or (f"{config.params / 1e6:.0f}M" if config.params >= 1e6 else f"{config.params / 1e3:.0f}K")


@contextmanager
def claimed(directory: Path, run: RunConfig, task: Task, *, resume: bool, world: World) -> Generator[Record | None]:
    """Hold `directory` for `run`: a context whose value is the run's `end` record if it has ended already.

    A new directory gets its `config.json`. Raises `UsageError` if the directory holds anything else, the same run
    without `resume`, or a run on another corpus, and `UnmaskError` while another process trains in it.
    """
    locks: list[int] = []

    def claim() -> Record | None:
        if directory.exists() and not directory.is_dir():
            raise UsageError(f"{directory}: is a file: give --out another directory")
        directory.mkdir(parents=True, exist_ok=True)
        locks.append(_lock(directory))
        end = _check(directory, run, task, resume=resume)
        if end is None:
            write_atomically(directory / CONFIG, configs.to_json(run))
        return end

    try:
        yield world.on_main(claim)
    finally:
        for lock in locks:
            os.close(lock)


def start_record(
    run: RunConfig, config: ModelConfig, task: Task, model: Transformer, *, steps: int, first_step: int, world: World
) -> Record:
    """The first record of a run, and of each of its resumptions: what runs where."""
    frozen = any(not parameter.requires_grad for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return {
        "kind": "start",
        "step": first_step,
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine.describe(),
        "versions": machine.versions(),
        "processes": world.size,
        "device": world.device.type,
        "threads": torch.get_num_threads(),
        "objective": run.objective,
        "size": size_name(run, config),
        "params": config.params,
        **({"trained_params": trained} if frozen else {}),
        "steps": steps,
        "batch_size": run.batch_size,
        "length": run.length,
        "tokens": task.tokens(steps),
        "flops": 6.0 * config.params * task.tokens(steps),
        "flop_convention": "6nd",
        "seed": run.seed,
        "corpus": task.digest,
        **task.facts,
        "vocab_size": task.tokenizer.vocab_size,
        **({"init_from": run.init_from} if run.init_from else {}),
    }


def keep_best(
    directory: Path, step: int, loss: float, model: Transformer, run: RunConfig, task: Task, world: World
) -> Record:
    """Write the model as `directory/best` if its validation `loss` is the lowest so far; which step has that.

    `best/best.json` is written last: after a kill in between, the steps that are made again write both anew.
    """
    which = directory / BEST / WHICH

    def before() -> Record:
        try:
            return json.loads(which.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}

    best = world.on_main(before)
    if best and best["best_loss"] <= loss:
        return best
    save_model(directory / BEST, model, run, task, world)
    found: Record = {"best_step": step, "best_loss": loss}
    world.on_main(lambda: write_atomically(which, json.dumps(found) + "\n"))
    return found


def save_model(place: Path, model: Transformer, run: RunConfig, task: Task, world: World) -> None:
    """Write the model as the directory `place`; of sharded weights the main process gathers all.

    Raises `UnmaskError` if it cannot be written.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights: dict[str, Any] = get_model_state_dict(model, options=options) if world.size > 1 else model.state_dict()
    adapted = run if isinstance(run, SftConfig) and run.lora_rank else None

    def write() -> None:
        try:
            merged = weights if adapted is None else lora.merged(model.config, weights, adapted)
            model_directory.save(place, merged, config=model.config, tokenizer=task.tokenizer, objective=run.objective)
            if adapted is not None:
                lora.save(place / "adapter", weights, adapted)
        except (OSError, safetensors.SafetensorError) as error:
            raise UnmaskError(
                f"{place}: the model could not be written ({error}); the run is safe in its last checkpoint: "
                "make room and run again with --resume"
            ) from error

    world.on_main(write)


def _check(directory: Path, run: RunConfig, task: Task, *, resume: bool) -> Record | None:
    """Check that `directory` may be used for `run`; the `end` record of a run that has ended."""
    found = {path.name for path in directory.iterdir() if not is_temporary(path)} - OF_OTHERS
    if not found:
        return None
    if CONFIG not in found:
        raise UsageError(f"{directory}: holds something else than a run ({sorted(found)[0]}, ...): give another --out")
    _check_same(directory, run)
    seen = records.read(directory / METRICS)
    starts = [record for record in seen if record["kind"] == "start"]
    if starts:
        _check_data(directory, starts[-1], run, task)
    end = next((record for record in seen if record["kind"] == "end"), None)
    if not resume:
        state = "has ended" if end else f"is at step {max((r.get('step', 0) for r in seen), default=0)}"
        remedy = "give another --out" if end else "add --resume to go on, or give another --out"
        raise UsageError(f"{directory}: holds this run already, which {state}: {remedy}")
    return end


def _check_same(directory: Path, run: RunConfig) -> None:
    path = directory / CONFIG
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        other = not isinstance(before, dict) or "model_type" in before
    except ValueError as error:
        raise UnmaskError(f"{path}: not JSON ({error}): restore it, or give another --out") from None
    if other:
        raise UsageError(f"{directory}: holds something else than a run: give another --out")
    here = json.loads(configs.to_json(run))
    different = [
        f"{name} {before[name]!r} instead of {value!r}"
        for name, value in here.items()
        if name in before and before[name] != value and name not in MAY_CHANGE
    ]
    if different:
        raise UsageError(f"{directory}: holds another run ({', '.join(different)}): give another --out")


def _check_data(directory: Path, start: Record, run: RunConfig, task: Task) -> None:
    vocab_size = task.tokenizer.vocab_size
    if start.get("vocab_size", vocab_size) != vocab_size:
        raise UsageError(
            f"{directory}: the run's network has a vocabulary of {start['vocab_size']} and the corpus {run.data} one "
            f"of {vocab_size}: give --data the corpus that it began with, or another --out"
        )
    if start.get("corpus") not in (None, task.digest):
        named = run.data or "these conversations"
        raise UsageError(
            f"{directory}: the run began on another corpus than {named}: give --data that one, or another --out"
        )
    if start.get("base") != task.facts.get("base"):  # the weights that are frozen, and in no checkpoint
        raise UsageError(
            f"{directory}: the run began with other weights than those of {run.init_from}: give --model that one, "
            "or another --out"
        )


def _lock(directory: Path) -> int:
    """Keep other processes out of `directory`; the lock dies with this process. Returns what to close."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise UnmaskError(f"{directory}: another process is training in it: wait for it, or stop it") from None
    except OSError:
        pass  # a file system without locks
    return handle
