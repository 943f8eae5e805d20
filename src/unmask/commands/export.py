"""`unmask export`: a model in the forms that others read."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True)
class Options:
    """Write a model for other programs, with a model card.

    llama: an autoregressive model for Transformers, vLLM, SGLang and llama.cpp (with biases as Qwen2, with norms over
    queries and keys as Qwen3). smdm: for the code of the paper, and lit-gpt.
    """

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """Model directory, or directory of a training run."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """Folder to write."""
    to: Literal["llama", "smdm"]
    """Format."""
    json: bool = False
    """Print one JSON object."""


def run(options: Options) -> None:
    """Export, and print what was written."""
    from unmask.convert import export

    # names alone: where the files are is nobody's business but the user's
    command = shlex.join(["unmask", "export", options.model.name, options.out.name, "--to", options.to])
    exported = export(options.to, options.model, options.out, command)
    if options.json:
        print(json.dumps(asdict(exported)))
        return
    size = exported.bytes_written / 1e6
    print(f"{exported.out}: {exported.format}, {exported.tensors} tensors, {size:,.1f} MB, and a model card")
    for note in exported.notes:
        print(f"  {note}")
