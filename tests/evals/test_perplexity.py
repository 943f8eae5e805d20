"""The loss per token of held-out text, against models that can be enumerated.

Shapes as in `unmask.evals.perplexity`.
"""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from toys import Joint, Waves, any_order_case, at
from unmask import likelihood
from unmask.evals import perplexity

CASE = torch.tensor([1, 0, 1])


def exact_bound(logits_fn, tokens_L, mask_id):
    everything = torch.ones(len(tokens_L), dtype=torch.bool)
    return -likelihood.bound(logits_fn, tokens_L, everything, mask_id=mask_id, estimator="exact").log_likelihood


def bounds(logits_fn, tokens_WL, indices, draws=1, seed=0):
    return perplexity.window_bounds(
        logits_fn,
        tokens_WL,
        mask_id=logits_fn.mask_id if hasattr(logits_fn, "mask_id") else 2,
        draws=draws,
        seed=seed,
        vocab_size=4,
        indices=indices,
    )


class Causal:
    """Next-token probabilities of a joint distribution, as an ARM's `LogitsFn`."""

    def __init__(self, joint):
        self.joint = joint

    def __call__(self, tokens_BL, select_BL=None):
        length = tokens_BL.shape[1]
        rows = [
            self.joint(tokens_BL.masked_fill(torch.arange(length) >= position, self.joint.mask_id))[:, position]
            for position in range(length)
        ]
        return at(torch.stack(rows, dim=1), select_BL)


# The masks


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 5), st.integers(0, 1000))
@settings(max_examples=200, deadline=None)
def test_the_counts_of_a_windows_masks_are_spread_over_its_draws(length, draws, seed, window):
    masks_DL = perplexity.validation_masks(length, draws, seed, window)
    counts = masks_DL.sum(dim=1).tolist()
    assert masks_DL.shape == (draws, length)
    assert min(counts) >= 1
    for draw, count in enumerate(counts):  # within its part of 0..length
        assert length * draw / draws <= count <= length * (draw + 1) / draws + 1
    assert torch.equal(masks_DL, perplexity.validation_masks(length, draws, seed, window))


def test_every_count_comes_as_often_over_the_windows():
    counts = torch.cat([perplexity.validation_masks(10, 1, 3, window).sum(dim=1) for window in range(500)])
    assert torch.bincount(counts, minlength=11).tolist() == pytest.approx([0] + [50] * 10, abs=3)


def test_every_token_is_masked_as_often_for_each_count():
    masks_RL = torch.cat([perplexity.validation_masks(6, 2, 0, window) for window in range(3000)])
    counts_R = masks_RL.sum(dim=1)
    for count in range(1, 7):
        rows_RL = masks_RL[counts_R == count].double()
        error = math.sqrt(count / 6 * (1 - count / 6) / len(rows_RL))
        assert rows_RL.mean(dim=0).tolist() == pytest.approx([count / 6] * 6, abs=4.5 * error + 1e-9)


def test_windows_and_seeds_have_masks_of_their_own():
    masks = [perplexity.validation_masks(50, 1, seed, window) for seed in (0, 1) for window in (0, 1)]
    assert not any(torch.equal(one, other) for i, one in enumerate(masks) for other in masks[:i])


# The bound


@pytest.mark.parametrize("draws", [1, 2, 3])
def test_the_mean_over_windows_is_the_exact_bound_of_the_closed_form_case(draws):
    """The same text in every window, so that only the masks differ."""
    windows = 6000
    found_W = bounds(any_order_case, CASE.repeat(windows, 1), range(windows), draws).double()
    # the draws are stratified: the error is no larger than that of independent ones, whose variance is 1.898 / 9
    assert found_W.mean().item() == pytest.approx(2.3714675415 / 3, abs=4 * math.sqrt(1.898 / 9 / windows / draws))
    assert found_W.std().item() / math.sqrt(windows) < 1.1 * math.sqrt(1.898 / 9 / windows)


@pytest.mark.parametrize("length", [1, 4, 7])
def test_the_mean_over_windows_is_the_exact_bound_of_any_text(length):
    waves = Waves(vocab_size=4)
    text_L = torch.tensor([3, 1, 0, 2, 2, 0, 1])[:length]
    found_W = bounds(waves, text_L.repeat(3000, 1), range(3000), seed=1).double()
    error = found_W.std().item() / math.sqrt(3000)
    assert found_W.mean().item() == pytest.approx(exact_bound(waves, text_L, 4) / length, abs=4 * error + 1e-6)


def test_the_bound_of_a_known_joint_is_its_exact_nll():
    joint = Joint(length=4, vocab_size=3)
    text_L = joint.texts_NL[37]
    found_W = bounds(joint, text_L.repeat(4000, 1), range(4000), draws=2)
    error = found_W.std().item() / math.sqrt(4000)
    assert found_W.mean().item() == pytest.approx(-joint.probs_N[37].log().item() / 4, abs=4 * error)


def test_many_draws_of_one_window_come_close_to_its_bound():
    waves = Waves(vocab_size=4)
    text_1L = torch.tensor([[3, 1, 0, 2, 2]])
    losses_1D = perplexity.draw_losses(waves, text_1L, mask_id=4, draws=4000, seed=0, vocab_size=4, indices=[0])
    found = perplexity.summarise(losses_1D, length=5, bytes_per_token=1.0, bound=True)
    assert found.windows == 1
    assert found.loss == pytest.approx(exact_bound(waves, text_1L[0], 4) / 5, abs=4 * found.standard_error)
    assert 0 < found.standard_error < 0.1


