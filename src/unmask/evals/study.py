"""The best models of a study on held-out text and at writing: what `evaluation.json` and the report hold beside fits.

The temporal experiment of the paper (Nie et al., 2025, section 5): how much worse is a model on text from after its
training data than on held-out text of the same period?
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from unmask.data.source import Corpus
from unmask.evals import held_out
from unmask.evals.held_out import Windows
from unmask.language_model import Generation, LanguageModel
from unmask.report.evaluation import HeldOut, Sample, SampleToken
from unmask.scaling.study import FinishedRun, Study


def best_runs(study: Study) -> list[FinishedRun]:
    """For each objective its run with the lowest loss at its largest budget, in the order of the plan."""
    best: dict[str, FinishedRun] = {}
    for run in study.finished:
        if run.end.get("loss") is None:
            continue
        before = best.get(run.plan.objective)
        if before is None or (-run.plan.flops, run.end["loss"]) < (-before.plan.flops, before.end["loss"]):
            best[run.plan.objective] = run
    return list(best.values())


def temporal(
    models: Mapping[str, LanguageModel],
    corpus: Corpus,
    splits: Mapping[str, str],
    *,
    length: int,
    windows: int,
    draws: int = 1,
    seed: int = 0,
    on_window: Callable[[int, int], None] | None = None,
) -> list[HeldOut]:
    """What each split costs under each model; all see the same windows and masks.

    `models` are by the name of their run, `splits` map a split of `corpus` to what the report calls it.
    `on_window(done, total)` counts over everything.
    """
    texts: dict[str, Windows] = {}
    for split, name in splits.items():
        source = corpus.split(split)
        texts[name] = Windows.of(source, length, source.split.bytes / source.split.tokens, windows)
    total = len(models) * sum(len(text.indices) for text in texts.values())
    before = 0
    rows: list[HeldOut] = []
    for run, lm in models.items():
        for name, text in texts.items():

            def report(done: int, _: int, before: int = before) -> None:
                if on_window is not None:
                    on_window(before + done, total)

            found = held_out.measure(lm, text, draws=draws, seed=seed, on_window=report)
            before += len(text.indices)
            error = found.to_dict()["standard_error"]
            rows.append(
                HeldOut(lm.objective, run, name, found.loss, error, found.bits_per_byte, found.bound, found.tokens)
            )
    return rows


def sample(lm: LanguageModel, generation: Generation, *, run: str, title: str, kind: str, sampler: str) -> Sample:
    """A generation as the report shows it; a "generated" one ends at its first new end-of-text token."""
    tokens, steps = generation.tokens, generation.reveal_steps
    if kind == "generated":
        ends = [i for i, (token, step) in enumerate(zip(tokens, steps, strict=True)) if _ends(lm, token, step)]
        if ends:
            tokens, steps = tokens[: ends[0]], steps[: ends[0]]
    return Sample(
        objective=lm.objective,
        run=run,
        title=title,
        kind=kind,
        sampler=sampler,
        network_calls=generation.network_calls,
        seed=generation.seed,
        tokens=tuple(_shown(lm, tokens, steps)),
    )


def _ends(lm: LanguageModel, token: int, step: int) -> bool:
    return step >= 0 and token == lm.tokenizer.eos_id


def _shown(lm: LanguageModel, tokens: list[int], steps: list[int]) -> Iterable[SampleToken]:
    for piece, step in zip(lm.pieces(tokens), steps, strict=True):
        yield SampleToken(piece, None if step < 0 else step)
