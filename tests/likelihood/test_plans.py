import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toys import Waves, any_order_case
from unmask import likelihood
from unmask.likelihood.allocation import PAIRS_UP_TO, allocate, number_of_sets


def gen(seed):
    return torch.Generator().manual_seed(seed)


def all_sets(scored):
    return (torch.arange(1, 2**scored)[:, None] >> torch.arange(scored)) & 1 == 1


def losses_of(logits_fn, tokens_L, masks_RK, mask_id):
    """-log p of the masked tokens of a wholly scored text, (R, K)."""
    logp_RLV = logits_fn(tokens_L.expand(len(masks_RK), -1).masked_fill(masks_RK, mask_id)).log_softmax(-1)
    return -logp_RLV.gather(2, tokens_L.expand(len(masks_RK), -1)[..., None])[..., 0].double() * masks_RK


@settings(max_examples=300, deadline=None)
@given(scored=st.integers(1, 60), num_samples=st.integers(3, 300))
def test_every_number_of_masked_tokens_is_in_one_run_and_has_two_rows_in_its_stratum(scored, num_samples):
    strata = allocate(scored, num_samples)
    runs = sorted((run.first, run.last) for stratum in strata for run in stratum)
    assert [count for first, last in runs for count in range(first, last + 1)] == list(range(1, scored + 1))
    assert sum(run.rows for stratum in strata for run in stratum) == min(num_samples, 2**scored - 1)
    for stratum in strata:
        assert all(1 <= run.rows <= number_of_sets(scored, run.first) or run.first < run.last for run in stratum)
        if sum(run.rows for run in stratum) == 1:
            assert stratum[0].first == stratum[0].last == scored


def test_many_tokens_are_planned_at_once():
    plan = likelihood.plan(3000, estimator="stratified", num_samples=64, generator=gen(0))
    assert plan.masks_RK.shape == (64, 3000)
    assert plan.weights_R.sum().item() == pytest.approx(sum(1 / count for count in range(1, 3001)), rel=0.3)


@pytest.mark.parametrize(("scored", "num_samples"), [(8, 12), (8, 17), (8, 40), (14, 40), (3, 5)])
def test_stratified_is_unbiased_whatever_its_baseline_is_worth(scored, num_samples):
    """The 14 tokens have too many sets to enumerate by hand: there the exact bound is a sum over 16,383 rows."""
    waves = Waves(3)  # whose losses have nothing to do with each other: the baseline is noise
    tokens_L = torch.randint(3, (scored,), generator=gen(scored))
    losses_SK = losses_of(waves, tokens_L, all_sets(scored), 3)
    exact = likelihood.plan(scored, estimator="exact", num_samples=1)
    truth = (exact.weights_R * losses_SK.sum(dim=1)).sum().item()
    bits_K = 2 ** torch.arange(scored)
    values, errors = [], []
    for seed in range(800):
        plan = likelihood.plan(scored, estimator="stratified", num_samples=num_samples, generator=gen(seed))
        estimate = plan.estimate(losses_SK[(plan.masks_RK * bits_K).sum(dim=1) - 1], 0)
        values.append(-estimate.log_likelihood)
        errors.append(estimate.standard_error)
    values, errors = torch.tensor(values), torch.tensor(errors)
    assert abs(values.mean().item() - truth) < 4 * values.std().item() / math.sqrt(len(values))
    assert values.var().item() == pytest.approx(errors.square().mean().item(), rel=0.25)


@pytest.mark.parametrize(("num_samples", "gain"), [(10, 0.7), (18, 0.3), (60, 0.2)])
def test_the_baseline_takes_off_what_the_choice_of_tokens_explains(num_samples, gain):
    tokens_L = torch.tensor([0, 1, 1, 1, 0, 1, 0, 1, 1])
    losses_SK = losses_of(any_order_case, tokens_L, all_sets(9), 2)
    spread = {True: [], False: []}
    for seed in range(200):
        plan = likelihood.plan(9, estimator="stratified", num_samples=num_samples, generator=gen(seed))
        losses_RK = losses_SK[(plan.masks_RK * 2 ** torch.arange(9)).sum(dim=1) - 1]
        plain = likelihood.Plan(plan.masks_RK, plan.weights_R, plan.strata)
        spread[True].append(plan.estimate(losses_RK, 0).log_likelihood)
        spread[False].append(plain.estimate(losses_RK, 0).log_likelihood)
    with_baseline, without = (torch.tensor(spread[key]).std().item() for key in (True, False))
    assert with_baseline < gain * without


def test_the_baseline_is_exact_where_tokens_spare_each_other_fixed_amounts():
    """Losses a_i - sum of what each visible token spares: then every row is what the baseline says, and the error 0."""
    scored = 9
    assert scored <= PAIRS_UP_TO
    alone_K = torch.rand(scored, generator=gen(0), dtype=torch.float64) + 5
    # of pairs in which what i spares j depends on i alone, so that the straight line is right as well
    spared_KK = torch.rand(scored, 1, generator=gen(1), dtype=torch.float64).expand(scored, scored).clone()
    spared_KK.fill_diagonal_(0)
    plan = likelihood.plan(scored, estimator="stratified", num_samples=60, generator=gen(2))
    losses_RK = (alone_K - (~plan.masks_RK).double() @ spared_KK.T) * plan.masks_RK
    estimate = plan.estimate(losses_RK, 0)
    exact = likelihood.plan(scored, estimator="exact", num_samples=1)
    exact_RK = (alone_K - (~exact.masks_RK).double() @ spared_KK.T) * exact.masks_RK
    assert estimate.log_likelihood == pytest.approx(exact.estimate(exact_RK, 0).log_likelihood)
    assert estimate.standard_error == pytest.approx(0, abs=1e-7)
    assert not estimate.exact
