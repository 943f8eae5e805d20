"""Problems with rationales (Nie et al., 2025, section 5): two examples of each, 40 epochs, a context of 256."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from unmask.data import problems, tokenizer
from unmask.data.problems import Problem
from unmask.data.tokenizer import Tokenizer
from unmask.recipes import small_tuning

CONTEXT = 256
VOCABULARY = 4096


def examples_file(found: Sequence[Problem], path: Path) -> Path:
    """Write both examples of each problem as a file of prompts and completions."""
    lines = [{"prompt": asked, "completion": rest} for asked, rest in problems.examples(found)]
    return small_tuning.examples_file(path, lines, "problems")


def new_tokenizer(found: Sequence[Problem]) -> Tokenizer:
    """One trained on the problems, for a model from scratch."""
    return tokenizer.train_bpe([asked + rest for asked, rest in problems.examples(found)], VOCABULARY)
