"""The harness's names of tasks, tags and groups, found without parsing its thousands of files.

Its own index of them takes many seconds. Here the files' lines tell the single tasks, and that a name which stands in
no file is no task; only tags and groups need the index.
"""

from __future__ import annotations

import difflib
import importlib.util
import os
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from unmask.errors import UsageError

NAME_LINE = re.compile(r"^[\"']?(task|tag|group)[\"']?: *[\"']?([\w.+-]+)[\"']? *$", re.MULTILINE)
NOT_SEARCHED = {".py", ".pyc", ".md"}
"""Endings of files that name no tasks; task files may include those of any other."""


def require_harness() -> None:
    """Raise `UsageError` if lm-eval is not there; quiet its dozens of progress bars, as ours says how far it is."""
    if importlib.util.find_spec("lm_eval") is None:
        raise UsageError("lm-eval is not installed: pip install 'unmask[eval]'")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TQDM_DISABLE", "1")


@lru_cache(maxsize=1)
def file_texts() -> dict[Path, str]:
    """What stands in the harness's files of tasks, and in those that they include."""
    spec = importlib.util.find_spec("lm_eval.tasks")
    assert spec is not None
    assert spec.submodule_search_locations
    paths = sorted(Path(spec.submodule_search_locations[0]).rglob("*"))
    return {
        path: path.read_text(encoding="utf-8", errors="replace")
        for path in paths
        if path.suffix not in NOT_SEARCHED and path.is_file()
    }


@lru_cache(maxsize=1)
def task_files() -> dict[str, Path]:
    """The file of each task that says its name on a line of its own."""
    found: dict[str, Path] = {}
    for path, text in file_texts().items():
        names = [name for kind, name in NAME_LINE.findall(text) if kind == "task"]
        if names and path.suffix == ".yaml":
            found.setdefault(names[0], path)
    return found


@lru_cache(maxsize=1)
def task_index() -> dict[str, Any]:
    """The harness's entries of tasks, tags and groups by name; reading them all takes many seconds."""
    from lm_eval.tasks import TaskManager

    return dict(TaskManager().task_index)


@lru_cache(maxsize=1)
def plain_names() -> frozenset[str]:
    """The tasks, tags and groups that have their name on a line of its own: nearly all."""
    return frozenset(name for text in file_texts().values() for _, name in NAME_LINE.findall(text))


def require_known(names: Sequence[str]) -> None:
    """Raise `UsageError`, with the nearest names, on one that stands in none of the harness's files. Takes no torch."""
    for name in names:
        if name not in plain_names():
            word = re.compile(rf"(?<![\w.+-]){re.escape(name)}(?![\w.+-])")
            if not any(word.search(text) for text in file_texts().values()):
                raise _unknown(name)


def leaf_tasks(names: Sequence[str]) -> list[str]:
    """The single tasks that `names` of tasks, tags and groups stand for, each once, in order.

    Raises `UsageError` on an unknown name, with the nearest one.
    """
    require_known(names)
    if all(name in task_files() for name in names):
        return list(dict.fromkeys(names))
    found: dict[str, None] = {}
    index = task_index()

    def add(name: str) -> None:
        if name not in index:
            raise _unknown(name)
        entry = index[name]
        if entry.kind.name == "TAG":
            for each, other in index.items():
                if other.kind.name in ("TASK", "PY_TASK") and name in other.tags:
                    found[each] = None
        elif entry.kind.name == "GROUP":
            for member in cast("list[Any]", read_config(entry.yaml_path).get("task", [])):
                add(member if isinstance(member, str) else member.get("task", member.get("group")))
        else:
            found[name] = None

    for name in names:
        add(name)
    return list(found)


def task_config(name: str) -> dict[str, Any]:
    """The harness's definition of a single task."""
    return read_config(task_files().get(name) or task_index()[name].yaml_path)


def read_config(path: Path) -> dict[str, Any]:
    """The harness's definition in a file, with what it includes."""
    from lm_eval.tasks._yaml_loader import load_yaml

    return load_yaml(path)


def _unknown(name: str) -> UsageError:
    """With the nearest names; the harness has too many to list them."""
    near = difflib.get_close_matches(name, sorted(plain_names()), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    return UsageError(f"unknown task {name!r}: {hint}`lm_eval ls tasks` lists all of the harness")
