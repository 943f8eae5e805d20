import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from toys import Joint, Waves
from unmask import seeding
from unmask.errors import UsageError
from unmask.samplers import SAMPLERS, block, options_of
from unmask.samplers.block import INSIDE, own_options, shared_out


def generators(rows, seed=7):
    return [seeding.generator(seed, "test", row) for row in range(rows)]


@pytest.mark.parametrize("inner", ["first_hitting", "autoregressive"])
def test_exact_samplers_are_exact_inside_blocks(inner):
    joint, rows = Joint(3, 3), 20_000
    options = {"inner": inner, "block_length": 2}
    tokens_BL = torch.full((rows, 3), 3)
    sampled = block(joint, tokens_BL, mask_id=3, generator=torch.Generator().manual_seed(0), **options)
    observed_N = joint.index(sampled.tokens_BL).bincount(minlength=27)
    assert stats.chisquare(observed_N, joint.probs_N * rows).pvalue > 1e-3
    assert (sampled.reveal_step_BL[:, :2] < 2).all()
    assert sampled.reveal_step_BL[:, 2].eq(2).all()


def test_blocks_begin_at_the_first_mask_and_go_from_left_to_right():
    tokens_BL = torch.tensor([[0, 3, 3, 3, 3, 3], [0, 1, 2, 3, 3, 3], [3, 0, 1, 3, 2, 3]])
    sampled = block(Waves(3), tokens_BL, mask_id=3, block_length=2, inner="autoregressive", generator=generators(3))
    assert sampled.reveal_step_BL.tolist() == [[-1, 0, 1, 2, 3, 4], [-1, -1, -1, 0, 1, 2], [0, -1, -1, 1, -1, 2]]
    whole = block(Waves(3), tokens_BL, mask_id=3, block_length=6, steps=1, generator=generators(3))
    assert whole.network_calls_B.tolist() == [1, 1, 1]


@pytest.mark.parametrize("inner", sorted(INSIDE))
def test_one_block_is_the_inner_sampler(inner):
    tokens_BL = torch.tensor([[0, 3, 3, 3, 3, 3], [3, 1, 2, 3, 0, 3]])
    options = {"mask_id": 3, "steps": 3, "temperature": 0.8}
    alone = INSIDE[inner](Waves(3), tokens_BL, generator=generators(2), **options)
    inside = block(Waves(3), tokens_BL, inner=inner, block_length=8, generator=generators(2), **options)
    assert torch.equal(alone.tokens_BL, inside.tokens_BL)
    assert torch.equal(alone.reveal_step_BL, inside.reveal_step_BL)
    assert torch.equal(alone.network_calls_B, inside.network_calls_B)


def test_a_sampler_of_ones_own_fills_blocks():
    def backwards(logits_fn, tokens_BL, *, mask_id, generator, on_step, steps, times, **draw):
        flipped = INSIDE["autoregressive"](
            lambda tokens, select: logits_fn(tokens.flip(1), select.flip(1)).flip(0),
            tokens_BL.flip(1),
            mask_id=mask_id,
            generator=generator,
            **draw,
        )
        calls_B = times * flipped.network_calls_B
        return type(flipped)(flipped.tokens_BL.flip(1), calls_B, flipped.reveal_step_BL.flip(1))

    tokens_BL = torch.full((1, 5), 3)
    sampled = block(Waves(3), tokens_BL, mask_id=3, inner=backwards, times=2, block_length=3, generator=generators(1))
    assert sampled.reveal_step_BL.tolist() == [[2, 1, 0, 4, 3]]
    assert sampled.network_calls_B.tolist() == [10]


def seen_lengths(**options):
    lengths, waves = [], Waves(3)

    def logits_fn(tokens_BL, select_BL=None):
        lengths.append((tokens_BL.shape[1], (tokens_BL == 3).sum(1).tolist(), (tokens_BL == -1).sum(1).tolist()))
        return waves(tokens_BL, select_BL)

    tokens_BL = torch.tensor([[0, 3, 3, 3, 3, 3, 3], [0, 1, 2, 3, 3, 3, 3]])
    block(logits_fn, tokens_BL, mask_id=3, block_length=2, steps=3, generator=generators(2), **options)
    return lengths


