"""Speed against quality: an MDM's samplers beside an ARM with its key-value cache (Nie et al., 2025, section 6).

All settings write the same number of tokens after the same prompts on the same machine in one run, the end-of-text
token barred. Texts are written once; then the settings take turns, a batch each, for several rounds, so that a machine
that slows down slows all of them: a setting's time is the median over rounds.

Quality is the NLL under a reference at equal entropy: what a setting's texts cost more than the ARM's texts of the same
entropy, which is had by a row of temperatures of the ARM. For texts with less entropy than the ARM's at any of these
temperatures there is no such figure, and for those with more the comparison is with the ARM's most diverse ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from unmask.errors import UnmaskError, UsageError
from unmask.evals import quality
from unmask.evals.frontier_settings import Setting
from unmask.evals.quality import Quality
from unmask.evals.reference_model import Likelihood, Reference
from unmask.evals.samples import Sample
from unmask.language_model import LanguageModel
from unmask.samplers import Step

Array = npt.NDArray[np.float64]
RESAMPLES = 1000


@dataclass
class Timing:
    """How fast a setting is with so many rows in a batch."""

    batch: int
    seconds: list[float] = field(default_factory=list[float])
    """Of a batch, in each round."""
    first_token: float = float("nan")
    """Seconds until the first token after the prompt is there."""

    def per_sample(self) -> float:
        """Median seconds for one sample."""
        return float(np.median(self.seconds)) / self.batch


@dataclass
class Measured:
    """A setting with its texts, what they are worth, and how long they take."""

    setting: Setting
    texts: list[Sample]
    network_calls: float
    """Mean of a sample."""
    timings: list[Timing] = field(default_factory=list[Timing])
    likelihoods: list[Likelihood] = field(default_factory=list[Likelihood])
    entropies: list[float] = field(default_factory=list[float])
    """Of each sample."""
    figures: Quality | None = None
    gap: quality.Figure | None = None
    """Nats per token more than the ARM's texts of the same entropy; None where there are none."""


@dataclass(frozen=True)
class Speedup:
    """The fastest way of an MDM to the ARM's quality, at one batch size."""

    batch: int
    ratio: float | None
    """The ARM's time over the MDM's, on the Pareto line between the settings; None if its quality is not reached."""
    ci95: tuple[float, float] | None
    """0 stands for resamples in which it is not reached."""
    reached: float
    """Share of the resamples in which it is."""
    nearest: str
    """The setting with the least gap."""
    nearest_gap: float | None


@dataclass(frozen=True)
class Workload:
    """What every setting has to write."""

    prompts: tuple[str, ...]
    new_tokens: int
    seed: int
    suppress: dict[str, frozenset[int]]
    """Ids that are not drawn, by model."""

    def of(self, count: int, start: int = 0) -> tuple[list[str], list[int]]:
        """The prompts and the seeds of `count` samples."""
        indices = range(start, start + count)
        return [self.prompts[i % len(self.prompts)] for i in indices], [self.seed + i for i in indices]


OnProgress = Callable[[str], None]


def run(
    models: dict[str, LanguageModel],
    settings: Sequence[Setting],
    timed: Sequence[Setting],
    work: Workload,
    *,
    num_samples: int,
    batches: Sequence[int],
    rounds: int,
    on_progress: OnProgress,
) -> list[Measured]:
    """Write the texts of all `settings`, then take the time of those that are `timed`.

    Raises `UnmaskError` where a setting cannot be run.
    """
    found: list[Measured] = []
    for setting in settings:
        on_progress(f"writing: {setting.label}")
        prompts, seeds = work.of(num_samples)
        try:
            made = _generate(models, setting, work, prompts, seeds, max(batches))
        except UsageError as error:
            raise UsageError(f"{setting.label}: {error}") from None
        texts = [Sample(one.fills[0], prompt) for one, prompt in zip(made, prompts, strict=True)]
        found.append(Measured(setting, texts, float(np.mean([one.network_calls for one in made]))))
    in_turn = [each for each in found if each.setting in timed]
    for each in in_turn:
        each.timings = [Timing(batch) for batch in batches]
    for number in range(-1, rounds):  # the first round warms up, and tells when the first token is there
        for each in in_turn:
            on_progress(f"round {number + 1} of {rounds}: {each.setting.label}")
            for timing in each.timings:
                prompts, seeds = work.of(timing.batch, start=max(number, 0) * timing.batch)
                if number < 0:
                    timing.first_token = _first_token(models, each.setting, work, prompts, seeds)
                    continue
                begun = time.perf_counter()
                _generate(models, each.setting, work, prompts, seeds, timing.batch)
                timing.seconds.append(time.perf_counter() - begun)
    return found


def judge(found: Sequence[Measured], reference: Reference, on_progress: OnProgress, seed: int = 0) -> None:
    """Add likelihoods, figures and gaps. Raises `UnmaskError` if some setting writes nothing."""
    for each in found:
        on_progress(f"judging: {each.setting.label}")
        each.likelihoods = reference.likelihoods(each.texts, lambda done: None)
        split = reference.encode
        rows = [split(sample.text) for sample in each.texts]
        each.entropies = [quality.entropy(row) if row else 0.0 for row in rows]
        try:
            each.figures = quality.measure(each.texts, each.likelihoods, split=split)
        except UsageError as error:
            raise UnmaskError(f"{each.setting.label}: {error}") from None
    for each, gaps in zip(found, _gaps(found, seed), strict=True):
        if not np.isnan(gaps[0]):
            each.gap = quality.Figure(float(gaps[0]), float(np.nanstd(gaps[1:], ddof=1)))


