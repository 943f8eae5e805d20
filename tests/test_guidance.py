import math

import pytest
import torch

from toys import Waves
from unmask.errors import UsageError
from unmask.guidance import classifier_free, suppress
from unmask.logits_fn import at_rows, network_calls

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
    once = classifier_free(Waves(3), PROMPT, 0.5, 3)
    tokens_BL = torch.zeros(2, 5, dtype=torch.int64)
    assert network_calls(once, tokens_BL).tolist() == [2, 2]
    assert network_calls(suppress(classifier_free(once, PROMPT, 0.5, 3), [1]), tokens_BL).tolist() == [4, 4]


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
