"""Problems with rationales (Nie et al., 2025, section 5): two examples of each, 40 epochs, a context of 256."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from unmask import seeding
from unmask.config import ModelConfig
from unmask.data import problems, tokenizer
from unmask.data.digests import write_atomically
from unmask.data.problems import Problem
from unmask.data.tokenizer import Tokenizer
from unmask.language_model import LanguageModel
from unmask.model import Transformer
from unmask.sft_config import SftConfig

CONTEXT = 256
VOCABULARY = 4096


def examples_file(found: Sequence[Problem], path: Path) -> Path:
    """Write both examples of each problem as a file of prompts and completions."""
    lines = [json.dumps({"prompt": asked, "completion": rest}) for asked, rest in problems.examples(found)]
    write_atomically(path, "\n".join(lines) + "\n")
    return path


def new_tokenizer(found: Sequence[Problem]) -> Tokenizer:
    """One trained on the problems, for a model from scratch."""
    return tokenizer.train_bpe([asked + rest for asked, rest in problems.examples(found)], VOCABULARY)


def new_model(directory: Path, size: str, known: Tokenizer, objective: str, seed: int) -> Path:
    """Write an untrained model of a named size, to be trained on the problems alone."""
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
    """The training of `model` on a file of examples."""
    return SftConfig(
        size="",
        init_from=str(model),
        conversations=(str(file),),
        length=CONTEXT,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        validation_share=0.0,
        validation_windows=0,
        seed=seed,
        tensorboard=False,
    )
