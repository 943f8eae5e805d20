"""What holds for every sampler."""

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from toys import Waves
from unmask import seeding
from unmask.errors import UnmaskError, UsageError
from unmask.guidance import Ramp, classifier_free, repetition_penalty, suppress
from unmask.samplers import SAMPLERS, lookup

VARIANTS = [(name, {}) for name in SAMPLERS] + [
    ("confidence", {"schedule": "released"}),
    ("margin", {"schedule": "released", "top_k": 2}),
    ("entropy", {"bound": 1.5, "min_p": 0.2}),
    ("threshold", {"confidence": 0.5}),
    ("remask", {"remasking": "rescale", "eta": 0.8}),
    ("remask", {"remasking": "loop", "eta": 0.3, "by_confidence": True}),
    ("autoregressive", {"top_k": 2, "top_p": 0.9, "stop_id": 1}),
    ("block", {"block_length": 3, "stop_id": 1, "inner": "ancestral"}),
    ("block", {"block_length": 2, "inner": "threshold", "confidence": 0.4}),
    ("block", {"block_length": 4, "lookahead": 0, "inner": "first_hitting"}),
    ("block", {"block_length": 4, "lookahead": 2, "inner": "remask", "eta": 0.5}),
]


def takes(options, tokens_BL, steps):
    """Whether there are steps enough for the blocks."""
    length = options.get("block_length")
    return length is None or steps is None or steps >= -(-tokens_BL.shape[1] // length)


def generators(rows):
    return [seeding.generator(7, "test", row) for row in range(rows)]


@st.composite
def batches(draw):
    rows, length = draw(st.integers(1, 4)), draw(st.integers(1, 9))
    ids = st.integers(0, 3)  # 3 is the mask
    return torch.tensor(draw(st.lists(st.lists(ids, min_size=length, max_size=length), min_size=rows, max_size=rows)))


@settings(max_examples=150, deadline=None)
@given(
    variant=st.sampled_from(VARIANTS),
    tokens_BL=batches(),
    steps=st.none() | st.integers(1, 12),
    temperature=st.sampled_from([0.0, 1e-300, 0.7, 1.0, 30.0]),
    outputs=st.sampled_from([3, 4]),
)
def test_every_mask_is_filled_and_nothing_else_touched(variant, tokens_BL, steps, temperature, outputs):
    name, options = variant
    assume(takes(options, tokens_BL, steps))
    corrects = "remask" in (name, options.get("inner"))
    waves, before, states = Waves(3, outputs), tokens_BL.clone(), []
    options = options | {"mask_id": 3, "steps": steps, "temperature": temperature}
    sampled = SAMPLERS[name](waves, tokens_BL, generator=generators(len(tokens_BL)), on_step=states.append, **options)

    masked_BL = before == 3
    assert torch.equal(tokens_BL, before)  # the argument is left alone
    assert torch.equal(sampled.tokens_BL[~masked_BL], before[~masked_BL])
    assert (sampled.tokens_BL < 3).all()  # the mask token is never drawn, even where it is the likeliest
    assert torch.equal(sampled.reveal_step_BL >= 0, masked_BL)
    masks_B = masked_BL.sum(dim=1)
    if name != "autoregressive":
        steps_B = masks_B if steps is None else torch.full_like(masks_B, steps)
        assert (sampled.reveal_step_BL < steps_B[:, None].clamp(min=1)).all()
        assert (sampled.network_calls_B <= (steps_B if corrects else steps_B.minimum(masks_B))).all()
    assert torch.equal(sampled.network_calls_B > 0, masks_B > 0)
    assert waves.rows_seen == sampled.network_calls_B.sum()

    # on_step: what is revealed stays, and ends as the result; each revealed token has its probability
    for state in states:
        revealed_BL = state.reveal_step_BL >= 0
        assert torch.equal(revealed_BL, masked_BL & (state.tokens_BL != 3))
        if not corrects:
            assert torch.equal(state.tokens_BL[revealed_BL], sampled.tokens_BL[revealed_BL])
        assert torch.equal(~state.confidence_BL.isnan(), revealed_BL)
        assert ((state.confidence_BL[revealed_BL] >= 0) & (state.confidence_BL[revealed_BL] <= 1.0001)).all()
    if states:
        assert torch.equal(states[-1].tokens_BL, sampled.tokens_BL)
        assert torch.equal(states[-1].network_calls_B, sampled.network_calls_B)
    else:
        assert not masked_BL.any()


@settings(max_examples=100, deadline=None)
@given(
    variant=st.sampled_from(VARIANTS),
    tokens_BL=batches(),
    steps=st.none() | st.integers(1, 12),
    temperature=st.sampled_from([0.0, 1.0]),
    guidance=st.sampled_from([0.0, 0.5, Ramp(1.0, until=0.5)]),
)
def test_a_row_does_not_depend_on_its_batch(variant, tokens_BL, steps, temperature, guidance):
    name, options = variant
    assume(takes(options, tokens_BL, steps))
    prompt_BL = (tokens_BL != 3) & (torch.arange(tokens_BL.shape[1]) < 2)

    def run(rows):
        logits_fn = suppress(repetition_penalty(classifier_free(Waves(3), prompt_BL[rows], guidance, 3), 1.2, 3), [0])
        row_generators = [generators(len(tokens_BL))[row] for row in rows]
        return SAMPLERS[name](
            logits_fn,
            tokens_BL[rows],
            mask_id=3,
            steps=steps,
            temperature=temperature,
            generator=row_generators,
            **options,
        )

    together = run(list(range(len(tokens_BL))))
    for row in range(len(tokens_BL)):
        alone = run([row])
        assert torch.equal(alone.tokens_BL[0], together.tokens_BL[row])
        assert torch.equal(alone.reveal_step_BL[0], together.reveal_step_BL[row])
        assert alone.network_calls_B[0] == together.network_calls_B[row]


@pytest.mark.parametrize("name", SAMPLERS)
def test_one_generator_gives_each_row_its_own_noise_by_its_index(name):
    waves, tokens_BL = Waves(3), torch.full((6, 12), 3)

    def run(rows):
        generator = torch.Generator().manual_seed(5)
        return SAMPLERS[name](waves, tokens_BL[:rows], mask_id=3, temperature=3.0, generator=generator).tokens_BL

    assert torch.equal(run(6)[:4], run(4))
    assert len(run(6).unique(dim=0)) == 6

    generator = torch.Generator().manual_seed(5)
    options = {"mask_id": 3, "temperature": 3.0, "generator": generator}
    first, second = (SAMPLERS[name](waves, tokens_BL, **options).tokens_BL for _ in range(2))
    assert not torch.equal(first, second)  # a generator that is used again gives new noise


@pytest.mark.parametrize("name", SAMPLERS)
def test_temperature_zero_takes_the_likeliest_token_whatever_the_seed(name):
    def fixed(tokens_BL, select_BL=None):
        logits_BLV = torch.tensor([0.1, 0.3, 0.2]).expand(*tokens_BL.shape, 3)
        return logits_BLV if select_BL is None else logits_BLV[select_BL]

    tokens_BL = torch.tensor([[3, 0, 3, 3]])
    sampled = SAMPLERS[name](fixed, tokens_BL, mask_id=3, temperature=0.0, generator=generators(1))
    assert sampled.tokens_BL.tolist() == [[1, 0, 1, 1]]


@pytest.mark.parametrize("name", SAMPLERS)
def test_guided_sampling_counts_both_passes(name):
    prompt_BL = torch.tensor([[True, False, False, False]])
    tokens_BL = torch.tensor([[1, 3, 3, 3], [2, 0, 3, 3]])
    guided = classifier_free(Waves(3), prompt_BL, 0.5, 3)
    options = {"mask_id": 3, "temperature": 0.0, "generator": generators(2)}
    plain_calls = SAMPLERS["autoregressive"](Waves(3), tokens_BL, **options).network_calls_B
    assert plain_calls.tolist() == [3, 2]
    waves_calls = SAMPLERS[name](guided, tokens_BL, **options).network_calls_B
    assert (waves_calls % 2 == 0).all()
    if name == "entropy":  # which reveals as many as the bound allows
        guided_alone = SAMPLERS[name](guided, tokens_BL, bound=0.0, **options)
        waves_calls = guided_alone.network_calls_B
    if name not in ("ancestral", "remask"):  # which may reveal several tokens in a step
        assert waves_calls.tolist() == [6, 4]


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_more_steps_than_masks_fill_every_mask_and_cost_no_more_than_one_call_for_each(name, options):
    tokens_BL = torch.tensor([[3, 0, 3, 3, 1, 3, 3, 2], [0, 1, 3, 0, 1, 2, 2, 2]])
    sampled = SAMPLERS[name](Waves(3), tokens_BL, mask_id=3, steps=60, generator=generators(2), **options)
    assert (sampled.tokens_BL != 3).all()
    assert (sampled.reveal_step_BL < 60).all()
    if "remask" not in (name, options.get("inner")):  # which takes tokens back in the steps that are left
        assert (sampled.network_calls_B <= torch.tensor([5, 1])).all()


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 0}, "steps 0: must be at least 1"),
        ({"temperature": -0.5}, "temperature -0.5"),
        ({"temperature": math.nan}, "temperature nan"),
        ({"temperature": math.inf}, "temperature inf"),
        ({"generator": generators(3)}, "3 generators for 1 rows"),
    ],
)
def test_bad_arguments_are_named(name, changes, words):
    arguments = {"mask_id": 3, "generator": generators(1), **changes}
    with pytest.raises(UsageError, match=words):
        SAMPLERS[name](Waves(3), torch.full((1, 4), 3), **arguments)


@pytest.mark.parametrize("name", SAMPLERS)
def test_damaged_logits_are_refused(name):
    def damaged(tokens_BL, select_BL=None):
        return torch.full((int(select_BL.sum()), 3), math.nan)

    with pytest.raises(UnmaskError, match="no finite logits"):
        SAMPLERS[name](damaged, torch.full((1, 4), 3), mask_id=3, generator=generators(1))


def test_unknown_sampler_suggests_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'confidence'"):
        lookup("confidnce")
    assert lookup("ancestral") is SAMPLERS["ancestral"]
