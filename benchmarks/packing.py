"""Fine-tuning on conversations of many lengths: packing and length buckets against neither, in one run.

    python benchmarks/packing.py --data chats.json ... [--json benchmarks/results/packing.json]

New networks are trained by `unmask train sft` on the same conversations, with a tokenizer trained on them. `rows` gives
each example a row as wide as the batch's longest; `buckets` sorts the examples of 16 batches by length first; `packing`
puts short examples side by side. `eos` is the paper's padding, which is scored: what the default costs. Each is trained
for 16 steps, so that all see the same conversations. Seconds are those of the processor on one thread, from the second
step on; tokens of conversation are prompts and answers without padding.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from unmask import machine, seeding
from unmask.config import ModelConfig
from unmask.data import conversations
from unmask.data import tokenizer as tokenizers
from unmask.evals import perplexity
from unmask.language_model import LanguageModel
from unmask.model import Transformer
from unmask.sft_config import SftConfig
from unmask.train import loop, starting_point
from unmask.train.loop import train
from unmask.train.parallel import World

STEPS = 16
SIDES: dict[str, dict[str, Any]] = {
    "rows": {"padding": "masked"},
    "buckets": {"padding": "masked", "bucket_batches": STEPS},
    "packing": {"padding": "masked", "packing": True},
    "eos": {},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", required=True, help="files of conversations")
    parser.add_argument("--sizes", nargs="+", default=["307K", "1.7M"])
    parser.add_argument("--objectives", nargs="+", default=["mdm"])
    parser.add_argument("--conversations", type=int, default=600, help="spread evenly over the files")
    parser.add_argument("--length", type=int, default=512, help="tokens of an example at most")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--vocabulary", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=1, help="runs of each side, in turn")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)

    known = [each for file in options.data for each in conversations.read(file).conversations]
    chosen = [known[index] for index in perplexity.spread(len(known), options.conversations)]
    texts = [message.content for each in known for message in each.messages]
    tokenizer = tokenizers.train_bpe(texts, options.vocabulary)
    report: dict[str, Any] = {
        "machine": machine.describe(),
        "versions": machine.versions(),
        "threads": 1,
        "files": [Path(each).name for each in options.data],
        "vocabulary": options.vocabulary,
        "length": options.length,
        "batch_size": options.batch_size,
        "rows": [],
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = written(chosen, folder / "conversations.jsonl")
        for objective in options.objectives:
            for size in options.sizes:
                model = folder / f"{size}-{objective}"
                new_network(size, objective, tokenizer, options.length).save(model)
                runs = {
                    side: SftConfig(
                        init_from=str(model), conversations=(str(file),), length=options.length, steps=STEPS,
                        batch_size=options.batch_size, validation_share=0.0, sample_every=0, log_every=1,
                        tensorboard=False, checkpoint_every=10**6, **fields,
                    )
                    for side, fields in SIDES.items()
                }  # fmt: skip
                found: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
                for turn in range(options.rounds):
                    for side, run in runs.items():
                        found[side].append(measured(run, folder / f"{size}-{objective}-{side}-{turn}"))
                report["rows"] += compared(size, objective, found)
                report |= described(runs["rows"])
                if options.json:
                    options.json.write_text(json.dumps(report, indent=2) + "\n")


def written(chosen: list[conversations.Conversation], file: Path) -> Path:
    """The conversations as JSON lines in OpenAI's form."""
    lines = [json.dumps({"messages": [asdict(message) for message in each.messages]}) for each in chosen]
    file.write_text("\n".join(lines))
    return file


def new_network(size: str, objective: str, tokenizer: tokenizers.Tokenizer, length: int) -> LanguageModel:
    vocabulary, causal = tokenizer.vocab_size, objective == "arm"
    config = ModelConfig.of_size(
        size, vocab_size=vocabulary, context_length=length, mask_id=None if causal else vocabulary, causal=causal
    )
    model = Transformer(config)
    model.init_weights(seeding.generator(0, "init"))
    return LanguageModel(model, tokenizer, objective)


def described(run: SftConfig) -> dict[str, Any]:
    """How long the examples are."""
    lengths_N = opened(run).train.lengths_N
    return {
        "examples": len(lengths_N),
        "mean_length": float(lengths_N.mean()),
        "median_length": float(statistics.median(lengths_N.tolist())),
        "longest": int(lengths_N.max()),
    }


def opened(run: SftConfig):
    _, task = loop.open_task(run, starting_point.source(run), World(0, 1, torch.device("cpu")))
    return task


def measured(run: SftConfig, directory: Path) -> dict[str, Any]:
    """The processor's seconds for each step from the second on, the tokens of conversation in them, and the padding."""
    task = opened(run)
    begun, seconds, losses = 0.0, [], []
    for record in train(run, directory):
        if record["kind"] == "train":
            now = time.process_time()
            seconds.append(now - begun)
            losses.append(record["loss"])
            begun = time.process_time()
    steps = range(1, STEPS)
    real = [int(task.train.lengths_N[task.order[step]].sum()) for step in range(STEPS)]
    computed = task.order.total_tokens(STEPS)
    return {
        "seconds": sum(seconds[1:]),
        "tokens": sum(real[step] for step in steps),
        "padding": 1 - sum(real) / computed,
        "rows": statistics.mean(len(task.order.rows(step)) for step in range(STEPS)),
        "conversation_tokens": sum(real),
        "first_loss": losses[0],
        "last_loss": losses[-1],
    }


def compared(size: str, objective: str, found: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """A row of figures for each side, of its fastest round, printed."""
    rows: list[dict[str, Any]] = []
    best = {side: max(each["tokens"] / each["seconds"] for each in runs) for side, runs in found.items()}
    for side, runs in found.items():
        kept = {name: runs[0][name] for name in ("padding", "rows", "conversation_tokens", "first_loss", "last_loss")}
        row = {
            "size": size,
            "objective": objective,
            "side": side,
            "tokens_per_second": best[side],
            "rates": [each["tokens"] / each["seconds"] for each in runs],
            "speed_ratio": best[side] / best["rows"],
            "against_buckets": best[side] / best["buckets"],
            **kept,
        }
        rows.append(row)
        print(
            f"{size:>5} {objective}, {side:7s}: {row['tokens_per_second']:6.0f} tokens of conversation/s, "
            f"{row['speed_ratio']:.2f}x rows, {row['against_buckets']:.2f}x buckets, {row['padding']:.0%} padding, "
            f"{row['rows']:.0f} rows a step, loss {row['first_loss']:.4f} to {row['last_loss']:.4f}",
            flush=True,
        )
    return rows


if __name__ == "__main__":
    main()
