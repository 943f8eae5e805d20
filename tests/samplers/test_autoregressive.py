import pytest
import torch
from scipy import stats

from toys import Joint, Waves
from unmask import seeding
from unmask.errors import UsageError
from unmask.samplers import autoregressive


class CausalWaves:
    """A causal toy: row i sees tokens 0..i-1 alone. With `incremental`, as a network with a cache has it."""

    def __init__(self, cached: bool) -> None:
        self.columns_fed = []
        if cached:
            self.incremental = self._incremental

    def __call__(self, tokens_BL, select_BL=None):
        before_BL = ((tokens_BL + 1) * (torch.arange(tokens_BL.shape[1]) + 2) ** 2).cumsum(1)
        before_BL = torch.cat([torch.zeros_like(before_BL[:, :1]), before_BL[:, :-1]], dim=1)
        return self._logits(before_BL) if select_BL is None else self._logits(before_BL)[select_BL]

    def _logits(self, sums):
        return 2 * ((sums[..., None] + 13 * torch.arange(4)) ** 2).double().sin()

    def _incremental(self, rows, length):
        seen, sums_B = 0, torch.zeros(rows, dtype=torch.int64)

        def extend(tokens_BN):
            nonlocal seen, sums_B
            self.columns_fed.append(tokens_BN.shape[1])
            columns_N = torch.arange(seen, seen + tokens_BN.shape[1])
            sums_B = sums_B + ((tokens_BN + 1) * (columns_N + 2) ** 2).sum(1)
            seen += tokens_BN.shape[1]
            assert seen <= length
            return self._logits(sums_B)

        return extend


def test_samples_follow_the_exact_distribution():
    joint, rows = Joint(3, 3), 20_000
    sampled = autoregressive(joint, torch.full((rows, 3), 3), mask_id=3, generator=torch.Generator().manual_seed(0))
    observed_N = joint.index(sampled.tokens_BL).bincount(minlength=27)
    assert stats.chisquare(observed_N, joint.probs_N * rows).pvalue > 1e-3
    assert sampled.reveal_step_BL.unique(dim=0).tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("options", [{}, {"stop_id": 2}, {"top_k": 2, "temperature": 0.7}, {"temperature": 0.0}])
def test_the_cached_path_gives_what_the_plain_one_gives(options):
    # prompts of different lengths, a given token after masks, and a row without masks
    tokens_BL = torch.tensor(
        [[1, 4, 4, 4, 4, 4], [0, 1, 2, 4, 4, 4], [4, 4, 3, 4, 0, 4], [0, 1, 2, 3, 0, 1], [3, 3, 3, 3, 3, 4]]
    )
    results = []
    for cached in (False, True):
        generators = [seeding.generator(3, "test", row) for row in range(5)]
        network = CausalWaves(cached)
        results.append(autoregressive(network, tokens_BL, mask_id=4, generator=generators, **options))
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
