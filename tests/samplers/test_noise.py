import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from unmask.errors import UsageError
from unmask.samplers import Draw, noise


def grid(size):
    """`size` numbers that spread over [0, 1) as evenly as can be: a draw's shares then are its probabilities."""
    return (torch.arange(size, dtype=torch.float64) + 0.5) / size


def shares(logits_V, temperature, **options):
    uniform_S = grid(100_000)
    drawn = Draw(temperature, **options)(logits_V.expand(len(uniform_S), -1), uniform_S)
    return drawn.tokens_S.bincount(minlength=len(logits_V)).double() / len(uniform_S)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0, 3.0])
def test_tokens_get_their_share_at_every_temperature(temperature):
    logits_V = torch.tensor([0.0, -2.0, 1.5, -9.0, 0.3])
    expected = (logits_V.double() / temperature).softmax(0)
    assert (shares(logits_V, temperature) - expected).abs().max() <= 1.01e-5


@pytest.mark.parametrize("seed", [0, 1])
def test_random_draws_follow_the_distribution(seed):
    logits_V = torch.tensor([0.0, -2.0, 1.5, 0.3])
    draws = 40_000
    (uniform_S,) = noise.uniform([torch.Generator().manual_seed(seed)], torch.ones(1, draws, dtype=torch.bool))
    observed = Draw(0.8)(logits_V.expand(draws, -1), uniform_S).tokens_S.bincount(minlength=4)
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
    assert Draw()(logits_V.expand(4, -1), uniform_S).tokens_S.tolist() == [0, 0, 1, 2**16]
    halfway = threshold + (1 - threshold) / 2
    (drawn,) = Draw()(logits_V[None], torch.tensor([halfway], dtype=torch.float64)).tokens_S
    assert abs(drawn.item() - 2**15) <= 1

    largest_float32_gumbel = -math.log(-math.log(1 - 2.0**-24))
    assert largest_float32_gumbel + rare < -6  # it would have to beat the sure token's Gumbel number: e^-e^6, never


def test_a_token_of_probability_zero_is_never_drawn():
    logits_V = torch.tensor([-math.inf, 0.0, -math.inf, 0.0, -math.inf])
    uniform_S = torch.tensor([0.0, 0.5 - 2**-53, 0.5, 1 - 2**-53], dtype=torch.float64)
    assert Draw()(logits_V.expand(4, -1), uniform_S).tokens_S.tolist() == [1, 1, 3, 3]


def test_top_k_top_p_and_min_p_keep_the_likeliest():
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
        ({"min_p": 0.0}, probs_V.tolist()),
        ({"min_p": 0.49}, [0, 4 / 9, 2 / 9, 3 / 9]),  # 0.2 is half of the likeliest token's 0.4
        ({"min_p": 0.51}, [0, 4 / 7, 0, 3 / 7]),
        ({"top_k": 3, "min_p": 0.7}, [0, 4 / 7, 0, 3 / 7]),
        ({"min_p": 1.0}, [0, 1, 0, 0]),
    ]
    for options, expected in cases:
        torch.testing.assert_close(shares(logits_V, 1.0, **options), torch.tensor(expected).double(), atol=2e-5, rtol=0)


@pytest.mark.parametrize("options", [{}, {"top_p": 0.9}, {"temperature": 0.0}, {"temperature": 0.7, "min_p": 0.1}])
def test_chunks_do_not_change_the_draw(monkeypatch, options):
    logits_SV = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    whole = Draw(**options)(logits_SV, grid(50))
    monkeypatch.setattr(noise, "CPU_CHUNK", 20)
    for part, all_of_it in zip(Draw(**options)(logits_SV, grid(50)), whole, strict=True):
        assert torch.equal(part, all_of_it)


@settings(deadline=None, max_examples=200)
@given(vocabulary=st.integers(1, 700), seed=st.integers(0, 2**31), temperature=st.sampled_from([0.3, 1.0, 2.0]))
def test_the_two_level_sum_draws_what_one_sum_over_the_vocabulary_does(vocabulary, seed, temperature):
    generator = torch.Generator().manual_seed(seed)
    logits_SV = 4 * torch.randn(40, vocabulary, generator=generator)
    logits_SV[logits_SV < -6] = -math.inf
    logits_SV[:, 0] = 0.0
    uniform_S = torch.rand(40, dtype=torch.float64, generator=generator)
    cdf_SV = (logits_SV.double() / temperature).softmax(1).cumsum(1)
    expected_S = torch.searchsorted(cdf_SV / cdf_SV[:, -1:], uniform_S[:, None], right=True)[:, 0]
    drawn_S = Draw(temperature)(logits_SV, uniform_S).tokens_S
    differ_S = drawn_S != expected_S
    # where they differ, the number lies on the edge between two tokens, within what float32 can tell
    edge_S = torch.minimum(drawn_S, expected_S)
    gap_S = (cdf_SV.gather(1, edge_S[:, None])[:, 0] - uniform_S).abs()
    assert (gap_S[differ_S] < 1e-6).all()
    assert differ_S.sum() <= 1
    assert logits_SV.gather(1, drawn_S[:, None]).isfinite().all()


