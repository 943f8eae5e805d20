import math

import pytest
import torch

from unmask.errors import UsageError
from unmask.samplers import entropy, margin, threshold
from unmask.samplers.adaptive import negative_entropy, under_bound
from unmask.samplers.confidence import lead
from unmask.samplers.noise import Drawn


def fixed(probs_LV):
    """A network that gives each position its own distribution, whatever stands around it."""
    logits_LV = torch.tensor(probs_LV).log()

    def logits_fn(tokens_BL, select_BL=None):
        logits_BLV = logits_LV[: tokens_BL.shape[1]].expand(len(tokens_BL), -1, -1)
        return logits_BLV if select_BL is None else logits_BLV[select_BL]

    return logits_fn


CERTAIN = [[0.95, 0.05, 0.0], [0.5, 0.25, 0.25], [0.05, 0.9, 0.05], [0.2, 0.4, 0.4], [0.0, 0.01, 0.99]]
MASKED = torch.full((1, 5), 3)


def test_the_threshold_reveals_all_that_reach_it_or_else_the_best_one():
    sampled = threshold(fixed(CERTAIN), MASKED, mask_id=3, confidence=0.85, generator=torch.Generator())
    assert sampled.reveal_step_BL.tolist() == [[0, 1, 0, 2, 0]]
    assert sampled.network_calls_B.tolist() == [3]
    assert sampled.tokens_BL.tolist() == [[0, 0, 1, 1, 2]]
    sampled = threshold(fixed(CERTAIN), MASKED, mask_id=3, confidence=1.0, generator=torch.Generator())
    assert sampled.network_calls_B.tolist() == [5]


def test_entropy_reveals_the_most_positions_that_stay_under_the_bound():
    entropy_L = [-sum(p * math.log(p) for p in probs if p) for probs in CERTAIN]
    lowest = sorted(entropy_L)
    # all but the last of them: the two lowest, but not the three lowest, fit under the bound
    bound = lowest[0] + lowest[1] + 1e-3
    sampled = entropy(fixed(CERTAIN), MASKED, mask_id=3, bound=bound, generator=torch.Generator().manual_seed(0))
    assert sampled.reveal_step_BL.tolist() == [[0, 1, 0, 2, 0]]
    one_by_one = entropy(fixed(CERTAIN), MASKED, mask_id=3, bound=0.0, generator=torch.Generator().manual_seed(0))
    assert [int(step) for step in one_by_one.reveal_step_BL[0]] == [sorted(entropy_L).index(e) for e in entropy_L]
    at_once = entropy(fixed(CERTAIN), MASKED, mask_id=3, bound=100.0, generator=torch.Generator().manual_seed(0))
    assert at_once.network_calls_B.tolist() == [1]


def test_under_bound_counts_without_the_last_and_without_what_is_not_masked():
    sorted_RL = torch.tensor([[-0.1, -0.2, -0.3, -0.4], [-0.1, -0.2, -math.inf, -math.inf], [0.0, 0.0, 0.0, -9.0]])
    assert under_bound(sorted_RL, 0.301).tolist() == [3, 2, 4]
    assert under_bound(sorted_RL, 0.05).tolist() == [1, 1, 4]
    assert under_bound(sorted_RL, 0.0).tolist() == [1, 1, 4]


@pytest.mark.parametrize("sampler", [threshold, entropy])
@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_steps_are_a_limit(sampler, steps):
    never = {"confidence": 1.0} if sampler is threshold else {"bound": 0.0}
    tokens_BL = torch.tensor([[3, 3, 3, 3, 3], [3, 0, 3, 0, 0]])
    flat = fixed([[0.3, 0.3, 0.4]] * 5)
    sampled = sampler(flat, tokens_BL, mask_id=3, steps=steps, generator=torch.Generator(), **never)
    assert sampled.network_calls_B.tolist() == [steps, min(steps, 2)]


def test_margin_prefers_a_clear_favourite_to_a_likelier_token_with_a_rival():
    probs = [[0.48, 0.47, 0.05], [0.4, 0.3, 0.3], [0.34, 0.33, 0.33]]
    sampled = margin(fixed(probs), torch.full((1, 3), 3), mask_id=3, generator=torch.Generator())
    assert sampled.reveal_step_BL.tolist() == [[1, 0, 2]]


def test_judges_give_entropy_and_lead():
    probs_SV = torch.tensor([[0.5, 0.3, 0.2], [1.0, 0.0, 0.0]])
    drawn = Drawn(torch.tensor([1, 0]), torch.tensor([0.3, 1.0]))
    expected = [-sum(-p * math.log(p) for p in row if p) for row in probs_SV.tolist()]
    assert negative_entropy(probs_SV.log(), drawn).tolist() == pytest.approx(expected, abs=1e-6)
    assert lead(probs_SV.log(), drawn).tolist() == pytest.approx([0.2, 1.0])
    assert lead(torch.zeros(2, 1), drawn).tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("sampler", "options", "words"),
    [
        (threshold, {"confidence": 0.0}, "confidence 0.0"),
        (threshold, {"confidence": 1.1}, "confidence 1.1"),
        (entropy, {"bound": -0.1}, "bound -0.1"),
        (entropy, {"bound": math.nan}, "bound nan"),
    ],
)
def test_bad_arguments_are_named(sampler, options, words):
    with pytest.raises(UsageError, match=words):
        sampler(fixed(CERTAIN), MASKED, mask_id=3, generator=torch.Generator(), **options)
