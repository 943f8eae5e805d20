"""How much worse a model is on text from after its training data: differences of mean NLLs, with errors by document.

All models see the same windows, each within one document, and the same masks, so models are compared window by window.
Documents are what was sampled: windows of one book are alike, and an error that takes them for independent is too
small. Errors here are those of a ratio of sums over documents, and over seeds where there are several; intervals are
Student's, with the degrees of freedom of Welch and Satterthwaite.

Shapes: S seeds, W windows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from scipy import stats

from unmask.data.digests import write_atomically
from unmask.data.source import TokenSource
from unmask.errors import UsageError
from unmask.evals import held_out, perplexity
from unmask.evals.held_out import Windows
from unmask.language_model import LanguageModel, load
from unmask.report.evaluation import IN_PERIOD, SHIFTED

FORMAT = "unmask-temporal-1"
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Period:
    """Windows of one split, none of which reaches over the end of a document."""

    windows: Windows
    documents: npt.NDArray[np.int64]
    """The number of each window's document (W,)."""

    @classmethod
    def of(cls, source: TokenSource, length: int, wanted: int) -> Period:
        """`wanted` windows spread evenly over the text; all there are, if fewer. Raises `UsageError` for none."""
        starts = np.arange(len(source) // length) * length
        first = np.searchsorted(source.documents, starts, side="right") - 1
        inside = source.documents[first + 1] >= starts + length
        chosen = np.flatnonzero(inside)
        if not len(chosen):
            raise UsageError(
                f"split {source.name}: no document of {length} tokens or more: give longer texts, or a smaller --length"
            )
        chosen = chosen[perplexity.spread(len(chosen), wanted)]
        windows = Windows(source, length, tuple(chosen.tolist()), source.split.bytes / source.split.tokens)
        return cls(windows, first[chosen].astype(np.int64))

    @property
    def document_count(self) -> int:
        """Documents that have a window."""
        return len(np.unique(self.documents))


@dataclass(frozen=True)
class Figure:
    """A value with its standard error and Student's 95% interval; both None where nothing can be said of the error."""

    value: float
    standard_error: float | None
    ci95: tuple[float, float] | None

    def to_dict(self) -> dict[str, Any]:
        """A dict for JSON."""
        ends = None if self.ci95 is None else list(self.ci95)
        return {"value": self.value, "standard_error": self.standard_error, "ci95": ends}

    def mapped(self, increasing: Any) -> dict[str, Any]:
        """An increasing function of the value and of the ends of its interval, for JSON."""
        ends = None if self.ci95 is None else [increasing(end) for end in self.ci95]
        return {"value": increasing(self.value), "ci95": ends}


@dataclass(frozen=True)
class Part:
    """A part of a variance, and its degrees of freedom; nan where it can't be known."""

    variance: float
    freedom: float


def mean_by_document(losses_W: Array, documents_W: npt.NDArray[np.int64]) -> tuple[float, Part]:
    """The mean over windows, and its variance as a ratio of sums over documents."""
    _, number_W = np.unique(documents_W, return_inverse=True)
    sums, counts = np.bincount(number_W, losses_W), np.bincount(number_W)
    mean = float(losses_W.mean())
    documents = len(counts)
    if documents < 2:
        return mean, Part(math.nan, math.nan)
    variance = documents / (documents - 1) * float(((sums - mean * counts) ** 2).sum()) / len(losses_W) ** 2
    return mean, Part(variance, documents - 1)


def figure(value: float, parts: Iterable[Part]) -> Figure:
    """A figure whose variance is the sum of `parts`."""
    known = list(parts)
    variance = sum(part.variance for part in known)
    if not math.isfinite(variance):
        return Figure(value, None, None)
    error = math.sqrt(variance)
    if not variance:
        return Figure(value, error, (value, value))
    freedom = variance**2 / sum(part.variance**2 / part.freedom for part in known if part.variance)
    reach = float(stats.t.ppf(0.975, freedom)) * error
    return Figure(value, error, (value - reach, value + reach))


def mean(losses_SW: Array, period: Period) -> Figure:
    """The mean NLL in nats per token, over seeds and windows."""
    value, by_document = mean_by_document(losses_SW.mean(axis=0), period.documents)
    return figure(value, [by_document, *_of_seeds(losses_SW.mean(axis=1))])


def degradation(early_SW: Array, late_SW: Array, early: Period, late: Period) -> Figure:
    """How many nats per token the later text costs more. Differences of two models give the difference of theirs."""
    before, of_before = mean_by_document(early_SW.mean(axis=0), early.documents)
    after, of_after = mean_by_document(late_SW.mean(axis=0), late.documents)
    by_seed = late_SW.mean(axis=1) - early_SW.mean(axis=1)
    return figure(after - before, [of_before, of_after, *_of_seeds(by_seed)])


def percent_more(nats: float) -> float:
    """By how much a perplexity is larger, in percent, that is so many nats per token larger."""
    return 100 * math.expm1(nats)


def losses_of_runs(
    runs: Mapping[str, Path],
    periods: Mapping[str, Period],
    cache: Path,
    *,
    corpus: str,
    draws: int,
    device: str = "cpu",
    on_window: Callable[[int, int], None] | None = None,
) -> dict[str, dict[str, Array]]:
    """For each run and period the NLL of each window (W,), in nats per token.

    They are kept in `cache`, a file for each run; what is there already for the corpus of this digest and the same
    windows and masks is not computed again. `on_window(done, total)` counts over everything.
    """
    cache.mkdir(parents=True, exist_ok=True)
    each = sum(len(period.windows) for period in periods.values())
    found: dict[str, dict[str, Array]] = {}
    for number, (name, directory) in enumerate(runs.items()):

        def report(done: int, number: int = number) -> None:
            if on_window is not None:
                on_window(number * each + done, len(runs) * each)

        key = {"corpus": corpus, "draws": draws, "windows": {n: _told_apart(p.windows) for n, p in periods.items()}}
        path = cache / f"{name}.json"
        known = _read(path, key)
        if known is None:
            lm, done = load(directory, device), 0
            known = dict[str, Array]()
            for period_name, period in periods.items():
                known[period_name] = _losses(lm, period.windows, draws, lambda more, done=done: report(done + more))
                done += len(period.windows)
            write_atomically(path, json.dumps({"key": key, **{n: w.tolist() for n, w in known.items()}}) + "\n")
        report(each)
        found[name] = known
    return found


def compare(
    variants: Sequence[tuple[str, str, Sequence[str]]],
    losses: Mapping[str, Mapping[str, Array]],
    periods: Mapping[str, Period],
) -> dict[str, Any]:
    """The figures of each of `variants` (name, objective, its runs), and of each against the first ARM among them."""
    early, late = periods[IN_PERIOD], periods[SHIFTED]
    stacked = {
        name: {period: np.stack([losses[run][period] for run in runs]) for period in periods}
        for name, _, runs in variants
    }
    models: list[dict[str, Any]] = []
    for name, objective, _ in variants:
        mine = stacked[name]
        costs = {period: mean(mine[period], periods[period]) for period in periods}
        worse = degradation(mine[IN_PERIOD], mine[SHIFTED], early, late)
        models.append(
            {
                "name": name,
                "objective": objective,
                "bound": objective != "arm",
                "loss": {period: cost.to_dict() for period, cost in costs.items()},
                "bits_per_byte": {
                    period: cost.value / math.log(2) / periods[period].windows.bytes_per_token
                    for period, cost in costs.items()
                },
                "degradation": worse.to_dict(),
                "perplexity_percent": worse.mapped(percent_more),
                "by_seed": [
                    {period: float(mine[period][seed].mean()) for period in periods}
                    for seed in range(len(mine[IN_PERIOD]))
                ],
            }
        )
    baseline = next((name for name, objective, _ in variants if objective == "arm"), None)
    comparisons: list[dict[str, Any]] = []
    for name, _, _ in variants if baseline is not None else ():
        if baseline is None or name == baseline:
            continue
        difference = {period: stacked[name][period] - stacked[baseline][period] for period in periods}
        less = degradation(difference[IN_PERIOD], difference[SHIFTED], early, late)
        comparisons.append(
            {
                "model": name,
                "baseline": baseline,
                "loss": {period: mean(difference[period], periods[period]).to_dict() for period in periods},
                "degradation": less.to_dict(),
            }
        )
    return {
        "periods": {
            name: {
                "documents": period.document_count,
                "windows": len(period.windows),
                "tokens": len(period.windows) * period.windows.length,
                "bytes_per_token": period.windows.bytes_per_token,
            }
            for name, period in periods.items()
        },
        "models": models,
        "comparisons": comparisons,
    }


def window_rows(losses: Mapping[str, Mapping[str, Array]], periods: Mapping[str, Period]) -> Iterator[Sequence[Any]]:
    """A table of what all figures come from: the NLL of each window under each run, in nats per token."""
    yield ("period", "document", *losses)
    for name, period in periods.items():
        for place, document in enumerate(period.documents.tolist()):
            yield (name, document, *(f"{losses[run][name][place]:.4f}" for run in losses))


def _losses(lm: LanguageModel, windows: Windows, draws: int, on_window: Callable[[int], None]) -> Array:
    losses = held_out.window_losses(lm, windows, draws=draws, on_window=lambda done, _: on_window(done))
    return losses.double().view(len(windows), -1).mean(dim=1).numpy()


def _told_apart(windows: Windows) -> list[int]:
    """What tells the windows of one source apart."""
    return [windows.length, len(windows.indices), *windows.indices[:2], windows.indices[-1]]


def _read(path: Path, key: dict[str, Any]) -> dict[str, Array] | None:
    try:
        there = cast("dict[str, Any]", json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None
    if there.pop("key", None) != key:
        return None
    return {name: np.array(values, dtype=np.float64) for name, values in there.items()}


def _of_seeds(values_S: Array) -> list[Part]:
    """What the training's seed adds; nothing where there is but one, of which nobody knows."""
    seeds = len(values_S)
    return [Part(float(values_S.var(ddof=1)) / seeds, seeds - 1)] if seeds > 1 else []
