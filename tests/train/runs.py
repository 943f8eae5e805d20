"""A corpus and runs so small that a step takes milliseconds."""

from __future__ import annotations

import os
import random
import resource
import signal
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unmask.config import RunConfig
from unmask.data.prepare import PrepareOptions, prepare
from unmask.records import Record
from unmask.train.loop import train

WORDS = ["the", "state", "of", "our", "union", "is", "strong", "and", "we", "the", "people", "have", "work", "to", "do"]


def write_corpus(directory: Path, tokenizer: str = "bytes", documents: int = 60) -> Path:
    """Prepare some text in `directory/corpus`."""
    rng = random.Random(0)
    texts = directory / "texts"
    texts.mkdir(parents=True, exist_ok=True)
    for number in range(documents):
        (texts / f"{number:02}.txt").write_text(" ".join(rng.choices(WORDS, k=60)) + ".\n")
    prepare([texts], directory / "corpus", PrepareOptions(tokenizer=tokenizer, valid_fraction=0.2))
    return directory / "corpus"


def tiny_run(corpus: Path, **fields: Any) -> RunConfig:
    """A run of 8 steps of 8 sequences of 16 tokens; fields override."""
    defaults: dict[str, Any] = {
        "data": str(corpus),
        "size": "33K",
        "length": 16,
        "batch_size": 8,
        "steps": 8,
        "learning_rate": 3e-3,
        "log_every": 1,
        "checkpoint_every": 3,
        "validation_windows": 10,
        "short_share": 0.3,
        "tensorboard": False,
    }
    return RunConfig(**{**defaults, **fields})


def losses(records: Iterable[Record]) -> dict[int, float]:
    """Step to training loss."""
    return {record["step"]: record["loss"] for record in records if record["kind"] == "train"}


def stopped(run: RunConfig, directory: Path, step: int) -> list[Record]:
    """The records of a run that a SIGTERM ends in its `step`."""
    records: list[Record] = []
    for record in train(run, directory):
        records.append(record)
        if record["kind"] == "train" and record["step"] == step:
            os.kill(os.getpid(), signal.SIGTERM)
    assert records[-1]["kind"] == "stop"
    return records


@contextmanager
def files_of_at_most(size: int) -> Generator[None]:
    """What a full disk does to a write: the system refuses, in the middle of the file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
