"""A corpus and runs so small that a step takes milliseconds."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unmask.config import RunConfig
from unmask.data.prepare import PrepareOptions, prepare
from unmask.train.loop import train
from unmask.train.metrics import Record

logging.getLogger("c10d-NullHandler-dcp_logger").setLevel(logging.WARNING)  # it fills the report of a failed test

WORDS = ["the", "state", "of", "our", "union", "is", "strong", "and", "we", "the", "people", "have", "work", "to", "do"]


def write_corpus(directory: Path, tokenizer: str = "bytes", documents: int = 60) -> Path:
    rng = random.Random(0)
    texts = directory / "texts"
    texts.mkdir(parents=True)
    for number in range(documents):
        (texts / f"{number:02}.txt").write_text(" ".join(rng.choices(WORDS, k=60)) + ".\n")
    prepare([texts], directory / "corpus", PrepareOptions(tokenizer=tokenizer, valid_fraction=0.2))
    return directory / "corpus"


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def tiny(corpus: Path) -> Callable[..., RunConfig]:
    """A run of 8 steps of 8 sequences of 16 tokens; fields override."""

    def config(**fields: Any) -> RunConfig:
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
        if "flops" in fields:
            del defaults["steps"]
        return RunConfig(**{**defaults, **fields})

    return config


@pytest.fixture(scope="session")
def finished(tiny: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Record]]:
    """The tiny run, uninterrupted: its directory and its records."""
    directory = tmp_path_factory.mktemp("finished") / "run"
    return directory, list(train(tiny(), directory))


def losses(records: list[Record]) -> dict[int, float]:
    """Step to training loss."""
    return {record["step"]: record["loss"] for record in records if record["kind"] == "train"}
