"""The harness's own tasks on local data: `DIR/<dataset_path>[/<dataset_name>]/<split>.jsonl[.xz]|.parquet|.arrow`.

Task definitions stay as lm-evaluation-harness ships them; only where their data comes from changes. A split that a
definition names and the folder lacks is left out: a task whose test split is not there is then evaluated on its
validation split, which the result says.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from unmask.errors import UnmaskError, UsageError
from unmask.evals.task_fields import check_documents, explain_failure
from unmask.evals.task_names import leaf_tasks, task_config

FORMATS = {
    ".jsonl": "json",
    ".jsonl.xz": "json",
    ".jsonl.gz": "json",
    ".json": "json",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
"""The reader of `datasets` for each ending."""
SPLIT_FIELDS = ("training_split", "validation_split", "test_split", "fewshot_split")


@dataclass(frozen=True)
class TaskData:
    """Where a task's documents come from."""

    dataset: str
    """As the harness names it: path, and name where there is one."""
    split: str
    """The split that is evaluated."""
    documents: int
    examples: str | None = None
    """The split that worked examples come from; None: from the documents that are evaluated, the one asked left out."""


def require_folder(data_dir: Path | None) -> None:
    """Raise `UsageError` if `data_dir` is given and not there."""
    if data_dir is not None and not data_dir.is_dir():
        raise UsageError(f"--data-dir {data_dir}: no such directory: unmask benchmark-data makes one")


def load_tasks(names: Sequence[str], data_dir: Path | None) -> tuple[list[Any], dict[str, TaskData]]:
    """The harness's task objects, and where each has its documents.

    With `data_dir` all data comes from there. Raises `UsageError` on an unknown task or one whose files are not there,
    and `UnmaskError` where data can't be read or fetched.
    """
    require_folder(data_dir)
    tasks: list[Any] = []
    data: dict[str, TaskData] = {}
    for name in leaf_tasks(names):
        task, config = _load(name, data_dir)
        tasks.append(task)
        dataset = "/".join(part for part in (config.get("dataset_path"), config.get("dataset_name")) if part)
        split = task.config.test_split or task.config.validation_split or ""
        examples = task.config.fewshot_split or task.config.training_split
        data[name] = TaskData(dataset, split, len(task.eval_docs), examples)
    return tasks, data


def local_splits(data_dir: Path, dataset_path: str, dataset_name: str | None) -> tuple[str, dict[str, Path]]:
    """The reader's name and the file of each split of a data set in `data_dir`; none if there are no files."""
    folder = data_dir / dataset_path
    if dataset_name:
        folder /= dataset_name
    elif not _files(folder) and (folder / "default").is_dir():
        folder /= "default"
    files = _files(folder)
    readers = {FORMATS[ending] for _, ending in files.values()}
    if len(readers) > 1:
        raise UsageError(f"{folder}: its splits are of several formats ({', '.join(sorted(readers))}): keep one")
    return next(iter(readers), ""), {split: path for split, (path, _) in files.items()}


def _files(folder: Path) -> dict[str, tuple[Path, str]]:
    found: dict[str, tuple[Path, str]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        for ending in FORMATS:
            if path.name.endswith(ending) and path.is_file():
                found.setdefault(path.name.removesuffix(ending), (path, ending))
    return found


def _load(name: str, data_dir: Path | None) -> tuple[Any, dict[str, Any]]:
    from datasets.exceptions import DatasetsError
    from jinja2 import TemplateError
    from lm_eval.api.task import ConfigurableTask

    config = task_config(name)
    if "class" in config:
        raise UsageError(f"task {name!r}: is made by the harness's own code, which unmask eval can't run: take another")
    changed = {key: value for key, value in config.items() if key not in ("tag", "group", "task_list")}
    if data_dir is not None:
        changed |= _overrides(name, config, data_dir)
    logging.getLogger("datasets").setLevel(logging.CRITICAL)  # what it has to say of a bad file is in our error
    try:
        task = cast("Any", ConfigurableTask(config=changed))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, TemplateError, DatasetsError) as error:
        if isinstance(error, UnmaskError):
            raise
        if data_dir is not None:
            gap = explain_failure(name, error, config, changed["dataset_path"], _evaluated_file(changed))
            if gap is not None:
                raise gap from error
        error = error.__cause__ if isinstance(error.__cause__, Exception) else error  # which says where in the file
        remedy = "give --data-dir with its files" if data_dir is None else f"check its files in {data_dir}"
        reason = f"no field {error}" if isinstance(error, KeyError) else _first_line(error)
        raise UnmaskError(f"task {name!r}: its data can't be loaded ({reason}): {remedy}") from error
    if not len(task.eval_docs):
        raise UsageError(f"task {name!r}: has no documents to evaluate: check its data")
    if data_dir is not None:
        check_documents(name, task.eval_docs, config, _evaluated_file(changed))
    return task, config


def _evaluated_file(config: dict[str, Any]) -> Path:
    return Path(config["dataset_kwargs"]["data_files"][config["test_split"] or config["validation_split"]])


def _overrides(name: str, config: dict[str, Any], data_dir: Path) -> dict[str, Any]:
    reader, files = local_splits(data_dir, config["dataset_path"], config.get("dataset_name"))
    wanted = [config[field] for field in ("test_split", "validation_split") if config.get(field)]
    if not any(split in files for split in wanted):
        folder = data_dir / config["dataset_path"] / (config.get("dataset_name") or "")
        names = " or ".join(f"{split}.jsonl" for split in wanted)
        raise UsageError(f"task {name!r}: no {names} (.jsonl.xz, .parquet, .arrow) in {folder}: put it there")
    named = {field: config.get(field) for field in SPLIT_FIELDS}
    used = {split for split in named.values() if split in files}
    for split in used:
        if not files[split].stat().st_size:
            raise UsageError(f"task {name!r}: {files[split]} is empty: put its documents there")
    return {
        "dataset_path": reader,
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {split: str(files[split]) for split in sorted(used)}},
        **{field: split if split in files else None for field, split in named.items()},
    }


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
