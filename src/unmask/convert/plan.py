"""A conversion in two parts: a format plans it from names, shapes and config, and the plan is carried out a tensor
at a time.

A `Plan` says what each tensor of the source becomes under Llama's names (`unmask.llama_names`). Before anything is
written it is held against the network that its config describes, so that every tensor has a place, every place a
tensor, and all of them the right shape.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from unmask import llama_names, model_directory
from unmask.config import ModelConfig, RopePrecision
from unmask.data.no_tokenizer import NoTokenizer
from unmask.data.tokenizer import Tokenizer
from unmask.errors import UnmaskError, problems_error
from unmask.model_directory import Stored
from unmask.weight_files import Entry


class Weights(Protocol):
    """Tensors of a source: `weight_files.WeightFiles`, or another file format of the same form."""

    entries: dict[str, Entry]

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Each name and its tensor, not all in memory together."""
        ...


@dataclass(frozen=True)
class Options:
    """What a source cannot tell and a person may say."""

    num_heads: int | None = None
    """Query heads."""
    rope_precision: RopePrecision | None = None
    """Precision to which the rotary tables are rounded; None: the format's own."""
    context_length: int | None = None
    """Longest sequence in tokens; None: the source's, or the format's usual one."""
    tokenizer: Tokenizer | None = None
    """In place of the source's own."""


@dataclass(frozen=True)
class Piece:
    """One tensor of ours, made from one of the source's."""

    name: str
    """Under Llama's names."""
    take: Callable[[Tensor], Tensor] = lambda tensor: tensor
    """Cuts it out of the source's tensor; also of one on the `meta` device."""


@dataclass(frozen=True)
class Plan:
    """What becomes of a source."""

    config: ModelConfig
    objective: str
    pieces: dict[str, list[Piece]]
    """The source's tensors by name, and what each becomes."""
    ignored: dict[str, str] = field(default_factory=dict[str, str])
    """The source's tensors that are not needed, and why."""
    tokenizer: Tokenizer | None = None
    notes: list[str] = field(default_factory=list[str])
    """What was assumed, for the summary."""


@dataclass(frozen=True)
class Converted:
    """The summary of a conversion."""

    format: str
    out: str
    config: ModelConfig
    objective: str
    params: int
    """Non-embedding parameters."""
    tensors_read: int
    tensors_written: int
    bytes_written: int
    dtypes: list[str]
    ignored: dict[str, str]
    """Tensors of the source that are not needed, and why."""
    tokenizer: bool
    """Whether the model has one."""
    notes: list[str]
    warnings: list[str]
    seconds: float


def fitted(plan: Plan, weights: Weights, where: str, asks: str) -> dict[str, Entry]:
    """What the plan writes, by Llama's names, held against the network of its config.

    Raises `UnmaskError` that names every tensor of the source `where` without a place, every place without a tensor,
    and every shape that differs; `asks` names what the config was read from.
    """
    expected = llama_names.shapes(plan.config)
    problems: list[str] = []
    homeless = [name for name in weights.entries if name not in plan.pieces and name not in plan.ignored]
    written: dict[str, Entry] = {}
    for source, pieces in plan.pieces.items():
        entry = weights.entries.get(source)
        if entry is None:
            continue
        meta = torch.empty(entry.shape, dtype=entry.dtype, device="meta")
        for piece in pieces:
            try:
                shape = tuple(piece.take(meta).shape)
            except (RuntimeError, IndexError, ValueError):
                shape = None
            wanted = expected.get(piece.name)
            if wanted is None:
                homeless.append(source)
            elif shape != wanted:
                problems.append(
                    f"{source} is {entry.shape}, where {asks} asks for {_source_shape(entry, pieces, wanted)}"
                )
            written[piece.name] = Entry(wanted or (), entry.dtype)
    if homeless:
        problems.append(f"{some(homeless)} belong{'s' * (len(homeless) == 1)} to no part of the network")
    lacking = [
        source for source, pieces in plan.pieces.items() if source not in weights.entries and _wanted(pieces, expected)
    ]
    unplanned = [name for name in expected if name not in {p.name for ps in plan.pieces.values() for p in ps}]
    if lacking or unplanned:
        problems.append(f"lacks {some([*lacking, *unplanned])}, which {asks} asks for")
    if problems:
        raise UnmaskError(str(problems_error(where, problems[:6])))
    return written


