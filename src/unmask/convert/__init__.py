"""Checkpoints from elsewhere as model directories of ours, and back.

`convert` opens a checkpoint without running any of its code, plans what each tensor becomes (one module for each
format), holds the plan against the network, and writes a model directory a tensor at a time. `export` writes what
others read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from unmask import model_directory, weight_files
from unmask.convert import gguf, llada, llama, smdm, source_tokenizer
from unmask.convert.export import TARGETS, Exported, export
from unmask.convert.hf_config import HfConfig
from unmask.convert.plan import Converted, Options, Plan, Weights, carry_out, in_memory
from unmask.errors import UsageError, unknown_name
from unmask.model_directory import Stored

__all__ = ["FORMATS", "TARGETS", "Converted", "Exported", "Options", "convert", "export", "read"]

Planner = Callable[[Weights, Path, Options], Plan]

FORMATS: dict[str, Planner] = {
    "smdm": smdm.plan,
    "llada": llada.plan,
    "dream": llama.plan_dream,
    "hf": llama.plan,
    "gguf": gguf.plan,
}
"""What `convert` reads, by name."""


def convert(
    source_format: str,
    source: str | Path,
    out: str | Path,
    options: Options | None = None,
    on_tensor: Callable[[str], None] | None = None,
) -> Converted:
    """Write the checkpoint `source`, a file or a folder, of a format in `FORMATS` as the model directory `out`.

    `on_tensor` is told of each tensor that is written. Raises `UsageError` for an unknown format or a source that
    doesn't have it, and `UnmaskError` for files that are damaged, would run code, or do not fit together; nothing is
    written then.
    """
    source, out = Path(source), Path(out)
    if source_format not in FORMATS:
        raise unknown_name("format", source_format, FORMATS)
    if not source.exists():
        raise UsageError(f"{source}: no such file or folder: give a checkpoint")
    if source.suffix == ".gguf" and source_format != "gguf":
        raise UsageError(f"{source}: a file of llama.cpp: open it as gguf, not as {source_format}")
    check_out(out, source if source.is_dir() else source.parent)
    plan, weights, asks = _planned(source_format, source, options or Options())
    return carry_out(plan, weights, out, source_format=source_format, where=str(source), asks=asks, on_tensor=on_tensor)


def read(source: str | Path, options: Options | None = None) -> Stored:
    """A model directory of ours, a run directory, or a checkpoint whose format its files tell, in memory.

    Raises `UsageError` if `source` is none of these, and `UnmaskError` as `convert`.
    """
    source = Path(source)
    if not source.exists():
        raise UsageError(f"{source}: no such file or folder: give a model")
    source_format = _format_of(source)
    if source_format is None:
        return model_directory.read(source)
    plan, weights, asks = _planned(source_format, source, options or Options())
    return in_memory(plan, weights, source, source_format=source_format, asks=asks)


def _format_of(source: Path) -> str | None:
    """The name of the format of a checkpoint; None for what `model_directory.read` opens or refuses."""
    if source.is_file():
        return "gguf" if source.suffix == ".gguf" else "smdm"
    if model_directory.is_model(source) or model_directory.is_model(source / "model"):
        return None
    if (source / "config.json").is_file():
        config = HfConfig.read(source)
        kind = config.model_type.lower()
        return None if "model_type" not in config.fields else kind if kind in ("llada", "dream") else "hf"
    if (source / "lit_config.json").is_file():
        return "smdm"
    if len(list(source.glob("*.gguf"))) == 1:
        return "gguf"
    return None


def _planned(source_format: str, source: Path, options: Options) -> tuple[Plan, Weights, str]:
    """What becomes of a checkpoint, its tensors, and what tells its shape."""
    directory = source if source.is_dir() else source.parent
    weights, asks = _opened(source_format, source)
    plan = FORMATS[source_format](weights, directory, options)
    tokenizer = plan.tokenizer or (None if source_format == "gguf" else source_tokenizer.read(directory))
    if tokenizer is not None:
        tokenizer, config = source_tokenizer.fitted(tokenizer, plan.config, str(source))
        plan = dataclasses.replace(plan, tokenizer=tokenizer, config=config)
    return plan, weights, asks


def check_out(out: Path, source: Path) -> None:
    """Raise `UsageError` if writing to `out` would destroy something else than an older model of ours."""
    if out.resolve() == source.resolve():
        raise UsageError(f"{out}: is the source itself: give another folder for the result")
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: is a file: give a folder for the result")
    others = [path for path in out.iterdir() if path.suffix != weight_files.PARTIAL] if out.is_dir() else []
    if others and not model_directory.is_model(out):
        raise UsageError(f"{out}: holds other things than a model of unmask: give another folder for the result")


def _opened(source_format: str, source: Path) -> tuple[Weights, str]:
    """The source's tensors, and what tells its shape."""
    if source_format != "gguf":
        weights = weight_files.find(source)
        return weights, "the network's shape" if source_format == "smdm" else "config.json"
    if source.is_dir():
        files = sorted(source.glob("*.gguf"))
        if len(files) != 1:
            raise UsageError(f"{source}: holds {len(files)} .gguf files: name one")
        source = files[0]
    return gguf.GgufFile(source), "the file's metadata"
