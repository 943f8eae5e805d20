import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate

from toys import Joint, Waves, any_order_case
from unmask import likelihood
from unmask.errors import UsageError
from unmask.guidance import classifier_free

CASE = torch.tensor([1, 0, 1])
ALL = torch.ones(3, dtype=torch.bool)


def gen(seed):
    return torch.Generator().manual_seed(seed)


def table(logits_fn, tokens_L, mask_id):
    """S(M) of every set M of a fully scored text, by bit mask."""
    length = len(tokens_L)
    sums = [0.0]
    for bits in range(1, 2**length):
        masked_L = torch.tensor([bits >> i & 1 == 1 for i in range(length)])
        logp_LV = logits_fn(tokens_L.masked_fill(masked_L, mask_id)[None])[0].log_softmax(-1)
        sums.append(-logp_LV.gather(1, tokens_L[:, None])[:, 0][masked_L].sum().item())
    return sums


def test_exact_bound_of_the_closed_form_case():
    estimate = likelihood.bound(any_order_case, CASE, ALL, mask_id=2, estimator="exact")
    assert -estimate.log_likelihood == pytest.approx(2.3714675415, abs=2e-7)
    assert estimate.standard_error == 0
    assert estimate.network_calls == 7
    assert estimate.exact


def test_exact_bound_over_the_truncated_times_of_training():
    estimate = likelihood.bound(any_order_case, CASE, ALL, mask_id=2, estimator="exact", eps=1e-3)
    assert -estimate.log_likelihood == pytest.approx(2.37112460, abs=2e-7)


def test_chain_rule_of_the_closed_form_case():
    estimate = likelihood.chain_rule(any_order_case, CASE, ALL, mask_id=2)
    assert -estimate.log_likelihood == pytest.approx(2.32990248, abs=2e-7)
    assert (estimate.network_calls, estimate.standard_error, estimate.exact) == (3, 0, True)


@pytest.mark.parametrize("scored", [1, 2, 5, 9])
def test_weights_are_the_integrals_over_t(scored):
    for count in range(1, scored + 1):
        for eps in (0.0, 0.25):
            integral, _ = integrate.quad(lambda t, m=count: t ** (m - 1) * (1 - t) ** (scored - m), eps, 1)
            assert likelihood.count_weight(count, scored, eps) == pytest.approx(integral / (1 - eps))


def test_variance_of_one_draw_of_the_closed_form_case():
    sums = table(any_order_case, CASE, 2)
    by_count = [[sums[bits] for bits in range(8) if bits.bit_count() == count] for count in range(4)]
    draws = [3 / m * s for m in (1, 2, 3) for s in by_count[m]]
    probabilities = [1 / 3 / len(by_count[m]) for m in (1, 2, 3) for _ in by_count[m]]
    mean = sum(p * x for p, x in zip(probabilities, draws, strict=True))
    variance = sum(p * (x - mean) ** 2 for p, x in zip(probabilities, draws, strict=True))
    assert mean == pytest.approx(2.3714675415)
    assert variance == pytest.approx(1.898, abs=5e-4)

    # one stratified draw is a fixed-count draw: the same variance, by repetition
    generator = gen(0)
    losses = []
    for _ in range(4000):
        plan = likelihood.plan(3, estimator="stratified", num_samples=1, generator=generator)
        bits = sum(1 << i for i, masked in enumerate(plan.masks_RK[0].tolist()) if masked)
        losses.append(plan.weights_R.item() * sums[bits])
    losses = torch.tensor(losses, dtype=torch.float64)
    assert losses.mean().item() == pytest.approx(2.3714675, abs=4 * math.sqrt(1.898 / 4000))
    assert losses.var().item() == pytest.approx(1.898, rel=0.1)


