import pytest
import torch

from toys import Joint, Waves
from unmask.guidance import classifier_free
from unmask.likelihood import greedy


def by_hand(logits_fn, prompt, length, mask_id, guidance):
    tokens = [*prompt, *[mask_id] * length]
    prompt_BL = torch.tensor([[i < len(prompt) for i in range(len(tokens))]])
    total = 0.0
    while mask_id in tokens:
        logp_LV = classifier_free(logits_fn, prompt_BL, guidance, mask_id)(torch.tensor([tokens]))[0].log_softmax(-1)
        masked = [i for i, token in enumerate(tokens) if token == mask_id]
        best = max(masked, key=lambda i: logp_LV[i].max().item())
        total += logp_LV[best].max().item()
        tokens[best] = int(logp_LV[best].argmax())
    return tuple(tokens[len(prompt) :]), total / length


@pytest.mark.parametrize("guidance", [0.0, 1.2])
@pytest.mark.parametrize("batch_size", [1, None])
def test_the_most_confident_token_is_revealed_in_each_step(guidance, batch_size):
    waves = Waves(4)
    prompts, lengths = [(0, 1), (3,), (2, 2, 1), (), (1, 0)], [3, 4, 2, 3, 1]
    decoded = greedy(waves, prompts, lengths, mask_id=4, guidance=guidance, batch_size=batch_size)
    for prompt, length, each in zip(prompts, lengths, decoded, strict=True):
        tokens, confidence = by_hand(waves, prompt, length, 4, guidance)
        assert each.tokens == tokens
        assert each.confidence == pytest.approx(confidence, abs=1e-5)
        assert each.network_calls == length * (2 if guidance and prompt else 1)
        assert not each.matches


def test_an_expected_answer_is_checked_and_a_wrong_token_ends_it():
    joint = Joint(5, 3, sharpness=4.0)
    prompt = (1, 2)
    answer = greedy(joint, [prompt], [3], mask_id=3)[0].tokens
    wrong = tuple((token + 1) % 3 for token in answer)
    right, missed = greedy(joint, [prompt, prompt], [3, 3], mask_id=3, expected=[answer, wrong])
    assert right.matches
    assert right.tokens == answer
    assert right.network_calls == 3
    assert not missed.matches
    assert missed.network_calls == 1
