import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from toys import Joint
from unmask import seeding
from unmask.errors import UsageError
from unmask.samplers import ancestral, remask
from unmask.samplers.remask import SCHEDULES, share_by_doubt

NAMES = sorted(SCHEDULES)


@given(name=st.sampled_from(NAMES), steps=st.integers(1, 60), eta=st.floats(0, 1))
def test_schedules_keep_within_the_shares_that_they_promise(name, steps, eta):
    plan = SCHEDULES[name](steps, eta)
    assert len(plan) == steps
    share = 0.0
    for step in plan:
        assert step.revealed_before == pytest.approx(share)
        assert step.revealed_after >= step.revealed_before
        assert 0 <= step.sigma <= 1
        a, b = step.revealed_before, step.revealed_after
        reveal = (b - (1 - step.sigma) * a) / (1 - a)
        assert -1e-9 <= reveal <= 1 + 1e-9
        share = step.revealed_after
    assert share == 1
    assert plan[-1].sigma == 0


def exact(joint, plan):
    """The distribution of the texts that the chain of a plan ends in: over all states, step by step."""
    length, mask = joint.texts_NL.shape[1], joint.mask_id
    chances = {(mask,) * length: 1.0}
    for a, b, sigma in plan:
        reveal = 1.0 if a >= 1 else (b - (1 - sigma) * a) / (1 - a)
        following = {}
        for state, chance in chances.items():
            probs_LV = joint(torch.tensor([state]))[0].softmax(-1)
            choices = []
            for position, token in enumerate(state):
                if token == mask:
                    drawn = [(v, reveal * probs_LV[position, v].item()) for v in range(mask)]
                    choices.append([(mask, 1 - reveal), *drawn])
                else:
                    choices.append([(token, 1 - sigma), (mask, sigma)])
            for moves in itertools.product(*choices):
                p = chance
                for _, q in moves:
                    p *= q
                if p:
                    to = tuple(token for token, _ in moves)
                    following[to] = following.get(to, 0.0) + p
        chances = following
    return torch.tensor([chances.get(tuple(text.tolist()), 0.0) for text in joint.texts_NL], dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "eta", "steps"), [("cap", 0.3, 5), ("rescale", 0.7, 4), ("rescale", 1.0, 3), ("loop", 0.1, 6)]
)
def test_samples_follow_the_distribution_of_the_chain(name, eta, steps):
    joint, rows = Joint(2, 3, sharpness=2.5), 20_000
    expected_N = exact(joint, SCHEDULES[name](steps, eta))
    assert expected_N.sum().item() == pytest.approx(1)
    sampled = remask(
        joint,
        torch.full((rows, 2), 3),
        mask_id=3,
        steps=steps,
        remasking=name,
        eta=eta,
        generator=torch.Generator().manual_seed(0),
    )
    observed_N = joint.index(sampled.tokens_BL).bincount(minlength=9)
    assert stats.chisquare(observed_N, expected_N * rows).pvalue > 1e-3


def test_without_remasking_it_is_ancestral_sampling():
    joint = Joint(2, 3, sharpness=2.5)
    assert SCHEDULES["cap"](5, 0.0) == SCHEDULES["rescale"](5, 0.0)
    rows = 20_000
    tokens_BL = torch.full((rows, 2), 3)
    options = {"mask_id": 3, "steps": 2, "eta": 0.0}
    sampled = remask(joint, tokens_BL, generator=torch.Generator().manual_seed(0), **options)
    del options["eta"]
    reference = ancestral(joint, tokens_BL, generator=torch.Generator().manual_seed(1), **options)
    counts = torch.stack([joint.index(s.tokens_BL).bincount(minlength=9) for s in (sampled, reference)])
    assert stats.chi2_contingency(counts.numpy()).pvalue > 1e-3


def test_steps_that_reveal_nothing_cost_nothing_and_rows_do_not_wait():
    rows, seen = 30, []

    def flat(tokens_BL, select_BL=None):
        seen.append(len(tokens_BL))
        return torch.zeros(int(select_BL.sum()), 2)

    generators = [seeding.generator(0, "test", row) for row in range(rows)]
    sampled = remask(flat, torch.full((rows, 4), 2), mask_id=2, steps=400, eta=0.01, generator=generators)
    assert (sampled.network_calls_B >= 1).all()
    assert sampled.network_calls_B.double().mean() < 15  # 4 tokens, and a hundredth of them anew in each step
    assert sum(seen) == sampled.network_calls_B.sum()
    assert len(seen) == sampled.network_calls_B.max()
    assert sampled.reveal_step_BL.max() < 400


def test_doubt_is_shared_out_among_the_revealed():
    confidence_BL = torch.tensor([[0.9, 0.1, float("nan")], [float("nan")] * 3])
    share_BL = share_by_doubt(confidence_BL, ~confidence_BL.isnan())
    assert share_BL[0].sum().item() == pytest.approx(1)
    assert share_BL[0, 1] > share_BL[0, 0] > 0
    assert share_BL[0, 2] == 0
    assert share_BL[1].tolist() == [0, 0, 0]


def test_by_confidence_the_improbable_tokens_are_drawn_anew_more_often():
    probs_LV = torch.tensor([[0.999, 0.001], [0.5, 0.5]] * 4).log()
    fixed = lambda tokens_BL, select_BL=None: probs_LV.expand(len(tokens_BL), 8, 2)[select_BL]  # noqa: E731
    reveals_L, last_BL = torch.zeros(8), torch.full((300, 8), -1)

    def count(state):
        reveals_L.add_(((state.reveal_step_BL >= 0) & (state.reveal_step_BL != last_BL)).sum(0))
        last_BL.copy_(state.reveal_step_BL)

    generator = torch.Generator().manual_seed(0)
    options = {"remasking": "rescale", "eta": 1.0, "by_confidence": True, "steps": 40}
    remask(fixed, torch.full((300, 8), 2), mask_id=2, generator=generator, on_step=count, **options)
    again_L = reveals_L - 300  # beyond the first time
    assert again_L[1::2].sum() > 1.2 * again_L[::2].sum() > 1000


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"remasking": "rescal"}, "did you mean 'rescale'"),
        ({"eta": -0.1}, "eta -0.1"),
        ({"eta": 1.1}, "eta 1.1"),
        ({"eta": float("nan")}, "eta nan"),
    ],
)
def test_bad_arguments_are_named(options, words):
    with pytest.raises(UsageError, match=words):
        remask(Joint(2, 2), torch.full((1, 2), 2), mask_id=2, generator=torch.Generator(), **options)