def speedups(found: Sequence[Measured], seed: int = 0) -> list[Speedup]:
    """The fastest way to the ARM's quality at each batch size, with intervals over samples and rounds."""
    arm = next(each for each in found if each.setting.model == "arm" and each.timings)
    rows = [index for index, each in enumerate(found) if each.setting.model == "mdm" and each.timings]
    gaps_GR = _gaps(found, seed)
    random = np.random.default_rng([seed, 1])
    results: list[Speedup] = []
    for place, timing in enumerate(arm.timings):
        ratios: list[float] = []
        for sample in range(RESAMPLES + 1):
            times = [_time(found[index].timings[place], random if sample else None) for index in rows]
            arm_time = _time(timing, random if sample else None)
            reach = reaching_time(np.array(times), np.array([gaps_GR[index][sample] for index in rows]))
            ratios.append(0.0 if reach is None else arm_time / reach)
        known = [(gaps_GR[index][0], index) for index in rows if not np.isnan(gaps_GR[index][0])]
        gap, nearest = min(known) if known else (None, rows[0])
        low, high = np.percentile(ratios[1:], [2.5, 97.5])
        results.append(
            Speedup(
                timing.batch,
                ratios[0] or None,
                (float(low), float(high)),
                float(np.mean(np.array(ratios[1:]) > 0)),
                found[nearest].setting.label,
                None if gap is None else float(gap),
            )
        )
    return results


def pareto(times: Sequence[float], losses: Sequence[float]) -> list[int]:
    """The indices of the points than which none is both faster and better, from the fastest on; nan is never one."""
    points = [(time, loss, index) for index, (time, loss) in enumerate(zip(times, losses, strict=True))]
    order = sorted(point for point in points if not np.isnan(point[1]))  # nan has no place in an order
    best, found = np.inf, list[int]()
    for _, loss, index in order:
        if loss < best:
            best = loss
            found.append(index)
    return found


def reaching_time(times: Array, gaps: Array) -> float | None:
    """The time at which the Pareto line, straight between its points over log time, has a gap of 0; None if never."""
    line = pareto(times.tolist(), gaps.tolist())
    for before, here in zip([None, *line], line, strict=False):
        if gaps[here] <= 0:
            if before is None:
                return float(times[here])
            share = gaps[before] / (gaps[before] - gaps[here])
            return float(np.exp((1 - share) * np.log(times[before]) + share * np.log(times[here])))
    return None


def gap_at_equal_entropy(loss: float, entropy: float, arm_losses: Array, arm_entropies: Array) -> float:
    """Nats per token above the ARM's line of loss over entropy; nan below its least entropy.

    Above its greatest entropy the line stays level: the MDM's texts are compared with the ARM's most diverse ones.
    """
    order = np.argsort(arm_entropies)
    if entropy < arm_entropies[order[0]]:
        return float("nan")
    return float(loss - np.interp(entropy, arm_entropies[order], arm_losses[order]))


def _gaps(found: Sequence[Measured], seed: int) -> list[Array]:
    """The gap of each setting as it is, and in resamples of all texts (nan where there is none)."""
    random = np.random.default_rng([seed, 0])
    losses, entropies = list[Array](), list[Array]()
    for each in found:
        nlls = np.array([one.nll for one in each.likelihoods])
        tokens = np.array([one.tokens for one in each.likelihoods], dtype=float)
        own = np.array(each.entropies)
        picks = random.integers(len(nlls), size=(RESAMPLES, len(nlls)))
        picks = np.concatenate([np.arange(len(nlls))[None], picks])
        losses.append(nlls[picks].sum(axis=1) / np.maximum(tokens[picks].sum(axis=1), 1))
        entropies.append(own[picks].mean(axis=1))
    arms = [index for index, each in enumerate(found) if each.setting.model == "arm"]
    arm_losses, arm_entropies = (np.stack([values[index] for index in arms]) for values in (losses, entropies))
    return [
        np.array(
            [
                gap_at_equal_entropy(loss[r], entropy[r], arm_losses[:, r], arm_entropies[:, r])
                for r in range(RESAMPLES + 1)
            ]
        )
        for loss, entropy in zip(losses, entropies, strict=True)
    ]


def _time(timing: Timing, random: np.random.Generator | None) -> float:
    if random is None:
        return timing.per_sample()
    picked = random.choice(np.array(timing.seconds), size=len(timing.seconds))
    return float(np.median(picked)) / timing.batch


def _generate(
    models: dict[str, LanguageModel],
    setting: Setting,
    work: Workload,
    prompts: list[str],
    seeds: list[int],
    batch: int,
    on_step: Callable[[Step], None] | None = None,
) -> list[Any]:
    return models[setting.model].generate(
        prompts,
        max_new_tokens=work.new_tokens,
        seed=seeds,
        batch_size=batch,
        suppress=work.suppress[setting.model],
        on_step=on_step,
        **setting.arguments(),
    )


def _first_token(
    models: dict[str, LanguageModel], setting: Setting, work: Workload, prompts: list[str], seeds: list[int]
) -> float:
    """Seconds until the first row's first new token is revealed."""
    mask_id = models[setting.model].mask_id
    begun = time.perf_counter()
    seen: list[float] = []

    def on_step(state: Step) -> None:
        new_L = state.reveal_step_BL[0] >= 0
        if not seen and bool(new_L.any()):
            first = int((new_L | (state.tokens_BL[0] == mask_id)).int().argmax())
            if bool(new_L[first]):
                seen.append(time.perf_counter() - begun)

    _generate(models, setting, work, prompts, seeds, len(prompts), on_step)
    return seen[0] if seen else time.perf_counter() - begun
