"""A `config.json` of Transformers, read with care: each field by name, and what our network lacks refused by name."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from unmask.config import ModelConfig
from unmask.errors import UnmaskError, UsageError

T = TypeVar("T", int, float, bool, str)
CONFIG = "config.json"
MISSING: Any = object()


class HfConfig:
    """The fields of one `config.json`, and the problems found in reading them."""

    def __init__(self, fields: Mapping[str, Any], where: str) -> None:
        """`where` is the path for messages."""
        self.fields = fields
        self.where = where
        self.problems: list[str] = []

    @classmethod
    def read(cls, directory: Path) -> HfConfig:
        """The config in `directory`. Raises `UsageError` if there is none and `UnmaskError` if it is not JSON."""
        path = directory / CONFIG
        if not path.is_file():
            raise UsageError(f"{path}: no such file: it tells what the tensors can't (heads, mask token): put it there")
        try:
            fields: Any = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UnmaskError(f"{path}: not JSON ({error}): restore it from a copy") from None
        if not isinstance(fields, dict):
            raise UnmaskError(f"{path}: not a config but a {type(fields).__name__}: restore it from a copy")
        return cls(cast("dict[str, Any]", fields), str(path))

    @property
    def model_type(self) -> str:
        """What Transformers would build."""
        return str(self.fields.get("model_type"))

    def get(self, name: str, kind: type[T], default: T = MISSING) -> T:
        """The field `name`, a `kind`; a missing one, or null, is the default or a problem."""
        value = self.fields.get(name)
        if value is None:
            if default is MISSING:
                self.problems.append(f"lacks {name}")
                return kind()
            return default
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            self.problems.append(f"{name} {value!r} is not of type {kind.__name__}")
            return kind()
        return value

    def optional(self, name: str) -> int | None:
        """A whole number that may be missing or null."""
        return None if self.fields.get(name) is None else self.get(name, int)

    def heads(self, name: str, given: int | None) -> int:
        """The field `name`, the number of query heads; a number `given` may stand for a missing one alone."""
        if given is None:
            return self.get(name, int)
        said = self.get(name, int, given)
        if said != given:
            self.problems.append(f"--num-heads {given} contradicts {name} {said}: leave it out")
        return said

    def refuse(self, condition: object, feature: str) -> None:
        """Note that the source has a `feature` that our network has not."""
        if condition:
            self.problems.append(f"{feature}: our network has none")

    def only(self, name: str, allowed: Iterable[Any]) -> None:
        """Refuse the field `name` unless it is missing, null or one of `allowed`."""
        value = self.fields.get(name)
        self.refuse(value is not None and value not in list(allowed), f"{name} {value!r}")

    def rope_theta(self) -> float:
        """Base of the rotary frequencies; scaled or partial rotary positions are refused."""
        # in this order as in Transformers
        parameters: Any = self.fields.get("rope_scaling") or self.fields.get("rope_parameters") or {}
        if not isinstance(parameters, dict):
            self.problems.append(f"rope_parameters {parameters!r} is not a table")
            return 10000.0
        rope = cast("dict[str, Any]", parameters)
        kinds = [name for name, value in rope.items() if isinstance(value, dict)]
        self.refuse(kinds, f"rope_parameters of {', '.join(kinds)}")
        kind = rope.get("rope_type", rope.get("type", "default"))
        self.refuse(kind != "default", f"rope scaling {kind!r}")
        share = rope.get("partial_rotary_factor", self.fields.get("partial_rotary_factor", 1.0))
        self.refuse(share != 1.0, f"partial_rotary_factor {share}")
        theta = rope.get("rope_theta")
        return float(theta) if isinstance(theta, int | float) else self.get("rope_theta", float, 10000.0)

    def network(self, **fields: Any) -> ModelConfig:
        """The network of `fields`. Raises `UnmaskError` with all problems so far, or if no network has such fields."""
        self.check()
        try:
            return ModelConfig(**fields)
        except UsageError as error:  # about names of ours, but the values are the file's
            raise UnmaskError(f"{self.where}: {error}") from None

    def check(self) -> None:
        """Raise `UnmaskError` with all problems so far."""
        if self.problems:
            raise UnmaskError(f"{self.where}: {'; '.join(self.problems)}")
