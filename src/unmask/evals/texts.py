"""Texts that a task asks a model for: many at a time, each written once, kept as they are finished."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from unmask import seeding
from unmask.evals.finished import Finished, key_of
from unmask.evals.request_log import Record
from unmask.language_model import LanguageModel
from unmask.likelihood import Settings

GENERATED_ROWS = 16
"""Texts that are written at a time, unless the batch size is given."""


@dataclass(frozen=True)
class Asked:
    """What is to be written. A prompt that leaves no room for it is cut on the left."""

    prompt: tuple[int, ...]
    new: int
    """Tokens of the text."""
    temperature: float
    repeat: int = 0
    """How many times it was asked for before: at a temperature above 0, each time brings another text."""


def numbered(asked: Sequence[Asked]) -> list[Asked]:
    """With `repeat` filled in."""
    times: dict[Asked, int] = {}
    found: list[Asked] = []
    for each in asked:
        times[each] = times.get(each, -1) + 1
        found.append(replace(each, repeat=times[each]) if each.temperature else each)
    return found


def until(text: str, stops: str | list[str] | None) -> str:
    """`text` up to the first of `stops`."""
    for stop in [stops] if isinstance(stops, str) else stops or []:
        text = text.split(stop)[0] if stop else text
    return text


@dataclass
class Texts:
    """The texts of one model, by `sampler` in `steps` steps, with the guidance, seed and batch size of `settings`."""

    lm: LanguageModel
    settings: Settings
    sampler: str | None
    steps: int | None
    known: dict[Asked, tuple[str, Record]] = field(default_factory=dict[Asked, tuple[str, Record]])

    def write(self, asked: Sequence[Asked], finished: Finished, on_progress: Callable[[int, int], None]) -> int:
        """Write what is not known yet, and return the network calls that it took."""
        alike: dict[tuple[int, float], dict[Asked, None]] = {}
        for each in asked:
            if each not in self.known:
                alike.setdefault((each.new, each.temperature), {})[each] = None
        total, done, calls = sum(map(len, alike.values())), 0, 0
        rows = self.settings.batch_size or GENERATED_ROWS
        for waiting in map(list, alike.values()):
            for start in range(0, len(waiting), rows):
                batch = waiting[start : start + rows]
                for each, (text, took) in zip(batch, self._batch(batch, finished), strict=True):
                    cut = max(0, len(each.prompt) - self._room(each))
                    self.known[each] = text, Record(network_calls=took, truncated=cut)
                    calls += took
                done += len(batch)
                on_progress(done, total)
        return calls

    def _room(self, asked: Asked) -> int:
        return self.lm.config.context_length - asked.new

    def _batch(self, batch: list[Asked], finished: Finished) -> list[tuple[str, int]]:
        """The text of each of a batch that is alike in length and temperature, and its network calls."""
        new, temperature = batch[0].new, batch[0].temperature
        prompts = [list(each.prompt[max(0, len(each.prompt) - self._room(each)) :]) for each in batch]
        seed = self.settings.seed
        seeds = [seeding.derived_seed(seed, "repeated text", each.repeat) if each.repeat else seed for each in batch]

        def compute() -> list[Any]:
            written = self.lm.generate(
                prompts,
                max_new_tokens=new,
                sampler=self.sampler,
                steps=self.steps,
                guidance=self.settings.guidance,
                temperature=temperature,
                seed=seeds,
                batch_size=len(prompts),
            )
            return [(made.fills[0], made.network_calls) for made in written]

        return finished.once(key_of("written", prompts, new, temperature, seeds), compute)
