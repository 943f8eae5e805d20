"""Reading `metrics.jsonl`, the record of a run, one JSON object a line, from which fits and reports are made. No torch.

`kind` is one of start, train, valid, skip, warning, end; `unmask.train.metrics` writes them. A run that is resumed from
a checkpoint writes the steps after it again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from unmask.errors import UnmaskError

Record = dict[str, Any]


def read(path: Path) -> list[Record]:
    """The records of a `metrics.jsonl`, in order; none if there is no file.

    Of records with the same kind, step, split and message the last one counts, and a last line that a kill cut short
    is left out. Raises `UnmaskError` on any other line that is not a record.
    """
    if not path.exists():
        return []
    latest: dict[tuple[Any, ...], Record] = {}
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            record: Record = json.loads(line)
            key = (record["kind"], record.get("step"), record.get("split"), record.get("message"))
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):
                continue
            raise UnmaskError(
                f"{path}: line {number} is not a record: restore the file, or make the run again"
            ) from error
        latest.pop(key, None)
        latest[key] = record
    return list(latest.values())
