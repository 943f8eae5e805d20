"""Weights on disk, a tensor at a time: safetensors or pickles of plain tensors, in one file or in shards with an index.

A checkpoint of any size is read and written in the memory of one shard. Pickles are opened with torch's `weights_only`
loader, which builds tensors and containers and runs nothing.
"""

from __future__ import annotations

import json
import os
import pickle
import pickletools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import safetensors
import torch
from torch import Tensor

from unmask.errors import UnmaskError, UsageError

PICKLES = (".bin", ".pth", ".pt", ".ckpt")
SAFETENSORS = ".safetensors"
PARTIAL = ".partial"
"""Ends the name of a file that is being written, or whose writing was killed."""
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
WHOLE_FILES = ("model.safetensors", "pytorch_model.bin", "lit_model.pth", "consolidated.00.pth")
NESTED = ("model", "state_dict", "module", "model_state_dict")
"""Where training loops put the weights in a pickle that holds more than them."""
DTYPES: dict[str, torch.dtype] = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16}
DTYPES["BF16"] = torch.bfloat16
"""What weights may be, by the name that safetensors gives it."""
NAMES = {dtype: name for name, dtype in DTYPES.items()}
GIT_LFS = b"version https://git-lfs"


@dataclass(frozen=True)
class Entry:
    """What a file says of a tensor before it is read."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Size of its data."""
        count = 1
        for size in self.shape:
            count *= size
        return count * self.dtype.itemsize


class WeightFiles:
    """The weights of one checkpoint. `entries` tells all of them; `tensors()` reads them, shard after shard."""

    def __init__(self, files: list[Path], expected: Mapping[str, list[str]] | None = None) -> None:
        """Look into `files`; `expected` are the names that an index promises for each.

        Raises `UnmaskError` if a file is missing, damaged or would run code, lacks a promised tensor, or if two
        hold one name.
        """
        self.files = files
        self.entries: dict[str, Entry] = {}
        self._names: dict[Path, list[str]] = {}
        for file in files:
            found = _entries(file)
            absent = [name for name in (expected or {}).get(file.name, []) if name not in found]
            if absent:
                raise UnmaskError(f"{file}: lacks {_some(absent)}, which the index promises: download it again")
            for name in found:
                if name in self.entries:
                    raise UnmaskError(f"{file}: {name} is in another file too: keep the files of one checkpoint apart")
            self.entries.update(found)
            self._names[file] = list(found)
        if not self.entries:
            raise UnmaskError(f"{files[0]}: holds no tensors: give a checkpoint")

    @property
    def nbytes(self) -> int:
        """Size of all tensors."""
        return sum(entry.nbytes for entry in self.entries.values())

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Each name and its tensor, on the CPU. A shard's memory is freed when the next one begins."""
        for file, names in self._names.items():
            yield from _tensors(file, names)


def find(source: Path) -> WeightFiles:
    """The weights in `source`: a file, or a folder with one or with all shards of one.

    Raises `UsageError` if there are none, and `UnmaskError` as `WeightFiles`, or if shards are missing.
    """
    if source.is_file():
        if source.suffix not in (SAFETENSORS, *PICKLES):
            known = ", ".join((SAFETENSORS, *PICKLES))
            raise UsageError(f"{source}: not a weight file by its name: give one of {known}, or the folder")
        return WeightFiles([source])
    if not source.is_dir():
        raise UsageError(f"{source}: no such file or folder: give a checkpoint")
    for name in INDEXES:
        if (source / name).is_file():
            return _indexed(source / name)
    for name in WHOLE_FILES:
        if (source / name).is_file():
            return WeightFiles([source / name])
    for suffix in (SAFETENSORS, *PICKLES):
        files = sorted(source.glob(f"*{suffix}"))
        shards = _complete_shards(files)
        if shards or len(files) == 1:
            return WeightFiles(shards or files)
        if files:
            raise UsageError(f"{source}: holds {len(files)} files of weights and no index: name one of them")
    raise UsageError(f"{source}: holds no weights: no {SAFETENSORS}, {', '.join(PICKLES)} file in it")


