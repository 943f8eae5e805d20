"""What the recipes share that train on a small file of their own: new models of a named size, and the training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from unmask import model_directory, objectives, seeding
from unmask.config import ModelConfig
from unmask.data.digests import write_atomically
from unmask.data.tokenizer import Tokenizer
from unmask.errors import UsageError
from unmask.language_model import LanguageModel
from unmask.model import Transformer
from unmask.sft_config import SftConfig

RUN = "run"
"""The training of a model, in its folder beside where it starts from."""


def examples_file(path: Path, lines: Sequence[Mapping[str, str]], what: str) -> Path:
    """Write what is trained on as JSON lines, called `what` in messages.

    Raises `UsageError` where a model beside `path` began on other examples: its results would be mixed with those of
    these. What a command that was refused left there may be replaced.
    """
    told = "\n".join(json.dumps(line) for line in lines) + "\n"
    begun = any(path.parent.glob(f"*/{RUN}"))
    others = sorted(each for each in path.parent.glob("*.jsonl") if each != path)
    if begun and others and not path.is_file():
        raise UsageError(f"{others[0]}: is another command's: give another --out")
    if begun and path.is_file() and path.read_text(encoding="utf-8", errors="replace") != told:
        raise UsageError(
            f"{path}: holds other {what} than these: give the options that it began with, or another --out"
        )
    write_atomically(path, told)
    return path


def given_models(paths: Sequence[str]) -> dict[str, Path]:
    """Models to fine-tune, by their place and name.

    Raises `UsageError` for one that is not there, before the first of them is trained.
    """
    for path in paths:
        if not Path(path).exists():
            raise UsageError(f"--models {path}: no such file or folder: give models")
    return {f"{number}-{Path(path).name}": Path(path) for number, path in enumerate(paths, 1)}


def new_model(directory: Path, size: str, known: Tokenizer, objective: str, seed: int, *, context_length: int) -> Path:
    """Write an untrained model of a named size, to be trained on that file alone.

    Raises `UsageError` for an unknown size or objective, and where one of another size was trained from `directory`.
    """
    objectives.lookup(objective)
    causal = objective in objectives.CAUSAL
    config = ModelConfig.of_size(
        size,
        vocab_size=known.vocab_size,
        context_length=context_length,
        mask_id=None if causal else known.mask_id,
        causal=causal,
    )
    if directory.with_name(RUN).exists() and model_directory.is_model(directory):
        before = model_directory.read_config(directory)
        if before.params != config.params:
            raise UsageError(
                f"{directory}: holds a model of {before.params:,} parameters, and --size {size} has {config.params:,}: "
                "give that size, or another --out"
            )
    model = Transformer(config)
    model.init_weights(seeding.generator(seed, "init"))
    LanguageModel(model, known, objective).save(directory)
    return directory


def run(model: Path, file: Path, *, epochs: float, batch_size: int, learning_rate: float, seed: int) -> SftConfig:
    """The training of `model` on a file of prompts and completions, without validation."""
    return SftConfig(
        size="",
        init_from=str(model),
        conversations=(str(file),),
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        validation_share=0.0,
        validation_windows=0,
        seed=seed,
        tensorboard=False,
    )
