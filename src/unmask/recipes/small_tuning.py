"""What the recipes share that train on a small file of their own: new models of a named size, and the training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from unmask import objectives, seeding
from unmask.config import ModelConfig
from unmask.data.tokenizer import Tokenizer
from unmask.errors import UsageError
from unmask.language_model import LanguageModel
from unmask.model import Transformer
from unmask.sft_config import SftConfig


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

    Raises `UsageError` for an unknown size or objective.
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
