"""`unmask convert`: other people's checkpoints as model directories."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from unmask.config import RopePrecision
from unmask.errors import UsageError


@dataclass(frozen=True)
class Options:
    """Open a checkpoint from elsewhere, and write it as a model directory. Runs none of its code.

    smdm: the paper's released models, lit-gpt and TinyLlama (.safetensors, .pth). llada, dream: folders in those
    layouts. hf: a folder of Transformers with a Llama, Mistral, Qwen2 or Qwen3. gguf: a file of llama.cpp.
    """

    format: Annotated[Literal["smdm", "llada", "dream", "hf", "gguf"], tyro.conf.Positional]
    """What the source is."""
    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """A file of weights, or a folder with all shards."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """Model directory to write."""
    num_heads: int | None = None
    """Query heads, where nothing beside the tensors tells (smdm of no named size)."""
    rope_precision: RopePrecision | None = None
    """Precision of the rotary tables; by default bfloat16 for smdm, as trained, and float32 for the others."""
    context_length: int | None = None
    """Longest sequence in tokens; by default the source's (smdm: 2048 where nothing says)."""
    tokenizer: str | None = None
    """A tokenizer.json, a SentencePiece .model, or mistral, bytes; by default the one beside the weights."""
    json: bool = False
    """Print one JSON object."""


def run(options: Options) -> None:
    """Convert, and print what was mapped."""
    from rich.console import Console
    from rich.progress import Progress

    from unmask import convert
    from unmask.data import tokenizer as tokenizers

    for name in ("num_heads", "context_length"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')} {value}: must be at least 1")
    tokenizer = None if options.tokenizer is None else tokenizers.resolve(options.tokenizer)
    if isinstance(tokenizer, int):
        raise UsageError(f"--tokenizer {options.tokenizer}: a new vocabulary fits no trained network: give a file")
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=options.json or not console.is_terminal) as progress:
        task = progress.add_task("converting", total=None)
        on_tensor: Callable[[str], None] = lambda name: progress.advance(task)  # noqa: E731
        converted = convert.convert(
            options.format,
            options.source,
            options.out,
            convert.Options(options.num_heads, options.rope_precision, options.context_length, tokenizer),
            on_tensor,
        )
    for warning in converted.warnings:
        print(f"unmask: warning: {warning}", file=sys.stderr)
    if options.json:
        print(json.dumps(asdict(converted)))
        return
    config = converted.config
    heads = f"{config.n_head} heads" + (f" ({config.n_kv_head} for keys)" if config.n_kv_head != config.n_head else "")
    kind = "autoregressive" if config.causal else f"masked (mask token {config.mask_id})"
    kind += ", shifted by one" if config.shifted else ""
    print(f"{converted.out}: {kind}, {converted.params:,} non-embedding parameters, {', '.join(converted.dtypes)}")
    print(f"  {config.n_layer} layers, {heads}, width {config.n_embd} and {config.intermediate_size}, ", end="")
    print(f"vocabulary {config.vocab_size:,}, context {config.context_length:,}")
    print(f"  {converted.tensors_read} tensors mapped to {converted.tensors_written}, ", end="")
    print(f"{converted.bytes_written / 1e6:,.1f} MB in {converted.seconds:.1f} s")
    for name, why in converted.ignored.items():
        print(f"  left out {name}: {why}")
    for note in converted.notes:
        print(f"  {note}")
    if not converted.tokenizer:
        print("  no tokenizer: it takes and gives ids; for text, convert again with --tokenizer")
