"""The tiny corpus and the tiny run, made once."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.train.runs import tiny_run, write_corpus
from tests.train.sft_runs import FILES, network

from unmask.config import RunConfig
from unmask.records import Record
from unmask.train.loop import train

logging.getLogger("c10d-NullHandler-dcp_logger").setLevel(logging.CRITICAL)  # it fills the report of a failed test


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def tiny(corpus: Path) -> Callable[..., RunConfig]:
    return functools.partial(tiny_run, corpus)


@pytest.fixture(scope="session")
def finished(tiny: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Record]]:
    """The tiny run, uninterrupted: its directory and its records."""
    directory = tmp_path_factory.mktemp("finished") / "run"
    return directory, list(train(tiny(), directory))


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Model directories by objective."""
    found: dict[str, str] = {}
    for objective in ("mdm", "arm"):
        directory = tmp_path_factory.mktemp("model") / objective
        network(objective).save(directory)
        found[objective] = str(directory)
    return found


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Conversation files by format, and "many" different ones."""
    directory = tmp_path_factory.mktemp("chats")
    many = [{"prompt": f"Say {n}: ", "completion": "abc" * (1 + n % 4)} for n in range(40)]
    for name, items in {**FILES, "many": many}.items():
        (directory / f"{name}.json").write_text(json.dumps(items))
    return {path.stem: str(path) for path in directory.iterdir()}
