"""What an evaluation has finished, kept in a file as it goes, so that one that was killed goes on.

Each piece of work (a batch of requests) has a key, which says all that its result depends on beside the model and the
settings; those two stand in the file's first line. A piece is computed as it would be without the file, so what comes
out does not depend on where a run was killed.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self, TextIO, cast

import torch

from unmask.errors import UsageError

FORMAT = "unmask-finished-1"


class Finished:
    """The finished pieces of one run. A context manager that closes the file."""

    def __init__(self, path: Path | None = None, made_by: Mapping[str, Any] | None = None) -> None:
        """Open `path`, or keep nothing. A file that says another `made_by` is begun anew.

        Raises `UsageError` if the file can't be written.
        """
        self.path = path
        self.recovered = 0
        """Pieces that an earlier run left."""
        self.saved_seconds = 0.0
        """What the pieces that were looked up took when they were computed."""
        self._known: dict[str, tuple[Any, float]] = {}
        self._file: TextIO | None = None
        if path is None:
            return
        head = json.dumps({"format": FORMAT, **(made_by or {})})
        try:
            lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else [""]
            if lines[0] == head:
                self._known = dict(_pieces(lines[1:-1]))  # behind the last line's end is nothing, or half a line
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_name(path.name + ".new")
            with draft.open("w", encoding="utf-8") as file:  # without what a kill cut short
                file.write(head + "\n")
                file.writelines(_line(key, *piece) for key, piece in self._known.items())
            draft.replace(path)
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise UsageError(f"{path}: can't be written ({error.strerror}): choose another --json") from None
        self.recovered = len(self._known)

    def once(self, key: str, compute: Callable[[], Any]) -> Any:
        """What `compute` gives, which must go into JSON; from the file if it is known there."""
        if key in self._known:
            value, seconds = self._known[key]
            self.saved_seconds += seconds
            return value
        begun = time.perf_counter()
        value = compute()
        if self._file is not None:
            self._file.write(_line(key, value, time.perf_counter() - begun))
            self._file.flush()
        return value

    def remove(self) -> None:
        """Close and delete the file: the run is through."""
        self.close()
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


def key_of(*parts: Any) -> str:
    """A key of numbers, texts and tuples or lists of them."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


def weights_digest(model: torch.nn.Module) -> str:
    """A digest of a network's weights, names and types."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _line(key: str, value: Any, seconds: float) -> str:
    return json.dumps([key, value, round(seconds, 6)]) + "\n"


def _pieces(lines: list[str]) -> list[tuple[str, tuple[Any, float]]]:
    found: list[tuple[str, tuple[Any, float]]] = []
    for line in lines:
        try:
            key, value, seconds = cast("list[Any]", json.loads(line))
        except ValueError:  # damaged: computed again
            continue
        found.append((str(key), (value, float(seconds))))
    return found
