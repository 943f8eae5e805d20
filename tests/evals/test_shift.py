"""The statistics of the temporal experiment: windows within documents, errors by document, paired differences."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from unmask.data.source import TokenSource
from unmask.errors import UsageError
from unmask.evals import shift
from unmask.evals.held_out import Windows
from unmask.evals.shift import Period
from unmask.report.evaluation import IN_PERIOD, SHIFTED


def source_of(lengths: list[int]) -> TokenSource:
    total = sum(lengths)
    split: Any = SimpleNamespace(documents=len(lengths), tokens=total, bytes=4 * total)
    boundaries = np.cumsum([0, *lengths])
    return TokenSource("valid", split, [np.arange(total)], boundaries)


def period_of(documents: list[int]) -> Period:
    count = len(documents)
    return Period(Windows(np.zeros(8 * count, dtype=np.int32), 8, tuple(range(count)), 4.0), np.array(documents))


def test_no_window_reaches_over_the_end_of_a_document() -> None:
    source = source_of([20, 3, 41, 16])
    period = Period.of(source, 8, 100)
    for index, document in zip(period.windows.indices, period.documents, strict=True):
        assert source.documents[document] <= index * 8
        assert (index + 1) * 8 <= source.documents[document + 1]
    assert period.windows.indices == (0, 1, 3, 4, 5, 6, 7, 8, 9)
    assert period.documents.tolist() == [0, 0, 2, 2, 2, 2, 2, 3, 3]
    assert period.document_count == 3
    assert len(Period.of(source, 8, 3).windows) == 3
    with pytest.raises(UsageError, match="no document of 64 tokens"):
        Period.of(source, 64, 3)


def test_the_error_is_the_usual_one_where_each_document_has_one_window() -> None:
    losses = np.random.default_rng(0).normal(4, 1, 50)
    mean, part = shift.mean_by_document(losses, np.arange(50))
    assert mean == pytest.approx(losses.mean())
    assert part.variance == pytest.approx(losses.var(ddof=1) / 50)
    assert part.freedom == 49


def test_intervals_cover_the_truth_where_windows_of_a_document_are_alike() -> None:
    random = np.random.default_rng(1)
    early, late = (
        period_of([d for d in range(12) for _ in range(9)]),
        period_of([d for d in range(9) for _ in range(9)]),
    )
    covered = naive = 0
    repeats = 1000
    for _ in range(repeats):
        before, after = (
            (random.normal(0, 0.3, p.document_count)[p.documents] + random.normal(4, 0.2, len(p.documents)))[None]
            for p in (early, late)
        )
        found = shift.degradation(before, after + 0.5, early, late)
        assert found.ci95 is not None
        covered += found.ci95[0] <= 0.5 <= found.ci95[1]
        error = math.sqrt(before.var() / before.size + after.var() / after.size)
        naive += abs(found.value - 0.5) <= 1.96 * error
    assert 0.93 < covered / repeats < 0.97
    assert naive / repeats < 0.65  # as if windows were independent


def test_seeds_add_their_own_error() -> None:
    random = np.random.default_rng(2)
    early = late = period_of(list(range(2000)))
    covered = 0
    for _ in range(300):
        by_seed = random.normal(0, 0.5, (3, 1))
        before = random.normal(4, 0.1, (3, 2000))
        found = shift.degradation(before, before + by_seed, early, late)
        assert found.ci95 is not None
        covered += found.ci95[0] <= 0 <= found.ci95[1]
    assert 0.91 < covered / 300 < 0.99


def test_a_single_document_says_nothing_of_the_error() -> None:
    period = period_of([0, 0, 0])
    found = shift.mean(np.array([[1.0, 2.0, 3.0]]), period)
    assert (found.value, found.standard_error, found.ci95) == (2.0, None, None)


def test_models_are_compared_window_by_window() -> None:
    random = np.random.default_rng(3)
    documents = [d for d in range(6) for _ in range(5)]
    periods = {IN_PERIOD: period_of(documents), SHIFTED: period_of(documents)}
    arm = {name: random.normal(4, 1, 30) for name in periods}
    mdm = {IN_PERIOD: arm[IN_PERIOD] + 1.0, SHIFTED: arm[SHIFTED] + 0.75}
    losses = {"arm-1x-seed0": arm, "mdm-16x-seed0": mdm}
    found = shift.compare([("arm-1x", "arm", ["arm-1x-seed0"]), ("mdm-16x", "mdm", ["mdm-16x-seed0"])], losses, periods)
    (each,) = found["comparisons"]
    assert (each["model"], each["baseline"]) == ("mdm-16x", "arm-1x")
    assert each["loss"][IN_PERIOD]["value"] == pytest.approx(1.0)
    assert each["degradation"]["value"] == pytest.approx(-0.25)
    assert each["degradation"]["standard_error"] == pytest.approx(0, abs=1e-12)  # texts differ, differences do not
    arm_alone, mdm_alone = found["models"]
    assert arm_alone["degradation"]["standard_error"] > 0.1
    assert (arm_alone["bound"], mdm_alone["bound"]) == (False, True)
    worse = arm[SHIFTED].mean() - arm[IN_PERIOD].mean()
    assert arm_alone["perplexity_percent"]["value"] == pytest.approx(100 * (math.exp(worse) - 1))
    assert arm_alone["bits_per_byte"][IN_PERIOD] == pytest.approx(arm[IN_PERIOD].mean() / math.log(2) / 4)
    rows = list(shift.window_rows(losses, periods))
    assert rows[0] == ("period", "document", "arm-1x-seed0", "mdm-16x-seed0")
    assert len(rows) == 61
