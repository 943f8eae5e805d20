"""`unmask prepare TEXT... --out DIR`: text files to a tokenized corpus."""

from __future__ import annotations

import contextlib
import json as json_format
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from unmask.data.manifest import Manifest
from unmask.data.prepare import OnProgress, PrepareOptions, prepare
from unmask.errors import UsageError
from unmask.machine import usable_cores

STAGES = {
    "check": "reading the texts",
    "tokenizer": "training the tokenizer",
    "encode": "encoding",
    "write": "writing shards",
}


@dataclass(frozen=True)
class Options:
    """Turn text into a tokenized corpus that `unmask train` reads.

    Run the same command again to continue one that was interrupted. The result does not depend on --processes.
    """

    texts: tyro.conf.Positional[tuple[str, ...]]
    """Files or folders of .txt, .jsonl (plain, .gz, .zst, .xz) and .parquet, or the corpus name sotu."""
    out: Path
    """Directory for the corpus: new, empty, or holding this very preparation."""
    tokenizer: str = "bpe:4096"
    """bpe:N (trained on these texts, N tokens in all), bytes, mistral, or a tokenizer.json, its folder or a .model."""
    valid_fraction: float = 0.1
    """Share of the documents that is held out as `valid`, chosen by a hash of the name or id (else the text)."""
    text_field: str = "text"
    """Field or column of .jsonl and Parquet that holds the text."""
    separator: str | None = None
    r"""What stands between two documents of a .txt file (\n is a newline); without it a file is one document."""
    shard_tokens: int = 1 << 28
    """Tokens in one shard file."""
    bpe_bytes: int = 1 << 30
    """Bytes of text, taken from everywhere in the corpus, that a BPE is trained on at most."""
    processes: int = 0
    """Processes that encode; 0 means one for each usable CPU core."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print the result as JSON."""


def run(options: Options) -> None:
    """Prepare the corpus and print what is in it."""
    if options.processes < 0:
        raise UsageError(f"--processes {options.processes} must be at least 1, or 0 for one for each CPU core")
    separator = options.separator
    if separator is not None:
        separator = separator.replace("\\n", "\n").replace("\\t", "\t")
    settings = PrepareOptions(
        tokenizer=options.tokenizer,
        valid_fraction=options.valid_fraction,
        text_field=options.text_field,
        separator=separator,
        shard_tokens=options.shard_tokens,
        bpe_bytes=options.bpe_bytes,
    )
    with preparation_progress() as on_progress:
        result = prepare(
            options.texts,
            options.out,
            settings,
            processes=options.processes or usable_cores(),
            on_progress=on_progress,
        )
    summary = summarize(result, options.out)
    if options.json:
        print(json_format.dumps(summary, indent=2))
    else:
        _print_table(summary)


def summarize(corpus: Manifest, out: Path) -> dict[str, Any]:
    """What `--json` prints: the tokenizer, and the size of each split."""
    return {
        "out": str(out),
        "tokenizer": corpus.preparation["tokenizer"],
        "vocab_size": corpus.vocab_size,
        "empty_documents": corpus.empty_documents,
        "splits": {
            name: {
                "documents": split.documents,
                "tokens": split.tokens,
                "bytes": split.bytes,
                "bytes_per_token": split.bytes / split.tokens,
                "shards": len(split.shards),
            }
            for name, split in corpus.splits.items()
        },
    }


def _print_table(summary: dict[str, Any]) -> None:
    console = Console()
    table = Table("split", box=None, pad_edge=False)
    for title in ("documents", "tokens", "bytes", "bytes/token", "shards"):
        table.add_column(title, justify="right")
    for name, split in summary["splits"].items():
        counts = (f"{split[key]:,}" for key in ("documents", "tokens", "bytes"))
        table.add_row(name, *counts, f"{split['bytes_per_token']:.3f}", str(split["shards"]))
    console.print(table)
    # Not through the console, which would break a path over two lines.
    if empty := summary["empty_documents"]:
        print(
            f"{empty:,} documents without text were left out" if empty > 1 else "1 document without text was left out"
        )
    if "valid" not in summary["splits"]:
        print(
            "no document is held out as valid: give more documents, a --separator between those of a text file, "
            "or a larger --valid-fraction"
        )
    if summary["tokenizer"] != (reached := f"bpe:{summary['vocab_size']}") and summary["tokenizer"].startswith("bpe:"):
        print(f"the text is enough for {reached} only, not {summary['tokenizer']}")
    print(f"prepared in {summary['out']}, vocabulary {summary['vocab_size']:,}")


@contextlib.contextmanager
def preparation_progress() -> Generator[OnProgress, None, None]:
    """A bar on standard error for each stage, where that is a terminal."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description:<22}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        tasks = {stage: progress.add_task(title, total=None, visible=False) for stage, title in STAGES.items()}

        def on_progress(stage: str, done: int, total: int) -> None:
            progress.update(tasks[stage], completed=done, total=total, visible=True)

        yield on_progress
