"""The reversal curse (Nie et al., 2025, section 5): all prompts are trained on as whole sentences, for 10 epochs."""

from __future__ import annotations

from pathlib import Path

from unmask.data import tokenizer as tokenizers
from unmask.data.reversal import ReversalData
from unmask.data.tokenizer import Tokenizer
from unmask.recipes import small_tuning

CONTEXT = 128
VOCABULARY = 1024


def sentences(data: ReversalData, path: Path) -> Path:
    """Write the whole sentences of `data` as a conversation file without prompts, so that all of each is corrupted."""
    lines = [{"prompt": "", "completion": item.prompt + item.completion} for item in data.train]
    return small_tuning.examples_file(path, lines, "sentences")


def tokenizer(data: ReversalData) -> Tokenizer:
    """One trained on the sentences, for a model from scratch."""
    return tokenizers.train_bpe([item.prompt + item.completion for item in data.train], VOCABULARY)
