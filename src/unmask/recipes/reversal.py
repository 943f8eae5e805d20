"""The reversal curse (Nie et al., 2025, section 5): all prompts are trained on as whole sentences, for 10 epochs."""

from __future__ import annotations

import json
from pathlib import Path

from unmask import seeding
from unmask.config import ModelConfig
from unmask.data import tokenizer as tokenizers
from unmask.data.digests import write_atomically
from unmask.data.reversal import ReversalData
from unmask.data.tokenizer import Tokenizer
from unmask.language_model import LanguageModel
from unmask.model import Transformer
from unmask.sft_config import SftConfig

CONTEXT = 128
VOCABULARY = 1024


def sentences(data: ReversalData, path: Path) -> Path:
    """Write the whole sentences of `data` as a conversation file without prompts, so that all of each is corrupted."""
    lines = [json.dumps({"prompt": "", "completion": item.prompt + item.completion}) for item in data.train]
    write_atomically(path, "\n".join(lines) + "\n")
    return path


def tokenizer(data: ReversalData) -> Tokenizer:
    """One trained on the sentences, for a model from scratch."""
    return tokenizers.train_bpe([item.prompt + item.completion for item in data.train], VOCABULARY)


def new_model(directory: Path, size: str, known: Tokenizer, objective: str, seed: int) -> Path:
    """Write an untrained model of a named size, to be trained on the sentences alone."""
    causal = objective == "arm"
    config = ModelConfig.of_size(
        size,
        vocab_size=known.vocab_size,
        context_length=CONTEXT,
        mask_id=None if causal else known.mask_id,
        causal=causal,
    )
    model = Transformer(config)
    model.init_weights(seeding.generator(seed, "init"))
    LanguageModel(model, known, objective).save(directory)
    return directory


def run(model: Path, file: Path, *, epochs: float, batch_size: int, learning_rate: float, seed: int) -> SftConfig:
    """The training of `model` on a file of sentences."""
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
