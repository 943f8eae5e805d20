import math

import pytest
import torch

from toys import Waves
from unmask.errors import UsageError
from unmask.guidance import Ramp, classifier_free, repetition_penalty, suppress
from unmask.logits_fn import PADDING, at_rows, network_calls

PROMPT = torch.tensor([[True, True, False, False, False]])


def test_guided_logits_are_u_plus_one_plus_w_times_the_difference():
    waves = Waves(3)
    tokens_BL = torch.tensor([[0, 1, 3, 2, 3], [2, 2, 3, 3, 3]])
    c, u = waves(tokens_BL), waves(tokens_BL.masked_fill(PROMPT, 3))
    guided = classifier_free(waves, PROMPT, 0.8, 3)
    torch.testing.assert_close(guided(tokens_BL).double(), u + 1.8 * (c - u), atol=1e-5, rtol=0)
    select_BL = tokens_BL == 3
    torch.testing.assert_close(guided(tokens_BL, select_BL), guided(tokens_BL)[select_BL])


def test_guidance_multiplies_probabilities_as_in_the_paper():
    waves = Waves(3)
    tokens_BL = torch.tensor([[0, 1, 3, 2, 3]])
    guided = classifier_free(waves, PROMPT, 0.5, 3)(tokens_BL).double().softmax(-1)
    conditional = waves(tokens_BL).softmax(-1)
    unconditional = waves(tokens_BL.masked_fill(PROMPT, 3)).softmax(-1)
    expected = conditional**1.5 / unconditional**0.5
    torch.testing.assert_close(guided, expected / expected.sum(-1, keepdim=True), atol=1e-6, rtol=0)


def test_no_weight_or_no_prompt_is_the_same_function_and_costs_nothing():
    waves = Waves(3)
    assert classifier_free(waves, PROMPT, 0.0, 3) is waves
    assert classifier_free(waves, torch.zeros(1, 5, dtype=torch.bool), 1.0, 3) is waves
    assert network_calls(waves, torch.zeros(2, 5)).tolist() == [1, 1]


def test_guidance_counts_two_calls_and_four_when_nested():
    waves = Waves(3)
    once = classifier_free(waves, PROMPT, 0.5, 3)
    tokens_BL = torch.zeros(2, 5, dtype=torch.int64)
    assert network_calls(once, tokens_BL).tolist() == [2, 2]
    twice = suppress(classifier_free(once, PROMPT, 0.5, 3), [1])
    twice(tokens_BL)
    assert network_calls(twice, tokens_BL).tolist() == [4, 4]
    assert waves.rows_seen == 5  # less than 8: rows that are alike are computed once


def test_a_row_without_a_prompt_costs_one_call_and_is_as_without_guidance():
    waves = Waves(3)
    prompts_BL = torch.tensor([[True, False, False], [False, False, False]])
    tokens_BL = torch.tensor([[0, 1, 3], [2, 1, 3]])
    guided = classifier_free(waves, prompts_BL, 0.5, 3)
    assert network_calls(guided, tokens_BL).tolist() == [2, 1]
    logits_BLV = guided(tokens_BL)
    assert waves.rows_seen == 3
    torch.testing.assert_close(logits_BLV[1].double(), waves(tokens_BL)[1], atol=1e-5, rtol=0)
    alone = classifier_free(waves, prompts_BL[:1], 0.5, 3)(tokens_BL[:1])
    assert torch.equal(alone[0], logits_BLV[0])
    select_BL = torch.tensor([[False, True, True], [True, False, True]])
    assert torch.equal(guided(tokens_BL, select_BL), logits_BLV[select_BL])


SHARES = torch.tensor([0.0, 0.3, 0.5, 0.9, 1.0], dtype=torch.float64)


@pytest.mark.parametrize(
    ("ramp", "weights"),
    [
        (Ramp(0.8), [0.8, 0.8, 0.8, 0.8, 0.8]),
        (Ramp(1.0, 0.0), [1.0, 0.7, 0.5, 0.1, 0.0]),
        (Ramp(0.0, 2.0), [0.0, 0.6, 1.0, 1.8, 2.0]),
        (Ramp(0.8, until=0.5), [0.8, 0.8, 0.0, 0.0, 0.0]),
        (Ramp(1.0, 0.0, until=0.9), [1.0, 0.7, 0.5, 0.0, 0.0]),
    ],
)
def test_a_ramp_is_a_weight_for_each_revealed_share(ramp, weights):
    assert ramp(SHARES).tolist() == pytest.approx(weights)


def test_guidance_on_a_schedule_is_that_of_the_weight_at_each_rows_share():
    waves = Waves(3)
    prompt_BL = torch.tensor([[True, False, False, False, False]])
    tokens_BL = torch.tensor([[0, 3, 3, 3, 3], [0, 1, 3, 3, 3], [0, 1, 2, 3, 3], [0, 1, 2, 0, 3], [0, 1, 2, 0, 1]])
    guided = classifier_free(waves, prompt_BL, Ramp(1.0, 0.0, until=0.7), 3)
    assert network_calls(guided, tokens_BL).tolist() == [2, 2, 2, 1, 1]
    waves.rows_seen = 0
    logits_BLV = guided(tokens_BL)
    assert waves.rows_seen == 8
    for row, weight in enumerate([1.0, 0.75, 0.5, 0.0, 0.0]):
        expected = classifier_free(waves, prompt_BL, weight, 3)(tokens_BL[row : row + 1])
        torch.testing.assert_close(logits_BLV[row : row + 1].double(), expected.double(), atol=1e-5, rtol=0)
        alone = guided(tokens_BL[row : row + 1])
        torch.testing.assert_close(alone[0], logits_BLV[row])
    select_BL = tokens_BL == 3
    torch.testing.assert_close(guided(tokens_BL, select_BL), logits_BLV[select_BL])


