"""What the tests want of two processes, in one start of them.

    torchrun two_processes.py CORPUS DIRECTORY MDM ARM CONVERSATIONS

MDM and ARM are models to fine-tune. Every process leaves `DIRECTORY/results-RANK.json`: of each run its records, or its
error.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from tests.train.runs import tiny_run
from tests.train.sft_runs import sft

from unmask.errors import UnmaskError
from unmask.sft_config import SftConfig
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
    # a key's bias hardly has a gradient: below Adam's epsilon, rounding moves it by a share of the rate
    "tied": {
        "tied_embeddings": True,
        "qkv_bias": True,
        "size": "307K",
        "kv_heads": 2,
        "steps": 3,
        "learning_rate": 5e-4,
    },
    "begun-by-one": {},
    "signalled": {},
    "indivisible": {"batch_size": 7},
    "of-another": {"seed": 1},
}
"""Directory to fields; "begun-by-one" and "of-another" are there already, as the tests left them."""
PACKED: dict[str, Any] = {"packing": True, "padding": "masked", "turns": "all"}
SFT_RUNS: dict[str, dict[str, Any]] = {
    "sft-packed": {**PACKED, "prompt_drop": 0.3},
    "sft-packed-arm": {**PACKED, "model": "arm", "micro_batch_size": 1},
    "sft-lora": {"lora_rank": 2, "activation_checkpointing": True},
    "sft-packed-lora-to-mdm": {**PACKED, "model": "arm", "objective": "mdm", "lora_rank": 2},
    "sft-begun-by-one": {**PACKED, "lora_rank": 2},
}
"""Fine-tuning on conversations; "sft-begun-by-one" is there already."""


def sft_run(models: dict[str, str], conversations: str, *, model: str = "mdm", **fields: Any) -> SftConfig:
    """A run of 4 steps of 6 examples, with validation, the best model kept and answers on the way."""
    watched = {"validation_share": 0.1, "validate_every": 2, "sample_every": 2, "sample_prompts": 1, "sample_tokens": 4}
    return sft(models[model], conversations, **{"batch_size": 6, "checkpoint_every": 2, **watched, **fields})


def main() -> None:
    corpus, directory = Path(sys.argv[1]), Path(sys.argv[2])
    models, conversations = {"mdm": sys.argv[3], "arm": sys.argv[4]}, sys.argv[5]
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
    for name, fields in SFT_RUNS.items():
        run = sft_run(models, conversations, **fields)
        results[name] = list(train(run, directory / name, resume=name == "sft-begun-by-one"))
    (directory / f"results-{rank}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main()
