import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unmask.errors import UsageError
from unmask.samplers import SCHEDULES, confidence


def peaked(tokens_BL, select_BL=None):
    """Position i prefers token i % 3 with a logit of `sharp[i]`, whatever else stands there."""
    sharp_L = torch.tensor([1.0, 4.0, 2.0, 5.0, 3.0])[: tokens_BL.shape[1]]
    logits_LV = torch.nn.functional.one_hot(torch.arange(tokens_BL.shape[1]) % 3, 3) * sharp_L[:, None]
    logits_BLV = logits_LV.expand(len(tokens_BL), -1, -1)
    return logits_BLV if select_BL is None else logits_BLV[select_BL]


def test_the_most_certain_positions_come_first():
    tokens_BL = torch.tensor([[3, 3, 3, 3, 3], [3, 3, 0, 3, 1]])
    sampled = confidence(peaked, tokens_BL, mask_id=3, generator=torch.Generator())
    assert sampled.reveal_step_BL.tolist() == [[4, 1, 3, 0, 2], [2, 1, -1, 0, -1]]
    assert sampled.tokens_BL.tolist() == [[0, 1, 2, 0, 1], [0, 1, 0, 0, 1]]
    assert sampled.network_calls_B.tolist() == [5, 3]


def test_several_positions_a_step():
    sampled = confidence(peaked, torch.full((1, 5), 3), mask_id=3, steps=2, generator=torch.Generator())
    assert sampled.reveal_step_BL.tolist() == [[1, 0, 1, 0, 1]]
    assert sampled.network_calls_B.tolist() == [2]


def test_equal_confidences_go_from_left_to_right():
    flat = lambda tokens_BL, select_BL=None: torch.zeros(int(select_BL.sum()), 3)  # noqa: E731
    sampled = confidence(flat, torch.full((1, 40), 3), mask_id=3, generator=torch.Generator())
    assert sampled.reveal_step_BL.tolist() == [list(range(40))]


def test_drawn_tokens_are_judged_by_their_own_probability():
    # the likeliest token has 0.6; a position whose draw was the rare one waits
    rare_first = torch.tensor([0.6, 0.4]).log()
    fixed = lambda tokens_BL, select_BL=None: rare_first.expand(int(select_BL.sum()), 2)  # noqa: E731
    generators = [torch.Generator().manual_seed(seed) for seed in range(300)]
    sampled = confidence(fixed, torch.full((300, 2), 2), mask_id=2, temperature=1.0, generator=generators)
    first_B = sampled.reveal_step_BL.argmin(dim=1)
    first_tokens_B = sampled.tokens_BL.gather(1, first_B[:, None])[:, 0]
    # token 1 comes first only if both draws gave it: 0.16, not 0.4
    assert first_tokens_B.double().mean().item() == pytest.approx(0.16, abs=4 * (0.16 * 0.84 / 300) ** 0.5)


@given(masks=st.integers(1, 300), steps=st.integers(1, 300))
def test_schedules_reveal_everything_in_time(masks, steps):
    even, released = SCHEDULES["even"](masks, steps), SCHEDULES["released"](masks, steps)
    assert sum(even) == sum(released) == masks
    assert len(even) == min(masks, steps)
    assert len(released) == steps
    assert min(even) >= 1
    assert max(even) - min(even) <= 1
    assert min(released) >= 0


def test_the_released_schedule_leaves_the_steps_empty_that_the_paper_code_does():
    counts = SCHEDULES["released"](256, 256)
    assert (counts[0], counts[-1]) == (0, 2)
    assert SCHEDULES["released"](200, 256).count(0) == 57


def test_empty_steps_cost_nothing():
    flat = lambda tokens_BL, select_BL=None: torch.zeros(int(select_BL.sum()), 3)  # noqa: E731
    sampled = confidence(
        flat, torch.full((1, 200), 3), mask_id=3, steps=256, schedule="released", generator=torch.Generator()
    )
    assert sampled.network_calls_B.tolist() == [256 - 57]
    assert sampled.reveal_step_BL.max() == 255


def test_unknown_schedule_suggests_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'released'"):
        confidence(peaked, torch.full((1, 5), 3), mask_id=3, schedule="release", generator=torch.Generator())