def test_what_a_growing_canvas_does_not_show_yet_counts_as_masked():
    prompt_BL = torch.tensor([[True, False, False, False, False]])
    seen = []

    def weight(share_B):
        seen.append(share_B.tolist())
        return torch.ones_like(share_B)

    guided = classifier_free(Waves(3), prompt_BL, weight, 3)
    for tokens in ([0, 1, 3, 3, 3], [0, 1, 3], [0, 1, 3, PADDING, PADDING]):
        guided(torch.tensor([tokens]))
    assert seen == [[0.25]] * 3


def test_the_repetition_penalty_is_that_of_ctrl_for_tokens_of_the_same_row():
    waves = Waves(5)
    tokens_BL = torch.tensor([[0, 2, 2, 5, 5], [5, 5, 5, 5, 5], [5, 1, 4, 5, PADDING]])
    plain, penalised = waves(tokens_BL), repetition_penalty(waves, 1.3, 5)(tokens_BL)
    for row, present in enumerate([{0, 2}, set(), {1, 4}]):
        for token in range(5):
            logits_L = plain[row, :, token]
            expected_L = torch.where(logits_L > 0, logits_L / 1.3, logits_L * 1.3) if token in present else logits_L
            torch.testing.assert_close(penalised[row, :, token], expected_L)
    select_BL = tokens_BL == 5
    torch.testing.assert_close(repetition_penalty(waves, 1.3, 5)(tokens_BL, select_BL), penalised[select_BL])
    assert repetition_penalty(waves, 1.0, 5) is waves


@pytest.mark.parametrize("penalty", [0.0, -1.0, math.inf, math.nan])
def test_bad_penalties_are_named(penalty):
    with pytest.raises(UsageError, match=f"repetition_penalty {penalty}"):
        repetition_penalty(Waves(3), penalty, 3)


def test_bad_ramps_are_named():
    with pytest.raises(UsageError, match=r"start -1 must.*; end inf must.*; until 0 must"):
        Ramp(-1, math.inf, until=0)


def test_guidance_follows_the_rows_taken_from_its_batch():
    waves = Waves(3)
    prompts_BL = torch.tensor([[True, False, False], [True, True, False], [False, False, False]])
    tokens_BL = torch.tensor([[0, 1, 3], [2, 1, 3], [1, 1, 3]])
    rows_R = torch.tensor([2, 0, 0])
    guided = suppress(classifier_free(waves, prompts_BL, 1.0, 3), [0])
    torch.testing.assert_close(at_rows(guided, rows_R)(tokens_BL[rows_R]), guided(tokens_BL)[rows_R])


def test_prompt_narrower_than_the_tokens():
    waves = Waves(3)
    tokens_BL = torch.tensor([[0, 1, 3, 2, 3]])
    narrow = classifier_free(waves, PROMPT[:, :2], 0.8, 3)(tokens_BL)
    torch.testing.assert_close(narrow, classifier_free(waves, PROMPT, 0.8, 3)(tokens_BL))


def test_suppressed_tokens_have_no_probability_and_the_others_keep_their_ratios():
    waves = Waves(4)
    tokens_BL = torch.tensor([[0, 4, 4]])
    probs = suppress(waves, [1, 3])(tokens_BL).softmax(-1)
    assert probs[..., [1, 3]].eq(0).all()
    plain = waves(tokens_BL).softmax(-1)
    torch.testing.assert_close(probs[..., 0] / probs[..., 2], plain[..., 0] / plain[..., 2])
    assert suppress(waves, []) is waves


@pytest.mark.parametrize("weight", [-0.1, math.inf, math.nan])
def test_bad_weights_are_named(weight):
    with pytest.raises(UsageError, match=f"guidance {weight}"):
        classifier_free(Waves(3), PROMPT, weight, 3)


def test_prompt_must_be_a_boolean_matrix():
    for prompt in (PROMPT.long(), PROMPT[0]):
        with pytest.raises(UsageError, match="must be boolean"):
            classifier_free(Waves(3), prompt, 1.0, 3)


def test_rows_that_differ_only_in_the_prompt_share_the_unconditional_pass():
    waves = Waves(3)
    tokens_BL = torch.tensor([[0, 1, 3, 2, 3], [1, 2, 3, 2, 3], [0, 1, 2, 3, 3]])
    select_BL = torch.tensor([[0, 0, 1, 0, 0], [0, 0, 1, 0, 1], [0, 0, 0, 1, 1]]).bool()
    guided = classifier_free(waves, PROMPT, 0.8, 3)
    found = guided(tokens_BL, select_BL)
    assert waves.rows_seen == 3 + 2
    c, u = waves(tokens_BL), waves(tokens_BL.masked_fill(PROMPT, 3))
    torch.testing.assert_close(found.double(), (u + 1.8 * (c - u))[select_BL], atol=1e-5, rtol=0)
    torch.testing.assert_close(guided(tokens_BL).double(), u + 1.8 * (c - u), atol=1e-5, rtol=0)
