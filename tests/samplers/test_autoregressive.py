import pytest
import torch
from scipy import stats

from toys import Joint, Waves
from unmask import seeding
from unmask.errors import UsageError
from unmask.guidance import repetition_penalty, suppress
from unmask.logits_fn import PADDING, incremental
from unmask.samplers import autoregressive


class CausalWaves:
    """A causal toy: row i sees tokens 0..i-1 alone. With `incremental`, as a network with a cache has it."""

    def __init__(self, cached: bool) -> None:
        self.columns_fed = []
        self.tokens_fed = 0
        if cached:
            self.incremental = self._incremental

    def __call__(self, tokens_BL, select_BL=None):
        before_BL = ((tokens_BL + 1) * (torch.arange(tokens_BL.shape[1]) + 2) ** 2).cumsum(1)
        before_BL = torch.cat([torch.zeros_like(before_BL[:, :1]), before_BL[:, :-1]], dim=1)
        return self._logits(before_BL) if select_BL is None else self._logits(before_BL)[select_BL]

    def _logits(self, sums):
        return 2 * ((sums[..., None] + 13 * torch.arange(4)) ** 2).double().sin()

    def _incremental(self, rows, length):
        return WavesCache(self, rows, length)


class WavesCache:
    def __init__(self, waves, rows, length):
        self.waves, self.length, self.seen = waves, length, 0
        self.sums_B = torch.zeros(rows, dtype=torch.int64)

    def __call__(self, tokens_BN):
        assert len(tokens_BN) == len(self.sums_B)
        self.waves.columns_fed.append(tokens_BN.shape[1])
        self.waves.tokens_fed += tokens_BN.numel()
        columns_N = torch.arange(self.seen, self.seen + tokens_BN.shape[1])
        self.sums_B = self.sums_B + ((tokens_BN + 1) * (columns_N + 2) ** 2).sum(1)
        self.seen += tokens_BN.shape[1]
        assert self.seen <= self.length
        return self.waves._logits(self.sums_B)

    def keep(self, rows_R):
        self.sums_B = self.sums_B[rows_R]


def test_samples_follow_the_exact_distribution():
    joint, rows = Joint(3, 3), 20_000
    sampled = autoregressive(joint, torch.full((rows, 3), 3), mask_id=3, generator=torch.Generator().manual_seed(0))
    observed_N = joint.index(sampled.tokens_BL).bincount(minlength=27)
    assert stats.chisquare(observed_N, joint.probs_N * rows).pvalue > 1e-3
    assert sampled.reveal_step_BL.unique(dim=0).tolist() == [[0, 1, 2]]


OPTIONS = [{}, {"stop_id": 2}, {"top_k": 2, "temperature": 0.7}, {"temperature": 0.0}]


@pytest.mark.parametrize("penalty", [1.0, 1.5])
@pytest.mark.parametrize("suppressed", [[], [1]])
@pytest.mark.parametrize("options", OPTIONS)
def test_the_cached_path_gives_what_the_plain_one_gives(options, suppressed, penalty):
    # prompts of different lengths, a given token after masks, and a row without masks
    tokens_BL = torch.tensor(
        [[1, 4, 4, 4, 4, 4], [0, 1, 2, 4, 4, 4], [4, 4, 3, 4, 0, 4], [0, 1, 2, 3, 0, 1], [3, 3, 3, 3, 3, 4]]
    )
    if penalty != 1:  # with a cache it knows only what stands before a mask
        tokens_BL[2] = torch.tensor([4, 4, 4, 4, 4, 4])
    results = []
    for cached in (False, True):
        generators = [seeding.generator(3, "test", row) for row in range(5)]
        network = CausalWaves(cached)
        logits_fn = repetition_penalty(suppress(network, suppressed), penalty, 4)
        assert (incremental(logits_fn, 5, 6) is not None) == cached
        results.append(autoregressive(logits_fn, tokens_BL, mask_id=4, generator=generators, **options))
    plain, fast = results
    assert torch.equal(plain.tokens_BL, fast.tokens_BL)
    assert torch.equal(plain.reveal_step_BL, fast.reveal_step_BL)
    assert torch.equal(plain.network_calls_B, fast.network_calls_B)
    assert sum(network.columns_fed) <= 5  # each column once, the last never


def test_the_prompt_is_fed_in_one_call():
    network = CausalWaves(cached=True)
    tokens_BL = torch.tensor([[0, 1, 2, 3, 0, 4, 4]])
    sampled = autoregressive(network, tokens_BL, mask_id=4, generator=torch.Generator())
    assert network.columns_fed == [5, 1]
    assert sampled.network_calls_B.tolist() == [2]


def test_rows_that_are_full_leave_the_batch():
    network = CausalWaves(cached=True)
    tokens_BL = torch.tensor([[4, 4, 4, 4, 4, 4], [4, 4, 0, 1, 2, 3], [0, 1, 2, 3, 0, 1]])
    sampled = autoregressive(network, tokens_BL, mask_id=4, generator=torch.Generator())
    assert sampled.network_calls_B.tolist() == [6, 2, 0]
    assert network.columns_fed == [0, 1, 1, 1, 1, 1]
    assert network.tokens_fed == 2 + 4  # two rows up to the second column, then the first alone


def test_padding_is_left_alone_and_costs_nothing():
    tokens_BL = torch.tensor([[0, 4, 4, 4, 4], [1, 4, 4, PADDING, PADDING], [PADDING] * 5])
    for cached in (True, False):
        network = CausalWaves(cached)
        generators = [seeding.generator(3, "test", row) for row in range(3)]
        sampled = autoregressive(network, tokens_BL, mask_id=4, generator=generators)
        assert torch.equal(sampled.tokens_BL == PADDING, tokens_BL == PADDING)
        assert sampled.network_calls_B.tolist() == [4, 2, 0]
        alone = autoregressive(
            CausalWaves(cached), tokens_BL[1:2, :3], mask_id=4, generator=[seeding.generator(3, "test", 1)]
        )
        assert torch.equal(alone.tokens_BL[0], sampled.tokens_BL[1, :3])


def test_nothing_is_computed_after_the_stop_token():
    certain = lambda tokens_BL, select_BL=None: torch.tensor([0.0, 50.0]).expand(int(select_BL.sum()), 2)  # noqa: E731
    sampled = autoregressive(
        certain, torch.tensor([[0, 2, 2, 2, 0]]), mask_id=2, stop_id=1, generator=torch.Generator()
    )
    assert sampled.tokens_BL.tolist() == [[0, 1, 1, 1, 0]]
    assert sampled.network_calls_B.tolist() == [1]
    assert sampled.reveal_step_BL.tolist() == [[-1, 0, 0, 0, -1]]


@pytest.mark.parametrize(
    ("options", "words"), [({"top_k": 0}, "top_k 0"), ({"top_p": 0.0}, "top_p 0.0"), ({"top_p": 1.5}, "top_p 1.5")]
)
def test_bad_arguments_are_named(options, words):
    with pytest.raises(UsageError, match=words):
        autoregressive(Waves(3), torch.full((1, 2), 3), mask_id=3, generator=torch.Generator(), **options)
