"""Rows that begin alike: the same logits as without sharing, and less computed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from small_benchmarks import language_model
from unmask.likelihood import Request, Settings
from unmask.network_logits import CausalLogits
from unmask.shared_prefixes import PrefixTree


@pytest.fixture(scope="module")
def arm():
    return language_model(causal=True)


@st.composite
def batches(draw):
    """Rows over two tokens, so that many begin alike, and some selected positions."""
    rows, length = draw(st.integers(1, 6)), draw(st.integers(1, 9))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    tokens_BL = torch.randint(2, (rows, length), generator=generator)
    if draw(st.booleans()):
        tokens_BL = tokens_BL[tokens_BL.flip(1).mul(2 ** torch.arange(length)).sum(dim=1).argsort()]
    select_BL = torch.rand(rows, length, generator=generator) < draw(st.sampled_from([0.1, 0.4, 1.0]))
    select_BL[0, -1] = True
    return tokens_BL, select_BL


@settings(max_examples=60, deadline=None)
@given(batch=batches(), bos=st.booleans())
def test_shared_prefixes_give_the_logits_of_each_row_alone(arm, batch, bos):
    tokens_BL, select_BL = batch
    bos_id = arm.tokenizer.bos_id if bos else None
    shared = CausalLogits(arm.model, bos_id, share_prefixes=True)(tokens_BL, select_BL)
    plain = CausalLogits(arm.model, bos_id)
    alone = [plain(tokens_BL[row : row + 1])[0, select_BL[row]] for row in range(len(tokens_BL))]
    torch.testing.assert_close(shared, torch.cat(alone), atol=1e-5, rtol=1e-5)


@given(batch=batches())
def test_a_position_is_computed_by_one_row_that_begins_alike_and_by_all_that_need_it_and_have_no_such_row(batch):
    tokens_BL, select_BL = batch
    tree = PrefixTree.of(tokens_BL, select_BL)
    for row, position in (select_BL.flip(1).cumsum(1).flip(1) > 0).nonzero().tolist():
        owner = int(tree.owner_BL[row, position])
        assert tree.compute_BL[owner, position]
        assert torch.equal(tokens_BL[owner, : position + 1], tokens_BL[row, : position + 1])


def test_options_of_a_question_share_their_prompt_and_score_as_one_by_one(arm, monkeypatch):
    prompts = [tuple(range(20 + question, 60 + question)) for question in range(3)]
    requests = [
        Request(prompt, tuple(range(100, 100 + length)), question)
        for question, prompt in enumerate(prompts)
        for length in (1, 3, 9)
    ]
    computed = []
    recompute = arm.model.recompute
    monkeypatch.setattr(arm.model, "recompute", lambda *a: computed.append(int(a[1].sum())) or recompute(*a))
    scored = arm.score_tokens(requests, Settings(batch_size=9)).estimates
    behind = 2 + 8  # the last token of a row is not read, and the longest option begins with the shorter ones
    assert sum(computed) <= 3 * (1 + 40 + behind)
    for request, estimate in zip(requests, scored, strict=True):
        alone = arm.score_tokens([request], Settings()).estimates[0]
        assert estimate.log_likelihood == pytest.approx(alone.log_likelihood, abs=1e-4)
        assert estimate.network_calls == alone.network_calls == 1
