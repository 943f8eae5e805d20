"""Cached networks against the plain ones."""

import math

import pytest
import torch

from unmask.cached_logits import ApproximateLogits, BlockCausalLogits
from unmask.config import ModelConfig
from unmask.errors import UsageError
from unmask.guidance import classifier_free
from unmask.logits_fn import PADDING, at_rows
from unmask.model import Transformer
from unmask.network_logits import MaskedLogits
from unmask.samplers import block, confidence, first_hitting

V = 40
MASK = V


def network(**fields):
    shape = {"n_layer": 3, "n_head": 4, "n_kv_head": 2, "n_embd": 32, "intermediate_size": 48, "context_length": 32}
    model = Transformer(ModelConfig(**{**shape, "vocab_size": V, "mask_id": MASK, **fields}))
    model.init_weights(torch.Generator().manual_seed(1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3 if parameter.ndim > 1 else 1)
    return model.eval()


def canvas(rows=3, length=22, prompts=(3, 7, 12)):
    tokens_BL = torch.randint(V, (rows, length), generator=torch.Generator().manual_seed(0))
    for row, prompt in enumerate(prompts):
        tokens_BL[row, prompt:] = MASK
    return tokens_BL


def generators(rows):
    return [torch.Generator().manual_seed(row) for row in range(rows)]


class Counting:
    """A `LogitsFn` that notes what it is asked, beside another that is asked the same, and their largest difference."""

    def __init__(self, cached, plain):
        self.cached, self.plain, self.largest, self.calls = cached, plain, 0.0, 0

    @property
    def block_length(self):
        return self.plain.block_length

    def __call__(self, tokens_BL, select_BL=None):
        return self._both(self.cached, tokens_BL, select_BL)

    def _both(self, cached, tokens_BL, select_BL):
        found, expected = cached(tokens_BL, select_BL), self.plain(tokens_BL, select_BL)
        self.largest = max(self.largest, (found - expected).abs().max().item())
        self.calls += 1
        return found

    def at_rows(self, rows_R):
        outer, cached = self, at_rows(self.cached, rows_R)

        class View:
            block_length = outer.block_length

            def __call__(self, tokens_BL, select_BL=None):
                return outer._both(cached, tokens_BL, select_BL)

            def at_rows(self, rows_Q):
                return outer.at_rows(rows_R[rows_Q])

        return View()


@pytest.mark.parametrize("inner", ["confidence", "first_hitting", "threshold", "autoregressive"])
@pytest.mark.parametrize("guidance", [0.0, 0.7])
def test_the_cache_of_a_block_causal_network_is_exact(inner, guidance):
    model = network(block_length=4)
    tokens_BL = canvas()
    both = Counting(BlockCausalLogits.of(model, 3, 22), MaskedLogits(model))
    options = {"mask_id": MASK, "inner": inner, "temperature": 1.0, "generator": generators(3), "block_length": 4}
    guided = classifier_free(both, tokens_BL != MASK, guidance, MASK)
    sampled = block(guided, tokens_BL, **options)
    assert both.largest < 1e-4
    assert both.calls > 10
    report = both.cached.report()
    assert report.computed_share < 0.5
    assert report.drift == 0
    options["generator"] = generators(3)
    guided = classifier_free(MaskedLogits(model), tokens_BL != MASK, guidance, MASK)
    plain = block(guided, tokens_BL, **options)
    assert torch.equal(plain.tokens_BL, sampled.tokens_BL)


def test_the_exact_cache_stands_any_change_of_the_tokens():
    model = network(block_length=4)
    cached, plain = BlockCausalLogits.of(model, 2, 20), MaskedLogits(model)
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        length = int(torch.randint(8, 21, (), generator=generator))
        tokens_BL = torch.randint(V + 1, (2, length), generator=generator)
        if torch.rand((), generator=generator) < 0.5:  # the same beginning as before
            tokens_BL[:, :6] = 5
        if torch.rand((), generator=generator) < 0.3:
            tokens_BL[1, length - 3 :] = PADDING
        select_BL = (torch.rand(2, length, generator=generator) < 0.3) & (tokens_BL != PADDING)
        select_BL[:, 1] = True
        torch.testing.assert_close(cached(tokens_BL, select_BL), plain(tokens_BL, select_BL), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(cached(tokens_BL.clamp(min=0)), plain(tokens_BL.clamp(min=0)), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("strategy", ["prefix", "block"])
@pytest.mark.parametrize("fields", [{}, {"shifted": True}, {"qk_norm": True, "head_dim": 12}])
def test_refreshed_at_every_call_the_approximate_cache_is_exact(strategy, fields):
    model = network(**fields)
    tokens_BL = canvas()
    tokens_BL[0, 18:] = PADDING
    cached = ApproximateLogits.of(model, 3, 22, strategy=strategy, refresh=1)
    both = Counting(cached, MaskedLogits(model))
    confidence(both, tokens_BL, mask_id=MASK, steps=6, temperature=1.0, generator=generators(3))
    assert both.largest < 1e-4
    report = cached.report()
    assert report.computed_share > 0.9
    assert report.refreshes > 0
    assert report.drift > 0  # what it would have been off by


@pytest.mark.parametrize("strategy", ["prefix", "block"])
def test_the_approximate_cache_saves_work_and_tells_how_far_it_went(strategy):
    model = network()
    tokens_BL = canvas()
    shares, drifts = [], []
    for refresh in (2, 4, 8):
        cached = ApproximateLogits.of(model, 3, 22, strategy=strategy, refresh=refresh)
        both = Counting(cached, MaskedLogits(model))
        options = {"mask_id": MASK, "inner": "autoregressive", "block_length": 5, "temperature": 1.0}
        sampled = block(both, tokens_BL, generator=generators(3), **options)
        assert (sampled.tokens_BL < V).all()
        assert both.largest > 0.01
        report = cached.report()
        shares.append(report.computed_share)
        drifts.append(report.drift)
        assert 0 < report.drift <= report.largest_drift
    assert shares[0] > shares[1] > shares[2]
    assert shares[2] < 0.75
    assert drifts[0] < drifts[2]


def test_the_drift_meter_measures_the_divergence_of_the_cached_logits():
    model = network()
    plain = MaskedLogits(model)
    cached = ApproximateLogits.of(model, 1, 12, strategy="block", refresh=2)
    tokens_1L = canvas(1, 12, (4,))
    select_1L = tokens_1L == MASK
    cached(tokens_1L, select_1L)
    tokens_1L[0, 11] = 3
    select_1L = tokens_1L == MASK
    stale = cached(tokens_1L, select_1L)  # the prompt's keys and values are from before
    tokens_1L[0, 10] = 7
    now_1L = tokens_1L == MASK
    exact = cached(tokens_1L, now_1L)
    torch.testing.assert_close(exact, plain(tokens_1L, now_1L), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(stale, plain(tokens_1L.clone().index_fill(1, torch.tensor([10]), MASK), select_1L))

    # by hand: the same network, whose prompt was computed once and never again
    again = ApproximateLogits.of(model, 1, 12, strategy="block", refresh=99)
    steps = canvas(1, 12, (4,))
    again(steps, steps == MASK)
    steps[0, 11] = 3
    again(steps, steps == MASK)
    steps[0, 10] = 7
    cached_logp, exact_logp = again(steps, now_1L).log_softmax(1), exact.log_softmax(1)
    divergence = (exact_logp.exp() * (exact_logp - cached_logp)).sum(1).mean().item()
    assert cached.report().drift == pytest.approx(divergence, rel=1e-3)
    assert again.report().drift is None


def test_a_drift_limit_sets_the_interval_of_each_row_by_itself():
    model = network()
    tokens_BL = canvas(2, 30, (3, 3))
    strict = ApproximateLogits.of(model, 2, 30, refresh=8, drift_limit=1e-9)
    first_hitting(strict, tokens_BL, mask_id=MASK, generator=generators(2))
    assert strict.known.interval_C.tolist() == [1, 1]
    lax = ApproximateLogits.of(model, 2, 30, refresh=2, drift_limit=1e9)
    first_hitting(lax, tokens_BL, mask_id=MASK, generator=generators(2))
    assert (lax.known.interval_C > 2).all()
    assert strict.report().computed_share > lax.report().computed_share

    limit = {"refresh": 4, "drift_limit": 0.02}
    together = ApproximateLogits.of(model, 2, 30, **limit)
    both = confidence(together, tokens_BL, mask_id=MASK, temperature=1.0, generator=generators(2))
    for row in range(2):
        alone = ApproximateLogits.of(model, 1, 30, **limit)
        options = {"mask_id": MASK, "temperature": 1.0, "generator": [generators(2)[row]]}
        one = confidence(alone, tokens_BL[row : row + 1], **options)
        assert torch.equal(one.tokens_BL[0], both.tokens_BL[row])
        assert alone.known.interval_C[0] == together.known.interval_C[row]


def test_the_guided_pass_has_a_cache_of_its_own():
    model = network()
    tokens_BL = canvas()
    cached = ApproximateLogits.of(model, 3, 22, refresh=1)
    both = Counting(cached, MaskedLogits(model))
    guided = classifier_free(both, tokens_BL != MASK, 0.5, MASK)
    confidence(guided, tokens_BL, mask_id=MASK, steps=5, generator=generators(3))
    assert both.largest < 1e-4
    assert cached.known.cache.rows == 6


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"strategy": "prefx"}, "did you mean 'prefix'"),
        ({"refresh": 0}, "refresh 0"),
        ({"drift_limit": 0.0}, "drift_limit 0.0"),
        ({"drift_limit": math.nan}, "drift_limit nan"),
    ],
)
def test_bad_arguments_are_named(options, words):
    with pytest.raises(UsageError, match=words):
        ApproximateLogits.of(network(), 1, 8, **options)


def test_more_positions_than_the_cache_has_are_refused():
    cached = ApproximateLogits.of(network(), 1, 8)
    with pytest.raises(UsageError, match="9 positions: the cache was made for 8"):
        cached(torch.zeros(1, 9, dtype=torch.int64), torch.ones(1, 9, dtype=torch.bool))