def carry_out(
    plan: Plan,
    weights: Weights,
    out: Path,
    *,
    source_format: str,
    where: str,
    asks: str,
    on_tensor: Callable[[str], None] | None = None,
) -> Converted:
    """Write the model directory `out`, in the memory of one shard; errors as `fitted`, before anything is written."""
    begun = time.monotonic()
    entries = fitted(plan, weights, where, asks)
    config, tokenizer = plan.config, _tokenizer(plan, where, str(out))
    unfinite: list[str] = []
    model_directory.write(
        out,
        entries,
        _converted(plan, weights, unfinite),
        config=config,
        tokenizer=tokenizer,
        objective=plan.objective,
        converted_from=source_format,
        on_tensor=on_tensor,
    )
    warnings = [f"{some(unfinite)} hold{'s' * (len(unfinite) == 1)} NaN or infinity: its results will too"]
    return Converted(
        format=source_format,
        out=str(out),
        config=config,
        objective=plan.objective,
        params=config.params,
        tensors_read=len(weights.entries) - len(plan.ignored),
        tensors_written=len(entries),
        bytes_written=sum(entry.nbytes for entry in entries.values()),
        dtypes=sorted({str(entry.dtype).removeprefix("torch.") for entry in entries.values()}),
        ignored=dict(plan.ignored),
        tokenizer=not isinstance(tokenizer, NoTokenizer),
        notes=list(plan.notes),
        warnings=warnings if unfinite else [],
        seconds=time.monotonic() - begun,
    )


def in_memory(plan: Plan, weights: Weights, source: Path, *, source_format: str, asks: str) -> Stored:
    """What `carry_out` would write, without writing it; errors as `fitted`."""
    fitted(plan, weights, str(source), asks)
    tokenizer = _tokenizer(plan, str(source), str(source))
    found = dict(_converted(plan, weights, []))
    return Stored(source, plan.config, plan.objective, tokenizer, found, converted_from=source_format)


def _tokenizer(plan: Plan, where: str, told: str) -> Tokenizer:
    """The plan's tokenizer, or what stands for one that the model in `told` lacks, held against the network."""
    config, tokenizer = plan.config, plan.tokenizer
    if tokenizer is None:
        mask_id = config.vocab_size if config.mask_id is None else config.mask_id
        tokenizer = NoTokenizer(config.vocab_size - config.padded_rows, mask_id, told)
    model_directory.check_vocabulary(config, tokenizer, where)
    return tokenizer


def _converted(plan: Plan, weights: Weights, unfinite: list[str]) -> Iterator[tuple[str, Tensor]]:
    for source, tensor in weights.tensors():
        if source not in plan.pieces:
            continue
        if not _finite(tensor):
            unfinite.append(source)
        for piece in plan.pieces[source]:
            yield piece.name, piece.take(tensor)
        del tensor  # before the next one is read


def _finite(tensor: Tensor) -> bool:
    """Whether no element is NaN or infinite: the extremes would be, and finding them copies nothing."""
    if not tensor.numel():
        return True
    low, high = torch.aminmax(tensor)
    return math.isfinite(low.item()) and math.isfinite(high.item())


def renamed(names: Mapping[str, str]) -> dict[str, list[Piece]]:
    """Pieces that are the source's whole tensors under another name, from the source's names to Llama's."""
    return {source: [Piece(name)] for source, name in names.items()}


def layer_count(entries: Mapping[str, Entry], before: str, after: str) -> int:
    """Layers of a source: how many numbers from 0 on stand between `before` and `after` in its names."""
    layer = 0
    while f"{before}{layer}{after}" in entries:
        layer += 1
    return layer


def entry_of(entries: Mapping[str, Entry], name: str, where: str) -> Entry:
    """What `entries` says of `name`. Raises `UnmaskError` if it isn't there or isn't a matrix."""
    entry = entries.get(name)
    if entry is None or len(entry.shape) != 2:
        raise UnmaskError(f"{where}: has no matrix {name}: is it of the format that was named?")
    return entry


def some(names: Iterable[str]) -> str:
    """The first few of `names`."""
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _wanted(pieces: list[Piece], expected: Mapping[str, Any]) -> bool:
    return any(piece.name in expected for piece in pieces)


def _source_shape(entry: Entry, pieces: list[Piece], wanted: tuple[int, ...]) -> str:
    return str(wanted) if len(pieces) == 1 else f"{wanted} in a part of it"
