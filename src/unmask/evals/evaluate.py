"""Run benchmark tasks through lm-evaluation-harness, and add what it does not tell: the estimator's error and cost.

The result is the harness's own JSON with one more part, `unmask`:

    {"format": "unmask-eval-1", "model": "runs/first", "machine": "...", "settings": {...},
     "tasks": {"piqa": {"dataset": "baber/piqa", "split": "validation", "items": 1838, "network_calls": 229384,
                        "seconds": 61.2, "truncated": 0, "calls_saved": 0, "errors": [],
                        "metrics": {"acc": {"value": 0.61, "stderr_items": 0.011, "stderr_estimate": 0.002}, ...}}},
     "items": {"piqa": {"doc_id": [0, 1, ...], "acc": [1.0, 0.0, ...], ...}}}

`stderr_items` is the sampling error of the items, `stderr_estimate` what the choice of masks adds: the two are
independent. Items that can't be scored (an answer without tokens, or longer than the context or than the estimator
takes) are left out and listed in `errors`; a task that has nothing but such items has no metrics.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from unittest import mock

import numpy as np

from unmask import machine
from unmask.errors import UnmaskError, UsageError
from unmask.evals.offline import TaskData, load_tasks, require_folder
from unmask.evals.request_log import Record, Spent
from unmask.evals.task_names import require_known
from unmask.wording import counted

if TYPE_CHECKING:
    from unmask.evals.harness import UnmaskLM

FORMAT = "unmask-eval-1"
PAPER_TASKS = (
    "hellaswag",
    "openbookqa",
    "arc_easy",
    "boolq",
    "piqa",
    "social_iqa",
    "race",
    "lambada_openai",
)
"""The eight of the paper, by their names in the harness."""
REPLICATES = 500
"""Draws of the option scores from their errors, to see how often the choice changes."""


@dataclass(frozen=True)
class Run:
    """What to evaluate."""

    tasks: tuple[str, ...]
    data_dir: Path | None = None
    limit: int | None = None
    offset: int = 0
    """Items of each task that are passed over."""
    num_fewshot: int | None = None
    apply_chat_template: bool = False
    documents: dict[str, list[int]] | None = None
    """For some tasks the documents to evaluate, in place of `limit` and `offset`."""

    def check(self) -> None:
        """Raise `UsageError` on what can be told to be wrong without a model and without torch."""
        if not self.tasks:
            raise UsageError("--tasks: name at least one task")
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"--limit {self.limit}: must be at least 1 item")
        if self.offset < 0:
            raise UsageError(f"--offset {self.offset}: must not be negative")
        if self.num_fewshot is not None and self.num_fewshot < 0:
            raise UsageError(f"--num-fewshot {self.num_fewshot}: must not be negative")
        require_folder(self.data_dir)
        require_known(self.tasks)


def evaluate(model: Any, run: Run, *, name: str = "", cache: Path | None = None) -> dict[str, Any]:
    """Evaluate an `UnmaskLM`, or any other model of the harness, and return the result.

    `cache` is where the harness keeps the finished requests of a model that is not ours; `UnmaskLM.keep_in` is for
    ours. Raises `UsageError` on an unknown task, a limit below 1, an offset that leaves no item, data that is not
    there, or no item that can be scored.
    """
    run.check()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    from lm_eval import evaluator
    from lm_eval.tasks import TaskManager

    from unmask.evals.harness import UnmaskLM

    tasks, data = load_tasks(run.tasks, run.data_dir)
    shots = {task.config.task: _examples(task, data[task.config.task], run) for task in tasks}
    documents = {task: _documents(task, data[task].documents, run) for task in data}
    ours = model if isinstance(model, UnmaskLM) else None
    no_index = TaskManager(include_defaults=False)  # the tasks are made already; its index takes seconds
    errors: dict[str, list[dict[str, Any]]] = {task: [] for task in data}
    begun = time.perf_counter()
    while True:
        if ours is not None:
            ours.log.records.clear()
            ours.templated, ours.leaves_out = False, True
        # the harness prints, and git complains where the working directory is no repository
        with contextlib.redirect_stdout(io.StringIO()), mock.patch.object(evaluator, "get_git_commit_hash", str):
            found = cast(
                "dict[str, Any]",
                cast("Any", evaluator).simple_evaluate(
                    model,
                    tasks=tasks,
                    num_fewshot=run.num_fewshot,
                    samples=documents,
                    bootstrap_iters=1000,
                    apply_chat_template=run.apply_chat_template,
                    task_manager=no_index,
                    use_cache=None if cache is None else str(cache),
                ),
            )
        failed = _failed(ours, documents) if ours is not None else {}
        if not failed:
            break
        for task, messages in failed.items():  # once more without these; what is known is not computed again
            errors[task] += [{"doc_id": doc_id, "error": message} for doc_id, message in messages.items()]
            documents[task] = [doc_id for doc_id in documents[task] if doc_id not in messages]
            if not documents[task]:
                del documents[task]
        if not documents:
            raise UsageError("; ".join(nothing_scored(task, errors[task]) for task in errors))
        tasks, _ = load_tasks(list(documents), run.data_dir)
    seconds = time.perf_counter() - begun + (ours.finished.saved_seconds if ours is not None else 0)
    found["unmask"] = {
        "format": FORMAT,
        "model": name or (ours.name if ours else str(model)),
        "machine": machine.describe(),
        "settings": None if ours is None else asdict(ours.settings),
        "seconds": seconds,
        "tasks": {task: _summary(task, found, data[task], shots[task], ours, errors[task], seconds) for task in data},
        "items": {task: _items(found["samples"].get(task, [])) for task in data},
    }
    return found


def nothing_scored(task: str, errors: Sequence[dict[str, Any]]) -> str:
    """What to say of a task of which every item is an error."""
    count, first = len(errors), errors[0]
    what = f"none of its {count:,} items can be scored" if count > 1 else "its only item can't be scored"
    return f"task {task!r}: {what}; item {first['doc_id']}: {first['error']}"


def write(result: dict[str, Any], path: Path, *, samples: bool = False) -> None:
    """Write the result as JSON, in one step; the documents and prompts only with `samples`."""
    kept = {key: value for key, value in result.items() if samples or key != "samples"}
    for task, config in cast("dict[str, Any]", kept.get("configs", {})).items():
        kwargs: dict[str, Any] = config.pop("dataset_kwargs", None) or {}  # where the data lay on this machine
        if kwargs.get("data_files"):
            config["dataset_path"] = result["unmask"]["tasks"].get(task, {}).get("dataset")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".part")
    draft.write_text(json.dumps(kept, indent=1, default=str, ensure_ascii=False) + "\n", encoding="utf-8")
    draft.replace(path)


def read(path: Path) -> dict[str, Any]:
    """A result written by `write`. Raises `UsageError` if the file is none."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file: unmask eval MODEL --json {path} makes one") from None
    except ValueError as error:
        raise UnmaskError(f"{path}: not JSON ({error}): evaluate again") from None
    ours = cast("dict[str, Any]", result).get("unmask") if isinstance(result, dict) else None
    if not isinstance(ours, dict) or cast("dict[str, Any]", ours).get("format") != FORMAT:
        raise UsageError(f"{path}: not a result of unmask eval: give its --json file")
    return cast("dict[str, Any]", result)


