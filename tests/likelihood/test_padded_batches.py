"""Texts of different lengths share a batch of a masked network, which computes nothing of the padding."""

import dataclasses

import pytest
import torch

from small_benchmarks import language_model
from tiny_models import language_model as sharpened_model
from unmask.data import tokenizer as tokenizers
from unmask.likelihood import Request, Settings
from unmask.logits_fn import PADDING
from unmask.network_logits import MaskedLogits


def requests_of_many_lengths(seed=0):
    generator = torch.Generator().manual_seed(seed)

    def text(length):
        return tuple(torch.randint(256, (length,), generator=generator).tolist())

    return [Request(text(20 + 3 * question), text(1 + option), question) for question in range(6) for option in (0, 2)]


@pytest.fixture(scope="module")
def mdm():
    return sharpened_model(tokenizers.byte_level(), causal=False, n_layer=2, sharpened=True)


@pytest.mark.parametrize("estimator", ["auto", "stratified", "mc", "chain"])
@pytest.mark.parametrize("guidance", [0.0, 0.8])
def test_requests_of_many_lengths_give_what_they_give_one_by_one(mdm, estimator, guidance):
    requests = requests_of_many_lengths()
    batches = []
    plain = MaskedLogits.__call__
    settings = Settings(estimator, 7, guidance)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MaskedLogits, "__call__", lambda self, *a: batches.append(a[0]) or plain(self, *a))
        together = mdm.score_tokens(requests, settings)
    assert any((tokens_BL == PADDING).any() for tokens_BL in batches)
    for request, estimate in zip(requests, together.estimates, strict=True):
        alone = mdm.score_tokens([request], settings).estimates[0]
        assert estimate.log_likelihood == pytest.approx(alone.log_likelihood, rel=1e-6, abs=1e-5)
        assert estimate.standard_error == pytest.approx(alone.standard_error, rel=1e-6, abs=1e-5)
        assert (estimate.network_calls, estimate.exact) == (alone.network_calls, alone.exact)


def test_padding_is_not_computed(mdm, monkeypatch):
    computed = []
    recompute, forward = mdm.model.recompute, mdm.model.forward
    monkeypatch.setattr(mdm.model, "recompute", lambda *a, **k: computed.append(int(a[1].sum())) or recompute(*a, **k))
    monkeypatch.setattr(mdm.model, "forward", lambda *a, **k: computed.append(a[0].numel()) or forward(*a, **k))
    requests = [Request((5,) * length, (7,)) for length in range(20, 50)]
    assert mdm.score_tokens(requests, Settings()).network_calls == 30
    assert sum(computed) <= sum(range(21, 51)) / 0.95
    assert len(computed) <= 3


@pytest.mark.parametrize("shifted", [False, True])
def test_logits_are_those_of_a_network_that_computes_the_padding_too(shifted):
    generator = torch.Generator().manual_seed(1)
    tokens_BL = torch.randint(256, (3, 12), generator=generator)
    for first, row in zip((9, 5, 12), tokens_BL, strict=True):
        row[first:] = PADDING
    select_BL = (torch.rand(tokens_BL.shape, generator=generator) < 0.4) & (tokens_BL != PADDING)
    model = language_model(causal=False).model
    model.config = dataclasses.replace(model.config, shifted=shifted)
    torch.testing.assert_close(
        MaskedLogits(model, skip_padding=True)(tokens_BL, select_BL),
        MaskedLogits(model)(tokens_BL, select_BL),
        atol=1e-5,
        rtol=1e-5,
    )