def test_the_canvas_grows_block_by_block():
    # (positions, masks and padding of each row) of each call; the first row has three blocks, the second two
    assert seen_lengths()[0] == (7, [6, 4], [0, 0])
    assert seen_lengths(lookahead=0) == [
        (5, [2, 2], [2, 0]),  # the first row's block ends at 3, the second's at 5
        (5, [2], [0]),
        (7, [2], [0]),  # the second row has two steps for its second block
        (7, [1], [0]),
        (7, [2], [0]),
    ]
    assert max(max(masks) for _, masks, _ in seen_lengths(lookahead=1)) == 3


def test_given_tokens_behind_a_block_stay_in_sight():
    widths = []

    def logits_fn(tokens_BL, select_BL=None):
        widths.append(tokens_BL.tolist()[0])
        return torch.zeros(int(select_BL.sum()), 3)

    tokens_BL = torch.tensor([[0, 3, 3, 2, 3, 3]])
    block(logits_fn, tokens_BL, mask_id=3, block_length=1, lookahead=0, temperature=0.0, generator=generators(1))
    assert widths == [[0, 3, 3, 2], [0, 0, 3, 2], [0, 0, 0, 2, 3], [0, 0, 0, 2, 0, 3]]


def test_a_row_that_drew_the_end_of_text_is_done_after_its_block():
    calls = []

    def ends(tokens_BL, select_BL=None):
        calls.append(len(tokens_BL))
        logits_BLV = torch.zeros(*tokens_BL.shape, 3)
        logits_BLV[..., 0] = 50.0
        logits_BLV[tokens_BL[:, 0] == 1, 4, 2] = 100.0  # rows that begin with 1 end at position 4
        return logits_BLV[select_BL]

    states = []
    tokens_BL = torch.tensor([[0, *[3] * 8], [1, *[3] * 8]])
    options = {"block_length": 2, "steps": 8, "stop_id": 2, "on_step": states.append, "temperature": 0.0}
    sampled = block(ends, tokens_BL, mask_id=3, generator=generators(2), **options)
    assert sampled.tokens_BL.tolist() == [[0] * 9, [1, 0, 0, 0, 2, 2, 2, 2, 2]]
    assert sampled.network_calls_B.tolist() == [8, 4]
    assert sampled.reveal_step_BL[1, 5:].eq(3).all()
    assert sum(calls) == 12
    assert torch.equal(states[-1].tokens_BL, sampled.tokens_BL)


@given(masks=st.lists(st.integers(1, 40), min_size=1, max_size=8), spare=st.integers(0, 100))
def test_steps_are_shared_out_in_proportion(masks, spare):
    steps = len(masks) + spare
    shares = shared_out(steps, masks)
    assert sum(shares) == steps
    assert min(shares) >= 1
    if len(set(masks)) == 1:
        assert max(shares) - min(shares) <= 1


def test_options_are_those_of_the_block_and_of_what_is_inside():
    assert options_of("block", "threshold") == {"inner", "block_length", "lookahead", "stop_id", "confidence"}
    assert options_of("block") == {"inner", "block_length", "lookahead", "stop_id", "schedule"}
    assert own_options(SAMPLERS["ancestral"]) == {"eps"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"inner": "treshold"}, "did you mean 'threshold'"),
        ({"inner": "block"}, "unknown sampler inside a block 'block'"),
        ({"inner": "threshold", "confidense": 0.5}, "did you mean 'confidence'"),
        ({"block_length": 0}, "block_length 0"),
        ({"lookahead": -1}, "lookahead -1"),
        ({"steps": 2, "block_length": 2}, "steps 2: fewer than the 3 blocks of 2"),
    ],
)
def test_bad_arguments_are_named(options, words):
    with pytest.raises(UsageError, match=words):
        block(Waves(3), torch.full((1, 6), 3), mask_id=3, generator=generators(1), **options)
