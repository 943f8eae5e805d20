"""What a frontier measures: every sampler asked for, at every number of steps, guidance weight and block length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from unmask import samplers
from unmask.errors import UsageError, unknown_name
from unmask.generation import Cache

OF_GENERATE = ("cache", "cache_refresh")
"""Options of a sampler's specification that are not the sampler's own."""


@dataclass(frozen=True)
class Setting:
    """One way to generate."""

    model: str
    """mdm or arm."""
    sampler: str
    steps: int | None = None
    guidance: float = 0.0
    temperature: float = 1.0
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    """The sampler's own."""
    cache: Cache | None = None

    @property
    def label(self) -> str:
        """A name that tells it from all others."""
        told = [f"{name}={value}" for name, value in self.options.items()]
        told += [] if self.cache is None else [f"cache={self.cache.strategy}, refresh {self.cache.refresh}"]
        told += [] if self.steps is None else [f"{self.steps} steps"]
        told += [f"w={self.guidance:g}"] if self.guidance else []
        told += [f"T={self.temperature:g}"] if self.temperature != 1 else []
        head = "ARM" if self.model == "arm" else self.sampler
        return " ".join([head, *told]) if len(told) < 2 else f"{head} {', '.join(told)}"

    def arguments(self) -> dict[str, Any]:
        """Those of `LanguageModel.generate`."""
        found: dict[str, Any] = {"sampler": self.sampler, "temperature": self.temperature, **self.options}
        if self.model == "mdm":
            found |= {"steps": self.steps, "guidance": self.guidance, "cache": self.cache}
        return found


def parse(specification: str) -> tuple[str, dict[str, Any], Cache | None]:
    """`name` or `name:option=value,...` as a sampler, its own options, and a cache (`cache=block,cache_refresh=8`).

    Raises `UsageError` on an unknown sampler or option.
    """
    name, _, rest = specification.partition(":")
    samplers.lookup(name)
    given: dict[str, Any] = {}
    for part in rest.split(",") if rest else []:
        option, sign, value = part.partition("=")
        if not sign or not value:
            raise UsageError(f"--samplers {specification}: {part!r}: write options as option=value")
        given[option] = _value(value)
    known = samplers.options_of(name, given.get("inner")) - {"stop_id"} | set(OF_GENERATE)
    for option in given:
        if option not in known:
            raise unknown_name(f"option of {name}", option, known)
    strategy, refresh = given.pop("cache", None), given.pop("cache_refresh", 16)
    return name, given, None if strategy is None else Cache(str(strategy), refresh)


def grid(
    specifications: Sequence[str],
    steps: Sequence[int],
    guidance: Sequence[float] = (0.0,),
    block_lengths: Sequence[int] = (),
    temperatures: Sequence[float] = (1.0,),
) -> list[Setting]:
    """The settings of the MDM: each sampler at each of the others; block lengths for the block sampler alone.

    Raises `UsageError` as `parse`, on numbers out of range, and on a setting that is asked for twice.
    """
    if not specifications:
        raise UsageError("--samplers: name at least one")
    for name, values, least in (("steps", steps, 1), ("block-lengths", block_lengths, 1)):
        for value in values:
            if value < least:
                raise UsageError(f"--{name} {value}: must be at least {least}")
    for name, numbers in (("guidance", guidance), ("temperatures", temperatures)):
        for number in numbers:
            if not 0 <= number < float("inf"):
                raise UsageError(f"--{name} {number:g}: must be 0 or more, and finite")
    found: list[Setting] = []
    for specification in specifications:
        name, options, cache = parse(specification)
        blocks: list[dict[str, Any]] = [options]
        if name == "block" and block_lengths and "block_length" not in options:
            blocks = [{**options, "block_length": length} for length in block_lengths]
        found += [
            Setting("mdm", name, count, weight, temperature, own, cache)
            for own in blocks
            for weight in guidance
            for temperature in temperatures
            for count in steps
        ]
    labels = [setting.label for setting in found]
    for label in labels:
        if labels.count(label) > 1:
            raise UsageError(f"{label}: asked for twice: leave one out")
    return found


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False, "none": None}.get(text.lower(), text)