def test_variance_of_one_monte_carlo_draw_of_the_closed_form_case():
    sums = table(any_order_case, CASE, 2)
    eps = 1e-3

    def second_moment(t):
        return sum(t ** b.bit_count() * (1 - t) ** (3 - b.bit_count()) * (sums[b] / t) ** 2 for b in range(8))

    variance = integrate.quad(second_moment, eps, 1, limit=200)[0] / (1 - eps) - 2.37112460**2
    assert variance == pytest.approx(22.82, abs=5e-3)

    # 300,000 draws of the plan have that mean and, within the error of so heavy a tail, that variance
    plan = likelihood.plan(3, estimator="mc", num_samples=300_000, generator=gen(1), eps=eps)
    bits = (plan.masks_RK * torch.tensor([1, 2, 4])).sum(1)
    losses = 300_000 * plan.weights_R * torch.tensor(sums, dtype=torch.float64)[bits]
    assert losses.mean().item() == pytest.approx(2.37112460, abs=4 * math.sqrt(22.82 / 300_000))
    assert losses.var().item() == pytest.approx(22.82, rel=0.15)


@pytest.mark.parametrize("length", [1, 2, 4])
def test_bound_is_exact_where_the_conditionals_come_from_a_joint(length):
    joint = Joint(length, 3)
    tokens_L = joint.texts_NL[len(joint.texts_NL) // 2]
    scored_L = torch.ones(length, dtype=torch.bool)
    truth = joint.probs_N[len(joint.texts_NL) // 2].log().item()
    bound = likelihood.bound(joint, tokens_L, scored_L, mask_id=3, estimator="exact")
    chain = likelihood.chain_rule(joint, tokens_L, scored_L, mask_id=3)
    assert bound.log_likelihood == pytest.approx(truth, abs=1e-6)
    assert chain.log_likelihood == pytest.approx(truth, abs=1e-6)
    assert bound.network_calls == 2**length - 1


def test_only_the_scored_tokens_are_masked_and_the_others_seen():
    joint = Joint(4, 2)
    tokens_L, scored_L = torch.tensor([1, 0, 1, 1]), torch.tensor([False, True, False, True])
    given = (joint.texts_NL[:, 0] == 1) & (joint.texts_NL[:, 2] == 1)
    truth = (joint.probs_N[joint.index(tokens_L[None])] / joint.probs_N[given].sum()).log().item()
    for estimate in (
        likelihood.bound(joint, tokens_L, scored_L, mask_id=2, estimator="exact"),
        likelihood.bound(joint, tokens_L, scored_L, mask_id=2, estimator="auto", num_samples=3),
        likelihood.chain_rule(joint, tokens_L, scored_L, mask_id=2),
    ):
        assert estimate.log_likelihood == pytest.approx(truth, abs=1e-6)
        assert estimate.exact


@pytest.mark.parametrize(
    ("estimator", "num_samples", "eps", "coverage"),
    [
        ("stratified", 2, 0.0, (0.5, 1.0)),  # a stratum of two: the error of the error is large
        ("stratified", 5, 0.0, (0.75, 1.0)),
        ("stratified", 8, 0.0, (0.8, 1.0)),
        ("stratified", 24, 0.0, (0.9, 0.99)),
        ("stratified", 24, 0.05, (0.9, 0.99)),
        ("mc", 64, 0.05, (0.88, 1.0)),
    ],
)
def test_estimators_are_unbiased_and_their_errors_honest(estimator, num_samples, eps, coverage):
    waves, repeats = Waves(3), 600
    tokens_L, scored_L = torch.tensor([0, 2, 1, 1, 0, 2, 0]), torch.tensor([0, 1, 1, 1, 1, 1, 1]).bool()
    truth = likelihood.bound(waves, tokens_L, scored_L, mask_id=3, estimator="exact", eps=eps).log_likelihood
    estimates = likelihood.bounds(
        waves,
        tokens_L.expand(repeats, -1),
        scored_L.expand(repeats, -1),
        mask_id=3,
        estimator=estimator,
        num_samples=num_samples,
        generators=[gen(seed) for seed in range(repeats)],
        batch_size=4096,
        eps=eps,
    )
    values = torch.tensor([e.log_likelihood for e in estimates], dtype=torch.float64)
    errors = torch.tensor([e.standard_error for e in estimates], dtype=torch.float64)
    assert abs(values.mean().item() - truth) < 4 * values.std().item() / math.sqrt(repeats)
    covered = ((values - truth).abs() < 1.96 * errors).double().mean().item()
    assert coverage[0] <= covered <= coverage[1]
    # the mean squared error is what the standard errors say, or less where they err on the large side
    ratio = (values.var() / (errors**2).mean()).item()
    assert ratio < 1.25
    assert not any(e.exact for e in estimates)


def test_stratified_beats_monte_carlo_at_equal_draws():
    tokens_L, scored_L = torch.tensor([0, 1, 1, 1, 0, 1, 0, 1]), torch.ones(8, dtype=torch.bool)
    spread = {}
    for estimator in ("stratified", "mc"):
        estimates = likelihood.bounds(
            any_order_case,
            tokens_L.expand(200, -1),
            scored_L.expand(200, -1),
            mask_id=2,
            estimator=estimator,
            num_samples=32,
            generators=[gen(seed) for seed in range(200)],
            batch_size=4096,
            eps=1e-3,
        )
        spread[estimator] = torch.tensor([e.log_likelihood for e in estimates]).std().item()
    assert spread["stratified"] < 0.1 * spread["mc"]


def test_stratified_with_every_set_is_exact():
    waves = Waves(3)
    tokens_L, scored_L = torch.tensor([0, 2, 1, 1]), torch.ones(4, dtype=torch.bool)
    exact = likelihood.bound(waves, tokens_L, scored_L, mask_id=3, estimator="exact")
    for num_samples in (15, 40):
        full = likelihood.bound(
            waves, tokens_L, scored_L, mask_id=3, estimator="stratified", num_samples=num_samples, generator=gen(0)
        )
        assert full.log_likelihood == pytest.approx(exact.log_likelihood, abs=1e-9)
        assert (full.exact, full.standard_error, full.network_calls) == (True, 0, 15)


@settings(max_examples=60, deadline=None)
@given(scored=st.integers(1, 12), num_samples=st.integers(1, 60), seed=st.integers(0, 2**32))
def test_stratified_plans_draw_without_replacement_and_weigh_to_one_per_token(scored, num_samples, seed):
    plan = likelihood.plan(scored, estimator="stratified", num_samples=num_samples, generator=gen(seed))
    assert plan.masks_RK.any(dim=1).all()
    assert sum(stratum.rows for stratum in plan.strata) == len(plan.masks_RK) <= num_samples
    if num_samples >= min(2 * scored - 1, 2**scored - 1):
        # the rows with one number of masked tokens are different sets
        assert len(plan.masks_RK.unique(dim=0)) == len(plan.masks_RK)
    if num_samples >= 3:
        losses_RK = torch.rand(plan.masks_RK.shape, generator=gen(seed), dtype=torch.float64) * plan.masks_RK
        assert not math.isnan(plan.estimate(losses_RK, 0).standard_error)


def test_one_draw_has_no_error_to_tell():
    estimate = likelihood.bound(
        any_order_case, CASE, ALL, mask_id=2, estimator="stratified", num_samples=1, generator=gen(0)
    )
    assert math.isnan(estimate.standard_error)


@pytest.mark.parametrize("estimator", ["exact", "stratified", "mc"])
@pytest.mark.parametrize("guidance", [0.0, 0.7])
def test_figures_do_not_depend_on_the_batch(estimator, guidance):
    waves = Waves(4)
    tokens_BL = torch.randint(4, (3, 9), generator=gen(0))
    scored_BL = torch.tensor(
        [[0, 0, 1, 1, 1, 1, 0, 1, 1], [0, 0, 0, 0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 1, 1, 1, 1, 1]]
    ).bool()

    def figures(rows, batch_size):
        estimates = likelihood.bounds(
            classifier_free(waves, ~scored_BL[rows], guidance, 4),
            tokens_BL[rows],
            scored_BL[rows],
            mask_id=4,
            estimator=estimator,
            num_samples=20,
            generators=[gen(row) for row in rows],
            batch_size=batch_size,
        )
        return [(e.log_likelihood, e.standard_error, e.network_calls) for e in estimates]

    together = figures([0, 1, 2], 1000)
    for batch_size in (1, 7, 64):
        for one, other in zip(figures([0, 1, 2], batch_size), together, strict=True):
            assert one == pytest.approx(other, abs=1e-5, nan_ok=True)
    for row in range(3):
        assert figures([row], 5)[0] == pytest.approx(together[row], abs=1e-5, nan_ok=True)


def test_guided_estimates_count_both_passes():
    waves = Waves(4)
    tokens_L, scored_L = torch.tensor([0, 1, 2, 3]), torch.tensor([0, 0, 1, 1]).bool()
    plain = likelihood.bound(waves, tokens_L, scored_L, mask_id=4, estimator="exact")
    guided_fn = classifier_free(waves, ~scored_L[None], 0.5, 4)
    guided = likelihood.bound(guided_fn, tokens_L, scored_L, mask_id=4, estimator="exact")
    assert (plain.network_calls, guided.network_calls) == (3, 6)
    assert guided.log_likelihood != plain.log_likelihood
    assert likelihood.chain_rule(guided_fn, tokens_L, scored_L, mask_id=4).network_calls == 4


def test_a_row_costs_one_call_however_often_it_is_drawn_and_an_empty_mask_none():
    plan = likelihood.plan(2, estimator="mc", num_samples=50, generator=gen(0))
    waves = Waves(2)
    tokens_L, scored_L = torch.tensor([0, 1, 1]), torch.tensor([False, True, True])
    estimate = likelihood.bound(waves, tokens_L, scored_L, mask_id=2, estimator="mc", num_samples=50, generator=gen(0))
    assert not plan.masks_RK.any(dim=1).all()
    assert estimate.network_calls == waves.rows_seen == 3


def test_auto_is_exact_up_to_its_budget_of_calls():
    waves = Waves(3)
    tokens_L = torch.zeros(4, dtype=torch.int64)
    for scored, exact in ((3, True), (4, False)):
        scored_L = torch.arange(4) < scored
        estimate = likelihood.bound(waves, tokens_L, scored_L, mask_id=3, num_samples=8, generator=gen(0))
        assert estimate.exact is exact
        assert estimate.network_calls <= 8


def test_causal_scores_a_sequence_in_one_call():
    def causal_fn(tokens_BL, select_BL=None):
        before_BL = tokens_BL.cumsum(dim=1) - tokens_BL
        logits_BLV = torch.stack([before_BL.double().sin(), before_BL.double().cos()], dim=2)
        return logits_BLV if select_BL is None else logits_BLV[select_BL]

    tokens_BL = torch.randint(2, (5, 6), generator=gen(0))
    scored_BL = torch.arange(6).expand(5, 6) >= torch.arange(5)[:, None]
    estimates = likelihood.causal(causal_fn, tokens_BL, scored_BL, batch_size=2)
    logp_BL = causal_fn(tokens_BL).log_softmax(-1).gather(2, tokens_BL[..., None])[..., 0]
    for estimate, expected in zip(estimates, (logp_BL * scored_BL).sum(dim=1).tolist(), strict=True):
        assert estimate.log_likelihood == pytest.approx(expected, abs=1e-6)
        assert (estimate.network_calls, estimate.exact) == (1, True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"estimator": "exat"}, "did you mean 'exact'"),
        ({"scored_L": torch.zeros(3, dtype=torch.bool)}, "nothing to score"),
        ({"scored_L": torch.ones(3)}, "must be boolean"),
        ({"tokens_L": torch.tensor([1, 2, 1])}, "scored token is the mask token 2"),
        ({"num_samples": 0}, "num_samples 0"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"eps": 1.0}, "eps 1.0"),
        ({"estimator": "mc"}, "needs a generator"),
        (
            {"tokens_L": torch.ones(25).long(), "scored_L": torch.ones(25).bool(), "estimator": "exact"},
            "take stratified",
        ),
    ],
)
def test_bad_arguments_are_named(changes, words):
    arguments = {"tokens_L": CASE, "scored_L": ALL, "mask_id": 2} | changes
    with pytest.raises(UsageError, match=words.replace("(", r"\(")):
        likelihood.bound(any_order_case, arguments.pop("tokens_L"), arguments.pop("scored_L"), **arguments)
