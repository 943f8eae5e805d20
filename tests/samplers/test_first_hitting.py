import pytest
import torch
from scipy import stats

from toys import Joint, Waves
from unmask.samplers import first_hitting
from unmask.samplers.schedules import even


def test_samples_follow_the_exact_distribution_with_one_call_for_each_mask():
    joint, rows = Joint(3, 3), 20_000
    sampled = first_hitting(joint, torch.full((rows, 3), 3), mask_id=3, generator=torch.Generator().manual_seed(0))
    observed_N = joint.index(sampled.tokens_BL).bincount(minlength=27)
    assert stats.chisquare(observed_N, joint.probs_N * rows).pvalue > 1e-3
    assert sampled.network_calls_B.eq(3).all()
    assert joint.rows_seen == 3 * rows


def test_given_tokens_condition_the_samples():
    joint, rows = Joint(3, 3), 10_000
    tokens_BL = torch.tensor([3, 1, 3]).expand(rows, 3)
    sampled = first_hitting(joint, tokens_BL, mask_id=3, generator=torch.Generator().manual_seed(1))
    agrees_N = joint.texts_NL[:, 1] == 1
    observed_N = joint.index(sampled.tokens_BL).bincount(minlength=27)
    expected_N = joint.probs_N[agrees_N] / joint.probs_N[agrees_N].sum() * rows
    assert stats.chisquare(observed_N[agrees_N], expected_N).pvalue > 1e-3


def test_every_order_is_equally_likely():
    rows = 12_000
    sampled = first_hitting(Waves(3), torch.full((rows, 3), 3), mask_id=3, generator=torch.Generator().manual_seed(0))
    order_B = (sampled.reveal_step_BL * torch.tensor([9, 3, 1])).sum(1)
    observed = order_B.unique(return_counts=True)[1]
    assert len(observed) == 6
    assert stats.chisquare(observed).pvalue > 1e-3


@pytest.mark.parametrize("steps", [1, 3, 7, 8, 20])
def test_fewer_steps_than_masks_share_the_hits_evenly(steps):
    tokens_BL = torch.full((2, 9), 3)
    tokens_BL[1, 4] = 0
    sampled = first_hitting(Waves(3), tokens_BL, mask_id=3, steps=steps, generator=torch.Generator())
    for row, masks in enumerate((9, 8)):
        steps_L = sampled.reveal_step_BL[row]
        assert steps_L[steps_L >= 0].bincount().tolist() == even(masks, steps)
    assert sampled.network_calls_B.tolist() == [min(9, steps), min(8, steps)]
