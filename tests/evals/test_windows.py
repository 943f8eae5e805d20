"""Held-out text in windows, measured under small networks."""

import math

import numpy as np
import pytest
import torch

from tiny_models import language_model
from unmask import likelihood
from unmask.data import tokenizer as tokenizing
from unmask.errors import UsageError
from unmask.evals import held_out
from unmask.evals.held_out import Windows

TEXT = "Fellow citizens, the state of our Union is strong. Überall größere Bäume. "


def build(causal, context=16):
    return language_model(tokenizing.byte_level(), causal=causal, context_length=context, sharpened=True)


@pytest.fixture(scope="module")
def mdm():
    return build(causal=False)


@pytest.fixture(scope="module")
def arm():
    return build(causal=True)


def rows(windows):
    return [row for _, tokens_WL in windows.chunks() for row in tokens_WL.tolist()]


def test_text_is_laid_out_as_in_training(mdm):
    tokens, size = held_out.encode(mdm, [TEXT, " \n", iter([TEXT[:5], TEXT[5:]])])
    document = [*TEXT.encode(), mdm.tokenizer.eos_id]
    assert tokens.tolist() == document * 2
    assert size == 2 * len(TEXT.encode())
    assert held_out.encode(mdm, [])[0].tolist() == []


@pytest.mark.parametrize("length", [1, 7, 50, 99, 100, 101, 1000])
def test_windows_with_the_rest_leave_nothing_out(length):
    windows = Windows.of(np.arange(100), length, 4.0, with_rest=True)
    assert [token for row in rows(windows) for token in row] == list(range(100))
    assert windows.lengths.tolist() == [len(row) for row in rows(windows)]
    assert max(windows.lengths) <= length
    numbers = [number for chunk, _ in windows.chunks() for number in chunk]
    assert numbers == list(range(len(windows)))


def test_without_the_rest_all_windows_are_of_one_length():
    windows = Windows.of(np.arange(100), 30, 4.0)
    assert windows.lengths.tolist() == [30, 30, 30]
    with pytest.raises(UsageError, match="100 tokens are less than one window of 101"):
        Windows.of(np.arange(100), 101, 4.0)
    with pytest.raises(UsageError, match="0 tokens are less"):
        Windows.of(np.arange(0), 10, 4.0, with_rest=True)


def test_some_windows_are_spread_over_the_text():
    windows = Windows.of(np.arange(5000), 128, 4.0, 3, with_rest=True)
    assert [row[0] for row in rows(windows)] == [0, 13 * 128, 26 * 128]
    assert windows.rest == 0


@pytest.mark.parametrize(("windows", "draws"), [(1, 128), (3, 43), (64, 2), (1000, 2)])
def test_a_short_text_has_more_masks(windows, draws):
    assert held_out.enough_draws(windows) == draws


def test_an_arms_figure_is_the_exact_nll_of_every_token(arm):
    tokens, size = held_out.encode(arm, [TEXT])
    windows = Windows.of(tokens, 16, size / len(tokens), with_rest=True)
    found = held_out.measure(arm, windows)
    nll = 0.0
    for start in range(0, len(tokens), 16):
        row = torch.tensor([tokens[start : start + 16].tolist()])
        nll -= likelihood.causal(arm.logits_fn, row, torch.ones_like(row, dtype=torch.bool))[0].log_likelihood
    assert found.loss == pytest.approx(nll / len(tokens), rel=1e-5)
    assert found.bits_per_byte == pytest.approx(nll / math.log(2) / size, rel=1e-5)
    assert (found.tokens, found.bound) == (len(tokens), False)
    assert len(tokens) % 16


def test_an_mdms_figure_is_the_exact_bound_in_expectation():
    """Short windows, so that the exact bound can be had."""
    mdm = build(causal=False, context=7)
    tokens, _ = held_out.encode(mdm, [TEXT])
    windows = Windows.of(tokens[:19], 7, 1.0, with_rest=True)
    exact = 0.0
    for row in rows(windows):
        everything = torch.ones(len(row), dtype=torch.bool)
        exact -= likelihood.bound(
            mdm.logits_fn, torch.tensor(row), everything, mask_id=mdm.mask_id, estimator="exact"
        ).log_likelihood
    losses = torch.tensor([held_out.measure(mdm, windows, draws=20, seed=seed).loss for seed in range(30)])
    error = losses.std().item() / math.sqrt(len(losses))
    assert windows.lengths.tolist() == [7, 7, 5]
    assert losses.mean().item() == pytest.approx(exact / 19, abs=4 * error)
    assert error < 0.02 * exact / 19


@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.parametrize("kind", ["mdm", "arm"])
def test_the_figure_does_not_depend_on_how_many_windows_go_together(kind, request, monkeypatch, chunk):
    lm = request.getfixturevalue(kind)
    tokens, _ = held_out.encode(lm, [TEXT * 3])
    windows = Windows.of(tokens, 16, 1.0, with_rest=True)
    before = held_out.measure(lm, windows, draws=3)
    monkeypatch.setattr(held_out, "CHUNK", chunk)
    told = []
    after = held_out.measure(lm, windows, draws=3, on_window=lambda *each: told.append(each))
    assert after.loss == pytest.approx(before.loss, rel=1e-6)
    assert after.standard_error == pytest.approx(before.standard_error, rel=1e-4)
    assert told[-1] == (len(windows), len(windows))
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_the_masks_are_those_of_the_seed(mdm):
    tokens, _ = held_out.encode(mdm, [TEXT])
    windows = Windows.of(tokens, 16, 1.0, with_rest=True)
    assert held_out.measure(mdm, windows, seed=1) == held_out.measure(mdm, windows, seed=1)
    assert held_out.measure(mdm, windows, seed=1).loss != held_out.measure(mdm, windows, seed=2).loss


def test_one_token_alone_has_a_figure(mdm, arm):
    for lm in (mdm, arm):
        windows = Windows.of(np.array([65]), 16, 1.0, with_rest=True)
        found = held_out.measure(lm, windows, draws=4)
        assert 0 < found.loss < 20
        assert found.tokens == 1
