"""One evaluation from parts that were made apart: other tasks, or other items of a task (`unmask eval --offset`).

Metrics are made again from the figures of all items, as lm-evaluation-harness makes them: a mean with its standard
error, and LAMBADA's perplexity. The joined result has the part `unmask` alone (see `unmask.evals.evaluate`); what the
harness itself wrote belongs to one run and stays with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any, cast

import numpy as np

from unmask.errors import UsageError
from unmask.evals.evaluate import FORMAT, share_error

Part = dict[str, Any]
"""What one result has of one task: its figures under "task", the figures of its items under "items"."""

SAME = ("dataset", "split", "num_fewshot", "examples_from")
"""What the parts of a task must agree on."""
SUMMED = ("network_calls", "seconds", "truncated", "exact", "requests", "calls_saved", "batches_halved")
SHARES = ("acc_length_given", "acc_length_searched")
"""Shares of right answers whose items are not kept."""


def join(results: Sequence[dict[str, Any]], names: Sequence[str], *, model: str | None = None) -> dict[str, Any]:
    """One result of all tasks and items of `results`; `names` are their files, `model` what to call the model.

    Raises `UsageError` where they are not parts of one evaluation: another model (unless `model` is given), other
    settings or data, an item twice, or a metric that can't be made from parts.
    """
    if not results:
        raise UsageError("join: name at least one result of unmask eval --json")
    ours = [cast("dict[str, Any]", result["unmask"]) for result in results]
    _require_equal([each["model"] for each in ours] if model is None else [], names, "model", "name it by --model")
    _require_equal([_settings(each["settings"]) for each in ours], names, "settings", "evaluate with the same ones")
    tasks: dict[str, Any] = {}
    items: dict[str, Any] = {}
    for task in dict.fromkeys(task for each in ours for task in each["tasks"]):
        having = [(name, each) for name, each in zip(names, ours, strict=True) if task in each["tasks"]]
        parts: list[Part] = [{"task": each["tasks"][task], "items": each["items"].get(task)} for _, each in having]
        if len(parts) == 1:
            tasks[task], items[task] = parts[0]["task"], parts[0]["items"]
        else:
            tasks[task], items[task] = _join_task(task, parts, [name for name, _ in having])
    joined = {
        "format": FORMAT,
        "model": ours[0]["model"] if model is None else model,
        "machine": "; ".join(dict.fromkeys(str(each["machine"]) for each in ours)),
        "settings": ours[0]["settings"],
        "seconds": sum(each["seconds"] for each in ours),
        "tasks": tasks,
        "items": items,
    }
    return {"unmask": joined}


def _settings(settings: dict[str, Any] | None) -> dict[str, Any] | None:
    """Those that change a figure."""
    return settings and {key: value for key, value in settings.items() if key != "batch_size"}


def _require_equal(values: Sequence[Any], names: Sequence[str], what: str, remedy: str) -> None:
    for name, value in zip(names, values, strict=False):
        if value != values[0]:
            raise UsageError(f"{name}: {what}: {value}, but {values[0]} in {names[0]}: {remedy}")


def _join_task(task: str, parts: Sequence[Part], names: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The figures of a task and of its items, by the number of the item."""
    for key in SAME:
        _require_equal([part["task"][key] for part in parts], names, f"{key} of {task}", "evaluate on the same data")
    owners: dict[int, str] = {}
    for name, part in zip(names, parts, strict=True):
        failed = [error["doc_id"] for error in part["task"]["errors"]]
        if part["items"] is None or len(part["items"]["doc_id"]) != part["task"]["items"]:
            raise UsageError(f"{name}: has no figures of the items of {task}: evaluate again")
        for doc_id in (*part["items"]["doc_id"], *failed):
            if doc_id in owners:
                raise UsageError(f"{name}: item {doc_id} of {task} is in {owners[doc_id]} too: leave one of them out")
            owners[doc_id] = name
    ids = np.concatenate([part["items"]["doc_id"] for part in parts])
    order = np.argsort(ids)
    scored = [part for part in parts if part["task"]["items"]] or parts[:1]
    kept = [key for key in scored[0]["items"] if all(key in part["items"] for part in scored)]
    items = {key: np.concatenate([part["items"][key] for part in scored])[order].tolist() for key in kept}
    metrics = {
        metric: _join_metric(task, metric, scored, items.get(metric))
        for metric in scored[0]["task"]["metrics"]
        if all(metric in part["task"]["metrics"] for part in scored)
    }
    sums = {key: [part["task"].get(key) for part in parts] for key in SUMMED if key in parts[0]["task"]}
    figures: dict[str, Any] = {
        **{key: parts[0]["task"][key] for key in SAME},
        "items": len(ids),
        "errors": sorted((error for part in parts for error in part["task"]["errors"]), key=lambda e: e["doc_id"]),
        "metrics": metrics,
        **{key: None if None in values else sum(values) for key, values in sums.items()},
    }
    return figures, items


def _join_metric(task: str, metric: str, parts: Sequence[Part], values: list[float] | None) -> dict[str, float | None]:
    """Value and both errors; `values` are those of all items."""
    counts = np.array([part["task"]["items"] for part in parts])
    old = [part["task"]["metrics"][metric] for part in parts]
    total = int(counts.sum())
    masks = _of_mean([figures["stderr_estimate"] for figures in old], counts)
    if metric in SHARES:
        share = float(np.average([figures["value"] for figures in old], weights=counts))
        return {"value": share, "stderr_items": share_error(share, total), "stderr_estimate": masks}
    # of each item the log-likelihood is kept, in place of a perplexity
    made: Callable[[float], float] = _perplexity if metric == "perplexity" else float
    if values is None or not all(
        math.isclose(made(fmean(part["items"][metric])), figures["value"], rel_tol=1e-6, abs_tol=1e-9)
        for part, figures in zip(parts, old, strict=True)
    ):
        raise UsageError(f"join: {metric} of {task} is no mean over its items: evaluate all items in one run")
    mean = fmean(values)
    error = float(np.std(values, ddof=1) / math.sqrt(total))
    if metric == "perplexity":
        value = _perplexity(mean)
        relative = [each["stderr_estimate"] and each["stderr_estimate"] / each["value"] for each in old]
        masks = _of_mean(relative, counts)
        return {"value": value, "stderr_items": value * error, "stderr_estimate": masks and value * masks}
    return {"value": mean, "stderr_items": error, "stderr_estimate": masks}


def _perplexity(mean: float) -> float:
    return math.exp(-mean)


def _of_mean(errors: Sequence[float | None], counts: np.ndarray) -> float | None:
    """The error of the mean over all items from those of the means over each part."""
    known = [error for error in errors if error is not None]
    if len(known) < len(errors):
        return None
    return float(np.sqrt(np.sum((counts * np.array(known)) ** 2)) / counts.sum())
