"""What the tests want of two processes, in one start of them: torchrun two_processes.py CORPUS DIRECTORY.

Every process leaves `DIRECTORY/results-RANK.json`: of each run its records, or its error.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from tests.train.runs import tiny_run

from unmask.errors import UnmaskError
from unmask.train import parallel
from unmask.train.loop import train

RUNS: dict[str, dict[str, Any]] = {
    "mdm": {},
    "arm": {"objective": "arm", "steps": 3},
    "micro-batches": {"micro_batch_size": 1},
    "asynchronous": {"async_checkpoints": True, "checkpoint_every": 2},
    "recomputed": {"activation_checkpointing": True, "steps": 3},
    "compiled": {"compile": True, "steps": 3},
    "bfloat16": {"precision": "bfloat16", "steps": 3},
    "tied": {"tied_embeddings": True, "qkv_bias": True, "size": "307K", "kv_heads": 2, "steps": 3},
    "begun-by-one": {},
    "signalled": {},
    "indivisible": {"batch_size": 7},
    "of-another": {"seed": 1},
}
"""Directory to fields; "begun-by-one" and "of-another" are there already, as the tests left them."""


def main() -> None:
    corpus, directory = Path(sys.argv[1]), Path(sys.argv[2])
    rank = int(os.environ["RANK"])
    parallel.COMPILE_BACKEND = "aot_eager"  # all of torch.compile but the code generation
    results: dict[str, Any] = {}
    for name, fields in RUNS.items():
        records: list[dict[str, Any]] = []
        try:
            for record in train(tiny_run(corpus, **fields), directory / name, resume=name == "begun-by-one"):
                records.append(record)
                if name == "signalled" and rank == 1 and record["step"] == 4 and record["kind"] == "train":
                    os.kill(os.getpid(), signal.SIGTERM)
            results[name] = records
        except UnmaskError as error:
            results[name] = {"error": str(error), "status": error.exit_status, "elsewhere": error.told_elsewhere}
    (directory / f"results-{rank}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main()