def _documents(task: str, total: int, run: Run) -> list[int]:
    if run.documents is not None and task in run.documents:
        return list(run.documents[task])
    if run.offset >= total:
        raise UsageError(f"--offset {run.offset}: task {task!r} has {counted(total, 'item')}: pass over fewer")
    return list(range(run.offset, total if run.limit is None else min(total, run.offset + run.limit)))


def _examples(task: Any, data: TaskData, run: Run) -> int:
    """How many worked examples a prompt has. Raises `UsageError` if there are not so many."""
    own = task.config.num_fewshot
    wanted = own if run.num_fewshot is None or own == 0 else run.num_fewshot
    if wanted:
        there = len(task.fewshot_docs()) - (data.examples is None)  # without the item that is asked
        if wanted > there:
            raise UsageError(
                f"--num-fewshot {wanted}: task {task.config.task!r} has {counted(there, 'item')} to take worked "
                "examples from: ask for fewer, or give it a training split"
            )
    return wanted or 0


def _failed(model: UnmaskLM, documents: dict[str, list[int]]) -> dict[str, dict[int, str]]:
    """By task, the documents that could not be scored, and why."""
    failed: dict[str, dict[int, str]] = {}
    for (task, place, _), record in model.log.records.items():
        if record.error and task in documents:
            failed.setdefault(task, {})[documents[task][place]] = record.error
    return failed