def test_the_likeliest_token_is_the_first_of_the_largest_logits():
    logits_SV = torch.randn(64, 1000, generator=torch.Generator().manual_seed(0)).round()
    tokens_S = Draw(0.0)(logits_SV, grid(64)).tokens_S
    assert torch.equal(tokens_S, logits_SV.argmax(dim=1))
    first_S = (logits_SV == logits_SV.amax(dim=1, keepdim=True)).int().argmax(dim=1)
    assert torch.equal(tokens_S, first_S)


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("options", [{}, {"top_k": 2}, {"top_p": 0.5}, {"min_p": 0.5}])
def test_the_probability_beside_a_token_is_the_networks_own(temperature, options):
    logits_SV = 2 * torch.randn(30, 300, generator=torch.Generator().manual_seed(0))
    drawn = Draw(temperature, **options)(logits_SV, grid(30))
    expected_S = logits_SV.double().softmax(1).gather(1, drawn.tokens_S[:, None])[:, 0].float()
    torch.testing.assert_close(drawn.probability_S, expected_S, rtol=1e-4, atol=1e-7)


RARE = 2**22
"""Rare tokens of equal probability, together as probable as one sure token."""


def sure_share(temperature):
    """The share of the sure token at a temperature, and so the temperature that a share stands for."""
    return 1 / (1 + RARE * math.exp(-math.log(RARE) / temperature))


def effective_temperature(share):
    return optimize.brentq(lambda temperature: sure_share(temperature) - share, 0.5, 2.0)


def test_the_effective_temperature_is_right():
    logits_V = torch.full((1 + RARE,), -math.log(RARE))
    logits_V[0] = 0.0
    generator = torch.Generator().manual_seed(0)
    (uniform_S,) = noise.uniform([generator], torch.ones(1, 20_000, dtype=torch.bool))
    # a larger number gives a later token, so the draws next to the edge tell for all whether they are the sure token
    edge_S = torch.tensor([uniform_S[uniform_S < 0.5].max(), uniform_S[uniform_S >= 0.5].min(), 0.0, 1 - 2**-53, 0.75])
    tokens = Draw()(logits_V.expand(5, -1), edge_S.double()).tokens_S.tolist()
    assert tokens[0] == tokens[2] == 0
    assert 0 < tokens[1] < 1e-3 * RARE
    assert tokens[3:] == [RARE, pytest.approx(RARE / 2, rel=1e-4)]
    sure = int((uniform_S < 0.5).sum())
    assert stats.binomtest(sure, len(uniform_S), sure_share(1.0)).pvalue > 1e-3
    assert effective_temperature(sure / len(uniform_S)) == pytest.approx(1, abs=2e-3)


def test_float32_gumbel_noise_lowers_the_effective_temperature():
    # the naive form, argmax of logits + Gumbel noise in float32. The largest of the rare tokens' numbers is drawn at
    # once: of n uniform numbers on the grid of 2^-24 all are at most x with probability (x + 2^-24)^n
    draws, generator = 20_000, torch.Generator().manual_seed(0)

    def gumbel(uniform_S):
        return -(-uniform_S.log()).log()

    sure_S = gumbel(torch.rand(draws, generator=generator))
    largest_S = torch.rand(draws, generator=generator, dtype=torch.float64) ** (1 / RARE)
    rare_S = gumbel((torch.floor(largest_S * 2**24) / 2**24).float()) - math.log(RARE)
    sure = int((sure_S > rare_S).sum())
    assert stats.binomtest(sure, draws, sure_share(1.0)).pvalue < 1e-9
    assert effective_temperature(sure / draws) < 0.985
    # the same in float64, as the released code has it, passes
    sure_S = gumbel(torch.rand(draws, generator=generator, dtype=torch.float64))
    rare_S = gumbel(torch.rand(draws, generator=generator, dtype=torch.float64) ** (1 / RARE)) - math.log(RARE)
    assert stats.binomtest(int((sure_S > rare_S).sum()), draws, sure_share(1.0)).pvalue > 1e-3


def test_probability_is_that_of_the_token():
    logits_SV = torch.tensor([[0.0, 1.0], [3.0, -math.inf]])
    assert noise.probability(logits_SV, torch.tensor([1, 0])).tolist() == pytest.approx([1 / (1 + math.exp(-1)), 1.0])


def test_bad_settings_are_named_together():
    with pytest.raises(UsageError, match=r"temperature -1 must.*; top_k 0 must.*; top_p 1\.5 must.*; min_p 2 must"):
        Draw(-1, 0, 1.5, 2)
    with pytest.raises(UsageError, match=r"top_p 0\.0"):
        Draw(top_p=0.0)


def test_a_rows_numbers_do_not_depend_on_its_padding():
    where_RL = torch.tensor([[False, True, True, False, False], [True, False, True, False, True]])
    generators = lambda: [torch.Generator().manual_seed(row) for row in range(2)]  # noqa: E731
    wide, narrow = noise.uniform(generators(), where_RL), noise.uniform(generators()[:1], where_RL[:1, 1:3])
    assert torch.equal(wide[:1, 1:3], narrow)
    assert torch.equal(wide > 0, where_RL)
