"""Scores, perplexities, lengths and seconds of answers, over the questions that all models have answered.

Intervals are over questions: a question's turns, which are no independent draws, are resampled together, and for all
models alike, so that differences between models are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from unmask.errors import UsageError
from unmask.evals import quality
from unmask.evals.mtbench.answers import Answer, Origin
from unmask.evals.mtbench.judging import NO_RATING, Judgment, Key
from unmask.evals.reference_model import Likelihood, Reference
from unmask.evals.resampling import Draws, Floats
from unmask.evals.samples import Sample
from unmask.seeding import derived_seed

Models = Mapping[str, Mapping[int, Answer]]
RESAMPLES = 2000
ALL = "all"
"""The group of all categories, and that of both turns."""


def common_turns(models: Models) -> list[tuple[int, int]]:
    """The (question, turn) that all models have answered. Raises `UsageError` if there are none."""
    first, *others = models.values()
    found: list[tuple[int, int]] = []
    for question_id, answer in sorted(first.items()):
        if all(question_id in other for other in others):
            turns = min(len(answer.turns), *(len(other[question_id].turns) for other in others), 99)
            found += [(question_id, turn) for turn in range(1, turns + 1)]
    if not found:
        raise UsageError("the models have answered no question in common: answer the same ones, or choose --models")
    return found


def likelihoods(
    models: Models, turns: Sequence[tuple[int, int]], reference: Reference, on_progress: Callable[[int], None]
) -> dict[Key, Likelihood]:
    """Of each answer under `reference`, after the conversation before it as plain text, a blank line between turns."""
    keys = [Key(question_id, model, turn) for model in models for question_id, turn in turns]
    samples = [_sample(models[key.model][key.question_id], key.turn) for key in keys]
    return dict(zip(keys, reference.likelihoods(samples, on_progress), strict=True))


def measure(
    models: Models,
    judgments: Mapping[Key, Judgment] | None,
    costs: Mapping[Key, Likelihood] | None,
    seed: int = 0,
) -> dict[str, Any]:
    """The figures of every model: for all turns, for each turn, and for each category.

    Raises `UsageError` if the models have no question in common.
    """
    turns = common_turns(models)
    first = next(iter(models.values()))
    categories = list(dict.fromkeys(first[question_id].question.category for question_id, _ in turns))
    groups: list[tuple[str, str]] = [(ALL, ALL), *((ALL, str(turn)) for turn in sorted({turn for _, turn in turns}))]
    groups += [(category, ALL) for category in categories] if len(categories) > 1 else []
    described = {model: _about(answers) for model, answers in models.items()}
    arm = next((model for model, about in described.items() if about["kind"] == "arm"), None)
    for category, turn in groups:
        chosen = [
            (question_id, place)
            for question_id, place in turns
            if category in (ALL, first[question_id].question.category) and turn in (ALL, str(place))
        ]
        questions = len({question_id for question_id, _ in chosen})
        draws = Draws(questions, derived_seed(seed, f"{category} {turn}"), RESAMPLES)
        sums = {model: _sums(model, answers, chosen, judgments, costs) for model, answers in models.items()}
        for model in models:
            figures: dict[str, Any] = {"category": category, "turn": turn, "turns": len(chosen)}
            figures["questions"] = questions
            figures["empty"] = sum(not models[model][q].turns[t - 1].text for q, t in chosen)
            figures["unrated"] = _unrated(model, chosen, judgments)
            for name, sums_Q2 in sums[model].items():
                values_R = _ratios(sums_Q2, draws)
                if name == "perplexity":
                    values_R = np.exp(np.minimum(values_R, 700.0))
                figures[name] = _with_interval(values_R)
            described[model]["groups"].append(figures)
        if (category, turn) == (ALL, ALL) and arm is not None:
            for model in models:
                described[model]["difference"] = _difference(sums[model], sums[arm], draws) if model != arm else None
    return {
        "questions": len({question_id for question_id, _ in turns}),
        "turns": len(turns),
        "categories": categories,
        "baseline": arm,
        "models": described,
    }


def _about(answers: Mapping[int, Answer]) -> dict[str, Any]:
    origin: Origin | None = next(iter(answers.values())).origin
    told = {name: getattr(origin, name, None) for name in ("model", "kind", "params", "label", "machine", "settings")}
    return {**told, "answered": len(answers), "difference": None, "groups": []}


def _sums(
    model: str,
    answers: Mapping[int, Answer],
    turns: Sequence[tuple[int, int]],
    judgments: Mapping[Key, Judgment] | None,
    costs: Mapping[Key, Likelihood] | None,
) -> dict[str, Floats]:
    """By measure, for each question (Q, 2): what is summed, and what the sum is divided by."""
    place = {question_id: index for index, question_id in enumerate(dict.fromkeys(q for q, _ in turns))}
    found: dict[str, Floats] = {}

    def add(name: str, question_id: int, over: float, under: float) -> None:
        found.setdefault(name, np.zeros((len(place), 2)))[place[question_id]] += over, under

    for question_id, number in turns:
        turn, key = answers[question_id].turns[number - 1], Key(question_id, model, number)
        words = quality.words(turn.text)
        add("words", question_id, len(words), 1)
        repetition = quality.repetition(words)
        if repetition is not None:
            add("repetition", question_id, repetition, 1)
        for name in ("seconds", "network_calls", "new_tokens"):
            value = getattr(turn, name)
            if value is not None:
                add(name, question_id, value, 1)
        judgment = None if judgments is None else judgments.get(key)
        if judgment is not None and judgment.score != NO_RATING:
            add("score", question_id, judgment.score, 1)
        if costs is not None and key in costs and costs[key].tokens:
            add("perplexity", question_id, costs[key].nll, costs[key].tokens)
    return found


def _unrated(model: str, turns: Sequence[tuple[int, int]], judgments: Mapping[Key, Judgment] | None) -> int | None:
    if judgments is None:
        return None
    made = [judgments.get(Key(question_id, model, turn)) for question_id, turn in turns]
    return sum(each is None or each.score == NO_RATING for each in made)


def _ratios(sums_Q2: Floats, draws: Draws) -> Floats:
    """What is summed over what it is divided by, for the questions as they are and for each resample."""
    over_R, under_R = draws.sums(sums_Q2).T
    return np.where(under_R > 0, over_R / np.maximum(under_R, 1e-300), np.nan)


def _difference(sums: Mapping[str, Floats], base: Mapping[str, Floats], draws: Draws) -> dict[str, Any]:
    """Of the score, and the factors of perplexity and seconds, each against the same questions of the baseline."""
    found: dict[str, Any] = {}
    for name in ("score", "perplexity", "seconds"):
        if name not in sums or name not in base:
            continue
        ours, theirs = (_ratios(each[name], draws) for each in (sums, base))
        with np.errstate(divide="ignore", invalid="ignore"):
            values = {"score": ours - theirs, "perplexity": np.exp(ours - theirs), "seconds": ours / theirs}[name]
        found[name] = _with_interval(values)
    return found


def _with_interval(values_R: Floats) -> dict[str, Any]:
    ends = Draws.interval(values_R)
    return {"value": float(values_R[0]), "ci95": None if ends is None else list(ends)}


def _sample(answer: Answer, turn: int) -> Sample:
    before: list[str] = []
    for place in range(turn):
        before += [answer.question.turns[place], answer.turns[place].text]
    return Sample(before[-1], "\n\n".join([*before[:-1], ""]))