def write(
    path: Path,
    entries: Mapping[str, Entry],
    tensors: Iterable[tuple[str, Tensor]],
    on_tensor: Callable[[str], None] | None = None,
) -> None:
    """Write a safetensors file from `tensors`, which may come in any order and are let go one by one.

    `entries` says beforehand what comes. The file appears under its name when it is whole.
    """
    # wide types first: every tensor is then aligned to its own width
    order = sorted(entries, key=lambda name: -entries[name].dtype.itemsize)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offsets: dict[str, int] = {}
    end = 0
    for name in order:
        entry = entries[name]
        offsets[name] = end
        end += entry.nbytes
        header[name] = {
            "dtype": NAMES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [offsets[name], end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    partial = path.with_name(path.name + PARTIAL)
    with partial.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        start = file.tell()
        missing = set(entries)
        for name, tensor in tensors:
            assert Entry(tuple(tensor.shape), tensor.dtype) == entries[name], name
            missing.remove(name)
            file.seek(start + offsets[name])
            file.write(cast(Any, tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()))
            del tensor  # before the next one is read
            if on_tensor is not None:
                on_tensor(name)
        assert not missing, missing
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _indexed(index: Path) -> WeightFiles:
    try:
        content: Any = json.loads(index.read_text(encoding="utf-8"))
        weight_map = cast("dict[str, str]", content["weight_map"])
        files: dict[str, list[str]] = {}
        for name, file in weight_map.items():
            files.setdefault(file, []).append(name)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnmaskError(f"{index}: not an index of shards ({error!r}): download it again") from None
    outside = [file for file in files if Path(file).name != file]
    if outside:
        raise UnmaskError(f"{index}: names files outside its folder ({_some(outside)}): refused")
    missing = [file for file in files if not (index.parent / file).is_file()]
    if missing:
        raise UnmaskError(
            f"{index}: {len(missing)} of its {len(files)} shards are missing: {_some(missing)}: get them too"
        )
    return WeightFiles([index.parent / file for file in sorted(files)], files)


def _complete_shards(files: list[Path]) -> list[Path]:
    """`files` if they are named as all shards of one checkpoint; nothing if they are not named as shards."""
    numbers: dict[int, Path] = {}
    totals: set[int] = set()
    for file in files:
        match = re.search(r"-(\d+)-of-(\d+)\.", file.name)
        if match is None:
            return []
        numbers[int(match[1])] = file
        totals.add(int(match[2]))
    if not files:
        return []
    if len(totals) > 1:
        counts = " and of ".join(map(str, sorted(totals)))
        raise UnmaskError(f"{files[0].parent}: holds shards of {counts}: keep the files of one checkpoint apart")
    missing = [number for number in range(1, max(totals) + 1) if number not in numbers]
    if missing:
        raise UnmaskError(
            f"{files[0].parent}: of {max(totals)} shards these are missing: {_some(map(str, missing))}: get them too"
        )
    return [numbers[number] for number in sorted(numbers)]


def _entries(file: Path) -> dict[str, Entry]:
    if file.suffix in PICKLES:
        return {name: Entry(tuple(tensor.shape), tensor.dtype) for name, tensor in _unpickled(file).items()}
    found: dict[str, Entry] = {}
    try:
        with safetensors.safe_open(file, "pt") as opened:  # pyright: ignore[reportUnknownVariableType]
            for name in cast("list[str]", opened.keys()):  # pyright: ignore[reportUnknownMemberType]
                part = cast(Any, opened).get_slice(name)
                dtype = DTYPES.get(part.get_dtype())
                if dtype is None:
                    raise UnmaskError(
                        f"{file}: {name} is of type {part.get_dtype()}, so no weight, or a quantised one, which is not "
                        f"read: give a checkpoint in {', '.join(DTYPES)}"
                    )
                found[name] = Entry(tuple(part.get_shape()), dtype)
    except safetensors.SafetensorError as error:
        raise _damaged(file, error) from None
    return found


def _tensors(file: Path, names: list[str]) -> Iterator[tuple[str, Tensor]]:
    if file.suffix in PICKLES:
        yield from _unpickled(file).items()
        return
    for name in names:  # opened for each, so that no more than its own part of the file stays mapped
        with safetensors.safe_open(file, "pt") as opened:  # pyright: ignore[reportUnknownVariableType]
            tensor = cast(Any, opened).get_tensor(name)
        yield name, tensor
        del tensor


def _unpickled(file: Path) -> dict[str, Tensor]:
    """The tensors of a pickle, mapped into memory where its form allows that."""
    content: Any
    try:
        try:
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)  # pyright: ignore[reportUnknownMemberType]
        except (RuntimeError, ValueError):  # the form of before torch 1.6 can't be mapped
            content = torch.load(file, map_location="cpu", weights_only=True)  # pyright: ignore[reportUnknownMemberType]
    except pickle.UnpicklingError as error:
        culprit = _called_by_pickle(file, str(error))
        if culprit is None:
            raise _damaged(file, error) from None
        raise UnmaskError(
            f"{file}: refused: opening this pickle would call {culprit}, which is no part of tensors and may run any "
            "code: ask its author for safetensors"
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError, UnicodeError) as error:
        raise _damaged(file, error) from None
    for key in NESTED:
        if isinstance(content, dict) and isinstance(content.get(key), dict):  # pyright: ignore[reportUnknownMemberType]
            content = cast("dict[str, Any]", content)[key]
    if not isinstance(content, dict):
        raise UnmaskError(f"{file}: holds a {type(content).__name__}, not named tensors: give a state_dict")
    tensors = {
        str(name): tensor
        for name, tensor in cast("dict[Any, Any]", content).items()
        if isinstance(tensor, Tensor) and tensor.layout == torch.strided
    }
    for name, tensor in tensors.items():
        if tensor.dtype not in NAMES:
            raise UnmaskError(f"{file}: {name} is of type {tensor.dtype}: give weights in {', '.join(DTYPES)}")
    return tensors


def _called_by_pickle(file: Path, message: str) -> str | None:
    """The function or class for which torch's `message` refuses a pickle; found without running anything."""
    named = re.search(r"GLOBAL (\w[\w.]*)", message)
    if named is not None:
        return named[1]
    strings: list[str] = []
    try:
        for operation, argument, _ in pickletools.genops(file.read_bytes()):
            if operation.name == "GLOBAL":
                return str(argument).replace(" ", ".")
            if operation.name == "STACK_GLOBAL" and len(strings) > 1:
                return ".".join(strings[-2:])
            if isinstance(argument, str):
                strings.append(argument)
    except ValueError:  # not a pickle to the end
        pass
    return None


def _damaged(file: Path, error: Exception) -> UnmaskError:
    if not file.is_file():
        return UnmaskError(f"{file}: no such file: restore it from a copy")
    with file.open("rb") as opened:
        if opened.read(len(GIT_LFS)) == GIT_LFS:
            return UnmaskError(f"{file}: a pointer of Git LFS, not the weights: get them with git lfs pull")
    lines = str(error).splitlines() or [type(error).__name__]
    reason = lines[0].partition(". ")[0].rstrip(".")  # torch goes on at length
    return UnmaskError(f"{file}: damaged or cut short ({reason}): restore it from a copy")


def _some(names: Iterable[str]) -> str:
    """The first few of `names`."""
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