def _items(samples: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """The figures of each item, for paired comparisons."""
    columns: dict[str, list[Any]] = {"doc_id": []}
    seen: set[int] = set()
    for sample in samples:
        first = sample["doc_id"] not in seen
        seen.add(sample["doc_id"])
        if first:
            columns["doc_id"].append(sample["doc_id"])
        for metric in sample["metrics"]:
            value = sample[metric]
            if isinstance(value, (bool, int, float)):
                key = metric if sample["filter"] == "none" else f"{metric},{sample['filter']}"
                columns.setdefault(key, []).append(float(value))
    whole = len(columns["doc_id"])
    return {key: values for key, values in columns.items() if len(values) == whole}


def _summary(
    task: str,
    found: dict[str, Any],
    data: TaskData,
    shots: int,
    model: UnmaskLM | None,
    errors: list[dict[str, Any]],
    seconds: float,
) -> dict[str, Any]:
    samples = cast("list[dict[str, Any]]", found["samples"].get(task, []))
    metrics: dict[str, dict[str, float | None]] = {}
    for key, value in found["results"].get(task, {}).items():
        metric, _, filter_name = key.partition(",")
        if metric.endswith("_stderr") or not isinstance(value, (int, float)) or isinstance(value, bool):
            continue
        if not filter_name:
            continue
        items_error = found["results"][task].get(f"{metric}_stderr,{filter_name}")
        metrics[metric if filter_name == "none" else f"{metric},{filter_name}"] = {
            "value": float(value),
            "stderr_items": float(items_error) if isinstance(items_error, (int, float)) else None,
            "stderr_estimate": 0.0 if model is None else None,
        }
    summary: dict[str, Any] = {
        "dataset": data.dataset,
        "split": data.split,
        "items": len({sample["doc_id"] for sample in samples}),
        "num_fewshot": shots,
        "examples_from": data.examples or data.split if shots else None,
        "errors": errors,
        "metrics": metrics,
    }
    if model is None:
        own = seconds if len(found["results"]) == 1 else None  # the harness tells no more
        return {**summary, "network_calls": None, "seconds": own, "truncated": None, "calls_saved": None}
    records: dict[int, dict[int, Record]] = {}
    for (name, place, number), record in model.log.records.items():
        if name == task:
            records.setdefault(place, {})[number] = record
    spent = model.log.spent.get(task, Spent())
    every = [record for options in records.values() for record in options.values()]
    places = {doc_id: place for place, doc_id in enumerate(dict.fromkeys(sample["doc_id"] for sample in samples))}
    delimiter = str(found["configs"].get(task, {}).get("target_delimiter", " "))
    for metric, figures in metrics.items():
        figures["stderr_estimate"] = _estimate_error(metric, samples, records, places, delimiter)
    searched = [record.greedy_searched for record in every if record.greedy_searched is not None]
    if searched and "acc" in metrics:
        # the harness's accuracy tells the network how long the answer is
        metrics["acc_length_given"] = dict(metrics["acc"])
        share = sum(searched) / len(searched)
        error = share_error(share, len(searched))
        metrics["acc_length_searched"] = {"value": share, "stderr_items": error, "stderr_estimate": 0.0}
    return {
        **summary,
        "network_calls": spent.network_calls,
        "seconds": spent.seconds,
        "truncated": sum(record.truncated > 0 for record in every),
        "exact": sum(record.exact for record in every),
        "requests": len(every),
        "calls_saved": spent.calls_saved,
        "batches_halved": spent.batches_halved,
    }


def share_error(share: float, items: int) -> float:
    """The standard error of a share of so many items."""
    return math.sqrt(share * (1 - share) / max(1, items - 1))


def _estimate_error(
    metric: str,
    samples: Sequence[dict[str, Any]],
    records: dict[int, dict[int, Record]],
    places: dict[int, int],
    delimiter: str,
) -> float | None:
    """What the choice of masks adds to the error of a metric; None for metrics that this is not known of."""
    if metric in ("acc", "acc_norm") and all(len(options) > 1 for options in records.values()):
        variance = 0.0
        random = np.random.default_rng(0)
        for sample in samples:
            options = records[places[sample["doc_id"]]]
            values = np.array([options[number].log_likelihood for number in sorted(options)])
            errors = np.array([options[number].standard_error for number in sorted(options)])
            if not errors.any():
                continue
            if metric == "acc_norm":
                texts = [str(arguments[1]).removeprefix(delimiter) for arguments in sample["arguments"]]
                lengths = np.array([max(1, len(text)) for text in texts[: len(values)]])
                values, errors = values / lengths, errors / lengths
            target = sample["target"]
            if not isinstance(target, int) or np.isnan(errors).any():
                return None
            drawn = values + errors * random.standard_normal((REPLICATES, len(values)))
            right = float((drawn.argmax(axis=1) == target).mean())
            variance += right * (1 - right)
        return math.sqrt(variance) / len(samples)
    firsts = [options[min(options)] for options in records.values()]
    if metric == "acc":
        return 0.0  # greedy decoding draws nothing
    total = math.sqrt(sum(record.standard_error**2 for record in firsts))
    if metric == "perplexity":
        mean = sum(record.log_likelihood for record in firsts) / len(firsts)
        return math.exp(-mean) * total / len(firsts)
    return None
