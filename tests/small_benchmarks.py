"""Small data folders and models for the tests of the evaluations."""

from __future__ import annotations

import json
import lzma

import tiny_models
from unmask.data import tokenizer as tokenizers

PIQA = [
    {"goal": f"open box {i}", "sol1": "lift lid", "sol2": "eat it" if i % 2 else "burn the lid", "label": i % 2}
    for i in range(6)
]
LAMBADA = [{"text": f"the cat {verb} on the mat"} for verb in ("sat", "lay", "was", "sang", "slept")]
BOOLQ = [{"question": f"is {n} odd", "passage": "Numbers.", "idx": n, "label": n % 2} for n in range(5)]
GSM8K = [{"question": f"What is {n} and 1?", "answer": f"It is {n + 1}.\n#### {n + 1}"} for n in range(7)]


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(lzma.compress(text.encode()) if path.suffix == ".xz" else text.encode())


def data_folder(root):
    write_lines(root / "baber/piqa/validation.jsonl", PIQA)
    write_lines(root / "EleutherAI/lambada_openai/default/test.jsonl", LAMBADA)
    write_lines(root / "aps/super_glue/boolq/validation.jsonl.xz", BOOLQ)
    write_lines(root / "openai/gsm8k/main/test.jsonl", GSM8K[:2])
    write_lines(root / "openai/gsm8k/main/train.jsonl", GSM8K)
    return root


def language_model(*, causal, context_length=128):
    return tiny_models.language_model(tokenizers.byte_level(), causal=causal, context_length=context_length)
