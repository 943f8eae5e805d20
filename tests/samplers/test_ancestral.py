import math

import pytest
import torch
from scipy import stats

from toys import Joint
from unmask import seeding
from unmask.samplers import ancestral
from unmask.samplers.ancestral import reveal_steps


def test_many_steps_follow_the_exact_distribution():
    joint, rows = Joint(3, 3), 20_000
    tokens_BL = torch.full((rows, 3), 3)
    generator = torch.Generator().manual_seed(0)
    sampled = ancestral(joint, tokens_BL, mask_id=3, steps=1_000_000, generator=generator)
    observed_N = joint.index(sampled.tokens_BL).bincount(minlength=27)
    assert stats.chisquare(observed_N, joint.probs_N * rows).pvalue > 1e-3
    assert joint.rows_seen == 3 * rows  # of a million steps, three cost a call


def test_given_tokens_condition_the_samples():
    joint, rows = Joint(3, 3), 10_000
    tokens_BL = torch.tensor([3, 1, 3]).expand(rows, 3)
    sampled = ancestral(joint, tokens_BL, mask_id=3, steps=100_000, generator=torch.Generator().manual_seed(1))
    agrees_N = joint.texts_NL[:, 1] == 1
    observed_N = joint.index(sampled.tokens_BL).bincount(minlength=27)
    assert observed_N[~agrees_N].sum() == 0
    expected_N = joint.probs_N[agrees_N] / joint.probs_N[agrees_N].sum() * rows
    assert stats.chisquare(observed_N[agrees_N], expected_N).pvalue > 1e-3


def test_few_steps_follow_the_distribution_of_that_many_steps():
    # two tokens in two steps: half the time in one step, independently; else one after the other
    joint, rows = Joint(2, 3, sharpness=2.5), 20_000
    probs_VV = joint.probs_N.view(3, 3)
    independent_VV = probs_VV.sum(1)[:, None] * probs_VV.sum(0)
    expected_N = (0.5 * probs_VV + 0.5 * independent_VV).flatten()
    sampled = ancestral(joint, torch.full((rows, 2), 3), mask_id=3, steps=2, generator=torch.Generator().manual_seed(0))
    observed_N = joint.index(sampled.tokens_BL).bincount(minlength=9)
    assert stats.chisquare(observed_N, expected_N * rows).pvalue > 1e-3
    assert stats.chisquare(observed_N, joint.probs_N * rows).pvalue < 1e-6  # which that test can tell from the joint


@pytest.mark.parametrize(("length", "steps", "calls"), [(1024, 1024, 647.475), (256, 256, 162.01)])
def test_network_calls_are_those_of_the_steps_that_reveal_something(length, steps, calls):
    assert steps * (1 - (1 - 1 / steps) ** length) == pytest.approx(calls, rel=3e-5)
    rows = 60
    seen = []

    def flat(tokens_BL, select_BL=None):
        seen.append(len(tokens_BL))
        return torch.zeros(int(select_BL.sum()), 2)

    generators = [seeding.generator(0, "test", row) for row in range(rows)]
    sampled = ancestral(flat, torch.full((rows, length), 2), mask_id=2, steps=steps, generator=generators)
    calls_B = sampled.network_calls_B.double()
    assert abs(calls_B.mean().item() - calls) < 4 * calls_B.std().item() / math.sqrt(rows)
    assert sum(seen) == calls_B.sum()
    assert len(seen) == calls_B.max()  # rows do not wait for each other's steps


def test_a_position_stays_masked_with_probability_t():
    steps, eps = 7, 0.3
    uniform_BL = ((torch.arange(70_000, dtype=torch.float64) + 0.5) / 70_000)[None]
    step_BL = reveal_steps(uniform_BL, torch.tensor([[steps]]), eps)
    for step in range(steps - 1):
        t = 1 - (step + 1) * (1 - eps) / steps
        assert (step_BL > step).double().mean().item() == pytest.approx(t, abs=2e-5)
    assert step_BL.max() == steps - 1


def test_one_step_reveals_all_at_once():
    joint = Joint(3, 2)
    sampled = ancestral(joint, torch.full((4, 3), 2), mask_id=2, steps=1, generator=torch.Generator().manual_seed(0))
    assert sampled.network_calls_B.tolist() == [1, 1, 1, 1]
    assert sampled.reveal_step_BL.eq(0).all()
