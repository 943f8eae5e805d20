"""Each objective's distribution of masks and weights, by enumeration; shapes as in `unmask.objectives`."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from torch.nn import functional as F

from toys import Joint, any_order_case
from unmask import likelihood, objectives
from unmask.errors import UsageError
from unmask.objectives import Rows

CASE = torch.tensor([1, 0, 1])
MASK, BOS = 2, 7
SETS = list(itertools.product([False, True], repeat=3))[1:]
ROWS = 400_000


def gen(seed):
    return torch.Generator().manual_seed(seed)


def loss_sum(masked):
    """S(M) of the closed-form case: -log p over the masked tokens, in nats."""
    masked_L = torch.tensor(masked)
    logp_LV = any_order_case(CASE.masked_fill(masked_L, MASK)[None])[0].log_softmax(-1)
    return -logp_LV.gather(1, CASE[:, None])[:, 0][masked_L].sum().item()


def losses(corrupted):
    """The training loss of each row, times L: sum of weight times cross-entropy."""
    logits_BLV = any_order_case(corrupted.inputs_BL)
    nll_BL = F.cross_entropy(logits_BLV.transpose(1, 2), corrupted.targets_BL, reduction="none", ignore_index=-100)
    return (corrupted.weights_BL * nll_BL).sum(dim=1)


def corrupt(name, seed=0, **options):
    return objectives.lookup(name)(CASE.repeat(ROWS, 1), gen(seed), mask_id=MASK, bos_id=BOS, **options)


def span_chance(masked, rate, mean_span):
    """The chance of a pattern under the two-state chain that `span` is."""
    leave, enter = 1 / mean_span, rate / (1 - rate) / mean_span
    chance = rate if masked[0] else 1 - rate
    for before, now in itertools.pairwise(masked):
        move = leave if before else enter
        chance *= move if before != now else 1 - move
    return chance


def t_integral(function, eps=1e-3):
    return integrate.quad(function, eps, 1, limit=200)[0] / (1 - eps)


def mdm_chance(masked):
    return t_integral(lambda t: t ** sum(masked) * (1 - t) ** (3 - sum(masked)))


def mdm_weight(count):
    """What S(M) of a set of `count` tokens counts in the expected loss."""
    return t_integral(lambda t: t ** (count - 1) * (1 - t) ** (3 - count))


def any_order_chance(masked):
    return 1 / 3 / math.comb(3, sum(masked))


CHANCES = {
    "mdm": mdm_chance,
    "any_order": any_order_chance,
    "block": any_order_chance,  # the text is one block
    "mlm": lambda masked: 0.15 ** sum(masked) * 0.85 ** (3 - sum(masked)),
    "span": lambda masked: span_chance(masked, 0.15, 3.0),
}
EXPECTED = {  # of the loss, in nats for the text of three tokens
    "mdm": sum(mdm_weight(sum(masked)) * loss_sum(masked) for masked in SETS),
    "any_order": sum(any_order_chance(masked) * 3 / sum(masked) * loss_sum(masked) for masked in SETS),
    "block": sum(any_order_chance(masked) * 3 / sum(masked) * loss_sum(masked) for masked in SETS),
    "mlm": sum(CHANCES["mlm"](masked) / 0.15 * loss_sum(masked) for masked in SETS),
    "span": sum(CHANCES["span"](masked) / 0.15 * loss_sum(masked) for masked in SETS),
}


def test_the_enumerated_expectations_are_the_closed_form_case():
    assert EXPECTED["mdm"] == pytest.approx(2.37112460, abs=2e-7)
    assert EXPECTED["any_order"] == pytest.approx(2.3714675415, abs=2e-7)


@pytest.mark.parametrize("options", [{}, {"rows": Rows(0, 2 * ROWS)}])
@pytest.mark.parametrize("name", EXPECTED)
def test_the_mean_loss_is_the_enumerated_expectation(name, options):
    found_B = losses(corrupt(name, **options)).double()
    error = found_B.std().item() / math.sqrt(ROWS)
    assert error < 0.01
    assert found_B.mean().item() == pytest.approx(EXPECTED[name], abs=4 * error)


def test_the_mean_loss_without_stratification_is_the_same_expectation():
    found_B = losses(corrupt("mdm", stratified=False)).double()
    assert found_B.mean().item() == pytest.approx(EXPECTED["mdm"], abs=4 * found_B.std().item() / math.sqrt(ROWS))
    assert found_B.var().item() == pytest.approx(22.82, rel=0.3)  # of so heavy a tail


@pytest.mark.parametrize("name", CHANCES)
def test_every_set_of_masks_comes_as_often_as_it_should(name):
    masked_BL = corrupt(name, seed=1).targets_BL != -100
    numbers_B = (masked_BL * torch.tensor([4, 2, 1])).sum(dim=1)
    counts = torch.bincount(numbers_B, minlength=8).tolist()
    for masked in SETS:
        chance = CHANCES[name](masked)
        number = sum(bit << place for place, bit in zip((2, 1, 0), masked, strict=True))
        assert counts[number] == pytest.approx(ROWS * chance, abs=4.5 * math.sqrt(ROWS * chance))


@pytest.mark.parametrize("name", objectives.OBJECTIVES)
def test_the_weights_of_a_row_add_up_to_its_length_on_average(name):
    """So the loss is a mean in nats per token."""
    sums_B = corrupt(name).weights_BL.double().sum(dim=1)
    error = sums_B.std().item() / math.sqrt(ROWS)
    assert sums_B.mean().item() == pytest.approx(3.0, abs=4 * error + 1e-6)


def test_flat_weights_are_one_constant_that_keeps_the_scale():
    corrupted = corrupt("mdm", weighting="flat")
    scored_BL = corrupted.targets_BL != -100
    assert corrupted.weights_BL[scored_BL].unique().tolist() == pytest.approx([2 / 1.001])
    assert corrupted.weights_BL[~scored_BL].unique().tolist() == [0]
    sums_B = corrupted.weights_BL.double().sum(dim=1)
    assert sums_B.mean().item() == pytest.approx(3.0, abs=4 * sums_B.std().item() / math.sqrt(ROWS))
    assert (scored_BL == (corrupt("mdm").targets_BL != -100)).all()  # the same masks


def times(rows, seed=0, start=None, **options):
    """The t of each row, from the weights of rows so long that some token is masked."""
    tokens_BL = torch.zeros(rows, 20_000, dtype=torch.int64)
    corrupted = objectives.mdm(tokens_BL, gen(seed), mask_id=1, rows=start, **options)
    return 1 / corrupted.weights_BL.max(dim=1).values.double()


def test_stratified_times_take_one_from_each_part_in_random_order():
    t_G = times(40)
    parts_G = ((t_G - 1e-3) / (1 - 1e-3) * 40).floor().long()
    assert sorted(parts_G.tolist()) == list(range(40))
    assert parts_G.tolist() != list(range(40))
    assert times(40, seed=1).tolist() != t_G.tolist()


def test_times_without_stratification_are_independent():
    parts = (times(200, stratified=False) * 200).floor().long().unique()
    assert len(parts) == pytest.approx(200 * (1 - math.exp(-1)), abs=20)


@pytest.mark.parametrize("stratified", [True, False])
def test_the_time_of_a_row_is_uniform_whatever_its_place(stratified):
    t = torch.stack([times(4, seed=seed, stratified=stratified) for seed in range(150)])
    assert t.mean(dim=0).tolist() == pytest.approx([0.5] * 4, abs=4 * math.sqrt(1 / 12 / 150))
    quarter = stats.kstest((t.flatten() - 1e-3) / (1 - 1e-3) * 4 % 1, "uniform")  # within its part
    assert quarter.pvalue > 1e-4
    assert t.min() >= 1e-3
    assert t.max() <= 1


def test_stratified_times_integrate_the_closed_form_case_to_its_truncation():
    """The expectation at each t is known, so the t alone are left to chance: 2.37112, and not the 2.37147 from 0 on."""
    t_G = torch.cat([times(250, seed) for seed in range(4)])
    at_t_G = sum(t_G ** (sum(masked) - 1) * (1 - t_G) ** (3 - sum(masked)) * loss_sum(masked) for masked in SETS)
    assert at_t_G.mean().item() == pytest.approx(2.37112460, abs=1.5e-4)


@pytest.mark.parametrize("eps", [1e-3, 0.25])
def test_tokens_are_masked_with_the_chance_of_their_row(eps):
    tokens_BL = torch.zeros(64, 20_000, dtype=torch.int64)
    corrupted = objectives.mdm(tokens_BL, gen(0), mask_id=1, eps=eps)
    t_B = 1 / corrupted.weights_BL.max(dim=1).values.double()
    assert t_B.min() >= eps
    assert t_B.min() < eps + 1 / 64
    share_B = (corrupted.inputs_BL == 1).double().mean(dim=1)
    assert ((share_B - t_B).abs() < 5 * (t_B * (1 - t_B) / 20_000).sqrt() + 1e-4).all()


def test_any_order_masks_an_exact_number_and_spreads_the_numbers_over_the_batch():
    tokens_BL = torch.zeros(30, 10, dtype=torch.int64)
    corrupted = objectives.any_order(tokens_BL, gen(0), mask_id=1)
    counts_B = (corrupted.inputs_BL == 1).sum(dim=1)
    assert sorted(counts_B.tolist()) == sorted(list(range(1, 11)) * 3)
    assert torch.allclose(corrupted.weights_BL.sum(dim=1), torch.full((30,), 10.0))


@pytest.mark.parametrize(("rate", "mean_span"), [(0.15, 3.0), (0.5, 2.0), (0.75, 3.0)])
def test_spans_have_their_mean_length_and_cover_their_share(rate, mean_span):
    tokens_BL = torch.zeros(400, 1000, dtype=torch.int64)
    masked_BL = objectives.span(tokens_BL, gen(0), mask_id=1, rate=rate, mean_span=mean_span).inputs_BL == 1
    share_B = masked_BL.double().mean(dim=1)
    assert share_B.mean().item() == pytest.approx(rate, abs=4 * share_B.std().item() / 20)
    ends = (masked_BL[:, :-1] & ~masked_BL[:, 1:]).sum().item()
    assert masked_BL[:, :-1].sum().item() / ends == pytest.approx(mean_span, rel=0.02)


def test_spans_that_cannot_cover_so_much_are_refused():
    with pytest.raises(UsageError, match=r"mask_rate 0.9 with spans of 3.0 tokens on average: must be at most 0.75"):
        objectives.span(CASE[None], gen(0), mask_id=MASK, rate=0.9)


# Autoregression


def test_arm_is_the_row_moved_by_one_and_scores_every_token_once():
    tokens_BL = torch.tensor([[3, 4, 5], [6, 0, 1]])
    corrupted = objectives.arm(tokens_BL, gen(0), bos_id=BOS)
    assert corrupted.inputs_BL.tolist() == [[BOS, 3, 4], [BOS, 6, 0]]
    assert corrupted.targets_BL.tolist() == tokens_BL.tolist()
    assert corrupted.weights_BL.tolist() == [[1.0] * 3] * 2


def test_the_arm_loss_of_a_known_joint_is_its_exact_nll():
    joint = Joint(length=4, vocab_size=3)
    inputs_BL = objectives.arm(joint.texts_NL, gen(0), bos_id=BOS).inputs_BL
    nll_B = torch.zeros(len(joint.texts_NL), dtype=torch.float64)
    for position in range(4):  # a causal network sees the inputs up to its position, the first of which is no token
        seen_BL = torch.cat([inputs_BL[:, 1:], inputs_BL[:, :1]], dim=1)
        hidden_BL = torch.arange(4) >= position
        logits_BV = joint(seen_BL.masked_fill(hidden_BL, joint.mask_id))[:, position]
        nll_B += F.cross_entropy(logits_BV, joint.texts_NL[:, position], reduction="none")
    assert torch.allclose(nll_B, -joint.probs_N.log())


def test_the_bounds_of_a_known_joint_are_its_exact_nll_in_expectation():
    joint = Joint(length=3, vocab_size=2, seed=4)
    text_L = joint.texts_NL[5]
    exact = -joint.probs_N[5].log().item()
    for name in objectives.BOUNDS:
        corrupted = objectives.lookup(name)(text_L.repeat(ROWS // 4, 1), gen(2), mask_id=joint.mask_id)
        nll_BL = F.cross_entropy(
            joint(corrupted.inputs_BL).transpose(1, 2), corrupted.targets_BL, reduction="none", ignore_index=-100
        )
        found_B = (corrupted.weights_BL * nll_BL).sum(dim=1)
        error = found_B.std().item() / math.sqrt(len(found_B))
        assert found_B.mean().item() == pytest.approx(exact, abs=4 * error + 1e-3 * exact)


@pytest.mark.parametrize("block_length", [1, 2, 3])
def test_the_block_bound_of_a_known_joint_is_its_exact_nll_in_expectation(block_length):
    """Each block sees itself as it is masked, and those before it unmasked."""
    joint = Joint(length=3, vocab_size=2, seed=4)
    text_L = joint.texts_NL[5]
    rows = 20_000
    corrupted = objectives.block(text_L.repeat(rows, 1), gen(2), mask_id=joint.mask_id, block_length=block_length)
    assert torch.equal(corrupted.clean_BL, text_L.repeat(rows, 1))
    found_B = torch.zeros(rows, dtype=torch.float64)
    for start in range(0, 3, block_length):
        stop = min(start + block_length, 3)
        seen_BL = corrupted.clean_BL.clone()
        seen_BL[:, start:stop] = corrupted.inputs_BL[:, start:stop]
        seen_BL[:, stop:] = joint.mask_id
        logits_BVL = joint(seen_BL)[:, start:stop].transpose(1, 2)
        nll_BL = F.cross_entropy(logits_BVL, corrupted.targets_BL[:, start:stop], reduction="none", ignore_index=-100)
        found_B += (corrupted.weights_BL[:, start:stop] * nll_BL).sum(dim=1)
    error = found_B.std().item() / math.sqrt(rows)
    assert found_B.mean().item() == pytest.approx(-joint.probs_N[5].log().item(), abs=4 * error + 1e-6)
    assert (error < 1e-6) == (block_length == 1)  # which is the chain rule, and exact


def test_every_block_has_an_exact_number_of_masks_spread_over_the_batch():
    corrupted = objectives.block(torch.zeros(300, 10, dtype=torch.int64), gen(0), mask_id=1, block_length=4)
    masked_BL = corrupted.targets_BL != -100
    for start, stop in ((0, 4), (4, 8), (8, 10)):  # the last one is shorter
        counts_B = masked_BL[:, start:stop].sum(dim=1)
        size = stop - start
        assert counts_B.min() == 1
        assert counts_B.bincount(minlength=size + 1)[1:].tolist() == pytest.approx([300 / size] * size, rel=0.25)
        weights_BL = corrupted.weights_BL[:, start:stop]
        assert torch.allclose(weights_BL.sum(dim=1), torch.full((300,), float(size)))
    with pytest.raises(UsageError, match="block_length 0"):
        objectives.block(CASE[None], gen(0), mask_id=MASK, block_length=0)


# What all have in common


@pytest.mark.parametrize("name", objectives.OBJECTIVES)
@given(edges=st.sets(st.integers(1, 11)), length=st.integers(1, 9), seed=st.integers(0, 100))
@settings(max_examples=25, deadline=None)
def test_slices_of_a_global_batch_are_the_rows_of_the_whole(name, edges, length, seed):
    tokens_GL = torch.randint(0, 9, (12, length), generator=gen(seed))
    objective = objectives.lookup(name)
    whole = objective(tokens_GL, gen(seed), mask_id=9, bos_id=10)
    for start, stop in itertools.pairwise([0, *sorted(edges), 12]):
        part = objective(tokens_GL[start:stop], gen(seed), mask_id=9, bos_id=10, rows=Rows(start, 12))
        for field in ("inputs_BL", "targets_BL", "weights_BL"):
            assert torch.equal(getattr(part, field), getattr(whole, field)[start:stop])


@pytest.mark.parametrize("name", objectives.OBJECTIVES)
def test_what_is_scored_has_a_weight_and_what_is_masked_is_scored(name):
    tokens_BL = torch.randint(0, 9, (50, 12), generator=gen(0))
    before_BL = tokens_BL.clone()
    corrupted = objectives.lookup(name)(tokens_BL, gen(1), mask_id=9, bos_id=10)
    scored_BL = corrupted.targets_BL != objectives.IGNORE
    assert torch.equal(tokens_BL, before_BL)
    assert corrupted.weights_BL.dtype == torch.float32
    assert torch.equal(corrupted.targets_BL[scored_BL], tokens_BL[scored_BL])
    assert (corrupted.weights_BL[scored_BL] > 0).all()
    assert (corrupted.weights_BL[~scored_BL] == 0).all()
    if name not in objectives.CAUSAL:
        assert torch.equal(corrupted.inputs_BL == 9, scored_BL)
        assert torch.equal(corrupted.inputs_BL[~scored_BL], tokens_BL[~scored_BL])


@pytest.mark.parametrize("name", sorted(set(objectives.OBJECTIVES) - objectives.CAUSAL))
def test_a_masking_objective_needs_a_mask(name):
    with pytest.raises(UsageError, match=f"objective {name}: needs a mask token"):
        objectives.lookup(name)(CASE[None], gen(0))


def test_arm_needs_a_beginning_of_text():
    with pytest.raises(UsageError, match="no beginning-of-text token"):
        objectives.arm(CASE[None], gen(0))


def test_an_unknown_objective_suggests_the_nearest():
    with pytest.raises(UsageError, match="'anyorder': did you mean 'any_order'"):
        objectives.lookup("anyorder")


def test_the_bounds_are_those_that_likelihood_weighs_alike():
    for masked in SETS:
        count = sum(masked)
        assert any_order_chance(masked) * 3 / count == pytest.approx(likelihood.count_weight(count, 3))
        assert mdm_weight(count) == pytest.approx(likelihood.count_weight(count, 3, eps=1e-3))