@pytest.mark.parametrize("draws", [1, 3])
@pytest.mark.parametrize("logits_at_once", [1, 4 * 5 * 4, 2**25])
def test_a_windows_figure_does_not_depend_on_its_batch(monkeypatch, draws, logits_at_once):
    waves = Waves(vocab_size=4)
    tokens_WL = torch.randint(0, 4, (9, 5), generator=torch.Generator().manual_seed(0))
    numbers = [7, 0, 3, 100, 5, 8, 2, 1, 4]
    alone = torch.cat([bounds(waves, tokens_WL[i : i + 1], numbers[i : i + 1], draws) for i in range(9)])
    monkeypatch.setattr(perplexity, "LOGITS_AT_ONCE", logits_at_once)
    assert torch.equal(bounds(waves, tokens_WL, numbers, draws), alone)
    backwards = bounds(waves, tokens_WL.flip(0), numbers[::-1], draws)
    assert torch.equal(backwards.flip(0), alone)


def test_no_more_logits_at_once_than_allowed(monkeypatch):
    largest = 0

    def counting(tokens_BL, select_BL=None):
        nonlocal largest
        largest = max(largest, tokens_BL.numel() * 4)
        return Waves(vocab_size=4)(tokens_BL, select_BL)

    monkeypatch.setattr(perplexity, "LOGITS_AT_ONCE", 100)
    perplexity.window_bounds(
        counting, torch.zeros(20, 5, dtype=torch.int64), mask_id=4, draws=2, seed=0, vocab_size=4, indices=range(20)
    )
    assert 60 < largest <= 100


# Exact


def test_the_nll_of_an_arm_is_that_of_its_chain():
    joint = Joint(length=4, vocab_size=3, seed=2)
    found_W = perplexity.window_nlls(Causal(joint), joint.texts_NL, vocab_size=3)
    assert torch.allclose(found_W.double(), -joint.probs_N.log() / 4, atol=1e-6)


@pytest.mark.parametrize("logits_at_once", [1, 50])
def test_the_nll_of_an_arms_window_does_not_depend_on_its_batch(monkeypatch, logits_at_once):
    joint = Joint(length=4, vocab_size=3, seed=2)
    whole_W = perplexity.window_nlls(Causal(joint), joint.texts_NL, vocab_size=3)
    monkeypatch.setattr(perplexity, "LOGITS_AT_ONCE", logits_at_once)
    assert torch.equal(perplexity.window_nlls(Causal(joint), joint.texts_NL, vocab_size=3), whole_W)


# The summary


def test_the_summary_of_equal_windows_is_mean_and_standard_error():
    losses_W = torch.tensor([3.0, 4.0, 5.0, 8.0])
    found = perplexity.summarise(losses_W, length=16, bytes_per_token=4.0, bound=True)
    assert found.loss == 5.0
    assert found.standard_error == pytest.approx(losses_W.std().item() / 2)
    assert found.bits_per_byte == pytest.approx(5.0 / math.log(2) / 4)
    assert (found.windows, found.tokens, found.bound) == (4, 64, True)


def test_every_token_counts_the_same_in_windows_of_different_length():
    tokens = [torch.randint(0, 4, (1, length)) for length in (8, 8, 3)]
    logits_V = torch.randn(4)
    nlls = [F.cross_entropy(logits_V.expand(row.shape[1], 4), row[0], reduction="none") for row in tokens]
    found = perplexity.summarise(
        torch.stack([nll.mean() for nll in nlls]), length=torch.tensor([8, 8, 3]), bytes_per_token=2.0, bound=False
    )
    assert found.loss == pytest.approx(torch.cat(nlls).mean().item(), rel=1e-6)
    assert found.tokens == 19
    assert found.bound is False


def test_the_error_over_windows_of_different_length_is_that_of_a_ratio():
    """Checked by drawing: the spread of the figure over many texts is what one text tells of it."""
    generator = torch.Generator().manual_seed(0)
    lengths_W = torch.tensor([10] * 30 + [3] * 10)
    texts = [
        perplexity.summarise(
            4 + torch.randn(40, generator=generator), length=lengths_W, bytes_per_token=1.0, bound=True
        )
        for _ in range(400)
    ]
    spread = torch.tensor([text.loss for text in texts]).std().item()
    told = torch.tensor([text.standard_error for text in texts]).mean().item()
    assert told == pytest.approx(spread, rel=0.15)


def test_the_error_of_a_single_window_is_over_its_masks_or_unknown():
    losses_1D = torch.tensor([[3.0, 4.0, 5.0, 8.0]])
    found = perplexity.summarise(losses_1D, length=16, bytes_per_token=4.0, bound=True)
    assert (found.loss, found.standard_error) == (5.0, pytest.approx(losses_1D.std().item() / 2))
    found = perplexity.summarise(torch.tensor([3.0]), length=16, bytes_per_token=4.0, bound=False)
    assert math.isnan(found.standard_error)
    assert found.to_dict()["standard_error"] is None
    assert found.to_dict()["loss"] == 3.0


@given(st.integers(1, 300), st.integers(1, 400))
@settings(max_examples=200, deadline=None)
def test_windows_are_spread_evenly_or_all_taken(total, wanted):
    found = perplexity.spread(total, wanted)
    assert len(found) == len(set(found)) == min(total, wanted)
    assert found == sorted(found)
    assert found[0] == 0
    assert found[-1] < total
    gaps = {after - before for before, after in itertools.pairwise(found)}
    assert len(gaps) <= 2
