"""What a study found and what it cannot show, in sentences whose figures are computed from the data."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from unmask.report.evaluation import IN_PERIOD, SHIFTED, Evaluation, HeldOut
from unmask.report.markup import decimals, interval, name_of, power, text
from unmask.scaling import numbers, series
from unmask.scaling.isoflop import IsoflopFit
from unmask.scaling.laws import ComputeGap
from unmask.scaling.points import epochs
from unmask.scaling.study import Study


@dataclass(frozen=True)
class Finding:
    """A figure worth printing large, and what it means (both markup)."""

    figure: str
    meaning: str


@dataclass(frozen=True)
class Degradation:
    """How much worse one model is on shifted text than on text of its period."""

    objective: str
    run: str
    relative: float
    """(shifted - in-period) / in-period, in nats per token."""
    standard_error: float | None


def degradations(evaluation: Evaluation) -> list[Degradation]:
    """One for each model that was evaluated on both splits."""
    rows: dict[tuple[str, str], dict[str, HeldOut]] = {}
    for row in evaluation.temporal:
        rows.setdefault((row.objective, row.run), {})[row.split] = row
    found: list[Degradation] = []
    for (objective, run), splits in rows.items():
        before, after = splits.get(IN_PERIOD), splits.get(SHIFTED)
        if before is None or after is None:
            continue
        ratio = after.loss / before.loss
        error = None
        if before.standard_error is not None and after.standard_error is not None:
            # the two texts are independent samples
            error = ratio * math.hypot(before.standard_error / before.loss, after.standard_error / after.loss)
        found.append(Degradation(objective, run, ratio - 1, error))
    return found


def headline(fit: IsoflopFit | None, evaluation: Evaluation | None) -> list[Finding]:
    """The figures at the top of the page."""
    found: list[Finding] = []
    if fit is not None:
        found += [_gap_finding(gap, fit) for gap in fit.gaps]
        laws = {name: each.loss_law for name, each in fit.objectives.items() if each.loss_law}
        if laws:
            figures = [_colored(name, f"C<sup>{numbers.signed(law.exponent, 3)}</sup>") for name, law in laws.items()]
            ends = {name: law.exponent_ci95 or law.exponent_ci95_t for name, law in laws.items()}
            known = [f"{name_of(name)} {interval(each, decimals(3))}" for name, each in ends.items() if each]
            told = f"95% intervals of the exponents: {_and(known)}" if known else "nothing is known of its error"
            found.append(Finding(" ".join(figures), f"is how the loss of the best size falls with compute C; {told}."))
    worse = degradations(evaluation) if evaluation else []
    if worse:
        errors = [
            f'{name_of(each.objective)} <span class="nowrap">{percent(each.relative)}'
            + ("</span>" if each.standard_error is None else f" ± {100 * each.standard_error:.1f}</span>")
            for each in worse
        ]
        found.append(
            Finding(
                " ".join(_colored(each.objective, percent(each.relative)) for each in worse),
                "nats per token on shifted text, against held-out text of the training period, with standard errors: "
                f"{_and(errors)}.",
            )
        )
    return found


def percent(share: float) -> str:
    """A relative change: +8.9%."""
    return ("+" if share >= 0 else "") + numbers.signed(100 * share, 1) + "%"


def _colored(objective: str, figure: str) -> str:
    return f'<span class="nowrap {text(series.kind(objective))}">{figure}</span>'


def _gap_finding(gap: ComputeGap, fit: IsoflopFit) -> Finding:
    loss = gap.shown_loss
    value, ends = fit.gap_at(gap, loss)
    mine, base = name_of(gap.objective), name_of(gap.baseline)
    meaning = f"the compute is what the {mine} needs to match the {base} at {loss:.2f} nats per token"
    if ends is not None:
        meaning += f"; 95% interval {interval(ends, numbers.three_figures)}"
    if gap.observed is None:
        meaning += ". No loss was reached by both, so this extrapolates"
    return Finding(f"{numbers.three_figures(value)}×", meaning + ".")


def comparison(gap: ComputeGap) -> Iterable[str]:
    """Sentences that compare two objectives."""
    mine, base = name_of(gap.objective), name_of(gap.baseline)
    ends = gap.exponent_difference_ci95
    if ends is not None and ends[0] <= 0 <= ends[1]:
        verdict = "so the two slopes cannot be told apart"
    elif ends is not None:
        verdict = "so noise in the runs alone does not explain the difference in slope"
    else:
        verdict = "and nothing is known of its error"
    yield (
        f"The loss exponent of the {mine} less that of the {base} is {numbers.signed(gap.exponent_difference, 4)} "
        f"(95% interval {interval(ends, decimals(4))}), {verdict}."
    )
    if gap.params_ratio:
        low, high = (numbers.three_figures(ratio) for ratio in (min(gap.params_ratio), max(gap.params_ratio)))
        times = low if low == high else f"{low} to {high}"
        yield f"At equal compute the best {mine} has {times} times the parameters of the best {base}."
    if (gap.objective, gap.baseline) == ("mdm", "arm"):
        yield (
            "For comparison: the minima read off the figures of Nie et al. (2025), at 6 × 10<sup>18</sup> to "
            "10<sup>20</sup> FLOPs, give 14.6 to 16.1 times the compute, exponents of −0.0625 (MDM) and −0.0642 (ARM), "
            "and a best MDM of about half the ARM's size."
        )


def shown(study: Study, fit: IsoflopFit | None) -> Iterable[str]:
    """What the study does show."""
    points = study.points
    objectives = list(dict.fromkeys(point.objective for point in points))
    if len(objectives) > 1:
        yield (
            f"A comparison at equal compute: {_and([name_of(name) for name in objectives])} were trained on the same "
            "data, with the same network, batch, schedule and budgets, and scored on the same held-out windows."
        )
    fits = fit.objectives if fit else {}
    inside = [name_of(name) for name, each in fits.items() if each.minima and len(each.usable) == len(each.minima)]
    if inside:
        yield (
            f"At every budget the best size of the {_and(inside)} lies within the sizes that were run, so each minimum "
            "is interpolated."
        )


def limits(study: Study, fit: IsoflopFit | None) -> Iterable[str]:
    """What the study cannot show."""
    points = study.points
    if not points:
        return
    low, high = min(point.flops for point in points), max(point.flops for point in points)
    if high > low:
        yield (
            f"Its budgets span a factor of {high / low:.3g}, from {power(low)} to {power(high)} "
            "FLOPs. A power law that fits here need not hold far beyond, and none of the curves can show a loss that "
            "compute cannot remove."
        )
    else:
        yield f"It has one budget, {power(low)} FLOPs, and so says nothing on how loss changes with compute."
    if fit is None:
        yield "There are too few finished runs for a fit."
    notes: dict[str, list[str]] = {}
    for name, each in (fit.objectives if fit else {}).items():
        for note in each.notes:
            notes.setdefault(note, []).append(name_of(name))
    for note, names in notes.items():
        yield f"{_and(names)}: {note}"
    if fit and any(each.noise == "residuals" for each in fit.objectives.values()):
        yield (
            "Each size was run once. The noise of a run is estimated from how far the runs lie from their parabolas, "
            "which takes the parabola for the truth; intervals leave out that the parabola itself is an approximation."
        )
    if len(study.plan.seeds) == 1:
        yield f"All runs have one seed ({study.plan.seeds[0]}), so what another seed would change was not measured."
    if len({(run.settings.get("learning_rate"), run.batch_size) for run in study.plan.runs}) == 1:
        if all(run.settings.get("parametrization") == "completep" for run in study.plan.runs):
            yield (
                "All sizes share one batch size, and their learning rates follow from one by width and depth "
                "(completep). Whether it suits every budget was not tried, which may move the minima."
            )
        else:
            yield (
                "All sizes share one learning rate and one batch size. A size for which these are less well chosen "
                "looks worse than it is, which moves the minima."
            )
    if any(run.objective == "mdm" and run.settings.get("weighting") == "flat" for run in study.plan.runs):
        yield (
            f"The {name_of('mdm')} was trained on the mean cross-entropy of its masked tokens, without the weight 1/t "
            "that makes the loss a bound: in runs this short the weight's noise costs more than it brings. Every loss "
            "shown is the bound, with its weights."
        )
    if any(run.end.get("bound") for run in study.finished) and any(
        run.end.get("bound") is False for run in study.finished
    ):
        yield (
            "The loss of a masked diffusion model is an upper bound on its negative log-likelihood, that of an "
            "autoregressive model is exact. Part of the gap may be looseness of the bound."
        )
    if fit and fit.convention == "6nd":
        cost = "Compute is counted as 6 N D, without attention and the output head"
        small = max(point.params for point in points) < 5e7
        yield cost + (", which at these sizes are a large part of the real cost." if small else ".")
    repeated = [point for point in points if point.repeats]
    if repeated:
        worst = max(epochs(point) for point in repeated)
        yield f"Some runs saw their data up to {numbers.three_figures(worst)} times."


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
