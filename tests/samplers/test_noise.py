import math

import pytest
import torch
from scipy import stats

from unmask.samplers import noise


def grid(size):
    """`size` numbers that spread over [0, 1) as evenly as can be: a draw's shares then are its probabilities."""
    return (torch.arange(size, dtype=torch.float64) + 0.5) / size


def shares(logits_V, temperature, **options):
    uniform_S = grid(100_000)
    drawn_S = noise.draw(logits_V.expand(len(uniform_S), -1), uniform_S, temperature=temperature, **options)
    return drawn_S.bincount(minlength=len(logits_V)).double() / len(uniform_S)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0, 3.0])
def test_tokens_get_their_share_at_every_temperature(temperature):
    logits_V = torch.tensor([0.0, -2.0, 1.5, -9.0, 0.3])
    expected = (logits_V.double() / temperature).softmax(0)
    assert (shares(logits_V, temperature) - expected).abs().max() <= 1.01e-5


@pytest.mark.parametrize("seed", [0, 1])
def test_random_draws_follow_the_distribution(seed):
    logits_V = torch.tensor([0.0, -2.0, 1.5, 0.3])
    draws = 40_000
    (uniform_S,) = noise.uniform([torch.Generator().manual_seed(seed)], draws, torch.device("cpu"))
    observed = noise.draw(logits_V.expand(draws, -1), uniform_S, temperature=0.8).bincount(minlength=4)
    expected = (logits_V.double() / 0.8).softmax(0) * draws
    assert stats.chisquare(observed, expected).pvalue > 1e-3


def test_rare_tokens_are_drawn_where_float32_gumbel_noise_cannot_reach():
    # 2^16 tokens of probability 2^-34 each beside one sure one; float32 Gumbel noise ends at 16.6 = 24 ln 2
    rare = -34 * math.log(2)
    logits_V = torch.full((1 + 2**16,), rare)
    logits_V[0] = 0.0
    total = 1 + 2**16 * math.exp(logits_V[1].double().item())
    threshold = 1 / total
    uniform_S = torch.tensor([0.0, threshold - 2e-11, threshold + 2e-11, 1 - 2**-53], dtype=torch.float64)
    drawn_S = noise.draw(logits_V.expand(4, -1), uniform_S, temperature=1.0)
    assert drawn_S.tolist() == [0, 0, 1, 2**16]
    halfway = threshold + (1 - threshold) / 2
    (drawn,) = noise.draw(logits_V[None], torch.tensor([halfway], dtype=torch.float64), temperature=1.0)
    assert abs(drawn.item() - 2**15) <= 1

    largest_float32_gumbel = -math.log(-math.log(1 - 2.0**-24))
    assert largest_float32_gumbel + rare < -6  # it would have to beat the sure token's Gumbel number: e^-e^6, never


def test_a_token_of_probability_zero_is_never_drawn():
    logits_V = torch.tensor([-math.inf, 0.0, -math.inf, 0.0, -math.inf])
    uniform_S = torch.tensor([0.0, 0.5 - 2**-53, 0.5, 1 - 2**-53], dtype=torch.float64)
    assert noise.draw(logits_V.expand(4, -1), uniform_S, temperature=1.0).tolist() == [1, 1, 3, 3]


def test_top_k_and_top_p_keep_the_likeliest():
    probs_V = torch.tensor([0.1, 0.4, 0.2, 0.3], dtype=torch.float64)
    logits_V = probs_V.log().float()
    cases = [
        ({"top_k": 1}, [0, 1, 0, 0]),
        ({"top_k": 2}, [0, 4 / 7, 0, 3 / 7]),
        ({"top_k": 9}, probs_V.tolist()),
        ({"top_p": 0.39}, [0, 1, 0, 0]),
        ({"top_p": 0.65}, [0, 4 / 7, 0, 3 / 7]),
        ({"top_p": 1.0}, probs_V.tolist()),
        ({"top_k": 3, "top_p": 0.7}, [0, 4 / 7, 0, 3 / 7]),  # 0.4 + 0.3 is more than 0.7 of the 0.9 that top-k left
    ]
    for options, expected in cases:
        torch.testing.assert_close(shares(logits_V, 1.0, **options), torch.tensor(expected).double(), atol=2e-5, rtol=0)


def test_chunks_do_not_change_the_draw(monkeypatch):
    logits_SV = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    whole = noise.draw(logits_SV, grid(50), temperature=1.0, top_p=0.9)
    monkeypatch.setattr(noise, "CHUNK", 20)
    assert torch.equal(noise.draw(logits_SV, grid(50), temperature=1.0, top_p=0.9), whole)


def test_probability_is_that_of_the_token():
    logits_SV = torch.tensor([[0.0, 1.0], [3.0, -math.inf]])
    assert noise.probability(logits_SV, torch.tensor([1, 0])).tolist() == pytest.approx([1 / (1 + math.exp(-1)), 1.0])
