import math

import pytest
import torch

from toys import Joint, Waves, any_order_case
from unmask import likelihood
from unmask.errors import UnmaskError, UsageError
from unmask.likelihood import Request, Settings, score
from unmask.likelihood.requests import WINDOW


def some_requests(count=14, vocab=4, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def text(length):
        return tuple(torch.randint(vocab, (length,), generator=generator).tolist())

    prompts = [text(length % 5) for length in range(count // 2)]
    return [Request(prompts[i // 2], text(1 + i % 7), question=i // 2, scale=1.0 + i % 3) for i in range(count)]


@pytest.mark.parametrize("estimator", ["auto", "exact", "stratified", "mc", "chain"])
@pytest.mark.parametrize("guidance", [0.0, 0.7])
def test_many_requests_give_what_they_give_one_by_one_whatever_the_batch_size(estimator, guidance):
    requests = some_requests()
    for batch_size in (1, 7, None):
        settings = Settings(estimator=estimator, num_samples=20, guidance=guidance, batch_size=batch_size)
        together = score(Waves(4), requests, settings, mask_id=4)
        for request, estimate in zip(requests, together.estimates, strict=True):
            alone = score(Waves(4), [request], settings, mask_id=4).estimates[0]
            assert estimate.log_likelihood == pytest.approx(alone.log_likelihood, abs=1e-5)
            assert estimate.standard_error == pytest.approx(alone.standard_error, abs=1e-5, nan_ok=True)
            assert (estimate.network_calls, estimate.exact) == (alone.network_calls, alone.exact)


def test_requests_agree_with_the_bound_of_one_sequence():
    request = Request((1, 0, 2), (2, 1, 1, 0))
    found = score(Waves(3), [request], mask_id=3).estimates[0]
    tokens_L = torch.tensor([*request.prompt, *request.continuation])
    bound = likelihood.bound(Waves(3), tokens_L, torch.arange(7) >= 3, mask_id=3, estimator="exact")
    assert found == bound


def test_rows_in_common_go_through_the_network_once():
    # one call for each prompt: with one token to score, the options look alike once it is masked
    waves = Waves(4)
    prompts = [(0, 1), (2, 3), (1, 1)]
    scored = score(waves, [Request(prompt, (token,)) for prompt in prompts for token in range(4)], mask_id=4)
    assert scored.network_calls == waves.rows_seen == 3
    assert [estimate.network_calls for estimate in scored.estimates] == [1] * 12
    # the same request twice
    twice = [Request((0, 1), (2, 3, 1))] * 2
    assert score(Waves(4), twice, mask_id=4).network_calls == 7


def test_the_unconditional_pass_is_shared_by_prompts_of_one_length():
    waves = Waves(4)
    requests = [Request(prompt, (2, 3)) for prompt in [(0, 1), (2, 3), (1, 1), (3, 3)]]
    scored = score(waves, requests, Settings(guidance=0.5), mask_id=4)
    assert scored.network_calls == waves.rows_seen == 3 * 4 + 3  # three sets; one unconditional row for each
    assert [estimate.network_calls for estimate in scored.estimates] == [6] * 4
    for request, estimate in zip(requests, scored.estimates, strict=True):
        alone = score(Waves(4), [request], Settings(guidance=0.5), mask_id=4).estimates[0]
        assert estimate.log_likelihood == pytest.approx(alone.log_likelihood, abs=1e-6)


def test_options_of_one_length_draw_the_same_masks_and_other_prompts_others():
    seen = []

    def spy(tokens_BL, select_BL=None):
        seen.extend((row == 9).int().tolist() for row in tokens_BL)
        return torch.zeros(len(tokens_BL), tokens_BL.shape[1], 9)[select_BL]

    masks = []
    for prompt, first in (((1, 2), 3), ((1, 2), 4), ((2, 1), 3)):
        seen.clear()
        score(spy, [Request(prompt, (first,) * 9)], Settings("stratified", num_samples=12), mask_id=9)
        masks.append(sorted(seen))
    assert masks[0] == masks[1] != masks[2]


def causal_fn(tokens_BL, select_BL=None):
    before_BL = tokens_BL.cumsum(dim=1) - tokens_BL
    logits_BLV = torch.stack([before_BL.double().sin(), before_BL.double().cos()], dim=2)
    return logits_BLV if select_BL is None else logits_BLV[select_BL]


def test_an_autoregressive_network_scores_requests_of_all_lengths_exactly():
    requests = some_requests(vocab=2)
    scored = score(causal_fn, requests, Settings(batch_size=5), mask_id=2, causal=True)
    for request, estimate in zip(requests, scored.estimates, strict=True):
        tokens_1L = torch.tensor([[*request.prompt, *request.continuation]])
        logp_L = causal_fn(tokens_1L).log_softmax(-1).gather(2, tokens_1L[..., None])[0, :, 0]
        assert estimate.log_likelihood == pytest.approx(logp_L[len(request.prompt) :].sum().item(), abs=1e-6)
        assert (estimate.standard_error, estimate.network_calls, estimate.exact) == (0, 1, True)
    assert scored.network_calls <= len(requests)


def test_short_requests_are_not_padded_to_the_length_of_long_ones():
    lengths = [2, 3, 5, 9, 40, 44, 200]
    positions = []

    def counting(tokens_BL, select_BL=None):
        positions.append(tokens_BL.numel())
        return causal_fn(tokens_BL, select_BL)

    requests = [Request((1,) * (length - 1), (0,)) for length in lengths]
    score(counting, requests, Settings(), mask_id=2, causal=True)
    assert sum(positions) <= 1.125 * sum(lengths)
    assert len(positions) < len(lengths)


def test_adaptive_stopping_saves_calls_and_keeps_the_answers():
    # texts of a joint distribution in which some options are far likelier than others
    generator = torch.Generator().manual_seed(3)
    requests = []
    for question in range(30):
        prompt = tuple(torch.randint(2, (2,), generator=generator).tolist())
        for _ in range(3):
            text = tuple(torch.randint(2, (9,), generator=generator).tolist())
            requests.append(Request(prompt, text, question=question, scale=9.0))
    plain = Settings("stratified", num_samples=64)
    everything = score(any_order_case, requests, plain, mask_id=2)
    adaptive = score(any_order_case, requests, Settings("stratified", num_samples=64, adaptive=3.0), mask_id=2)
    assert everything.calls_saved == 0
    assert adaptive.calls_saved > 0.5 * everything.network_calls
    total = sum(estimate.network_calls for estimate in adaptive.estimates)
    assert adaptive.calls_saved == sum(e.network_calls for e in everything.estimates) - total

    def answers(scored):
        values = torch.tensor([e.log_likelihood for e in scored.estimates]).view(30, 3)
        return values.argmax(dim=1)

    assert (answers(adaptive) == answers(everything)).double().mean() > 0.9
    # what one question costs does not depend on the others
    alone = score(any_order_case, requests[:3], Settings("stratified", num_samples=64, adaptive=3.0), mask_id=2)
    assert [e.network_calls for e in alone.estimates] == [e.network_calls for e in adaptive.estimates[:3]]


def test_adaptive_stopping_draws_on_where_options_cannot_be_told_apart():
    twins = [Request((1,), (0, 1, 1, 0, 1, 0, 1, 1, 0), question=0), Request((1,), (0, 1, 1, 0, 1, 0, 1, 1, 0), 0)]
    scored = score(any_order_case, twins, Settings("stratified", num_samples=64, adaptive=2.0), mask_id=2)
    assert [estimate.network_calls for estimate in scored.estimates] == [64, 64]
    assert scored.calls_saved == 0


def test_adaptive_stopping_becomes_exact_within_the_budget():
    joint = Joint(6, 2)
    requests = [Request((1,), (0, 1, 1, 0, 1), question=0), Request((1,), (0, 1, 1, 0, 0), question=0)]
    scored = score(joint, requests, Settings("auto", num_samples=128, adaptive=50.0), mask_id=2)
    truth = score(joint, requests, Settings("exact"), mask_id=2)
    for estimate, exact in zip(scored.estimates, truth.estimates, strict=True):
        assert estimate.exact
        assert estimate.standard_error == 0
        assert estimate.log_likelihood == pytest.approx(exact.log_likelihood, abs=1e-6)


class Cramped(Waves):
    """Has room for a few rows only."""

    room = 5

    def __call__(self, tokens_BL, select_BL=None):
        if len(tokens_BL) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().__call__(tokens_BL, select_BL)


def test_batches_shrink_until_they_fit_and_the_figures_stay():
    requests = some_requests()
    settings = Settings("exact", batch_size=64)
    scored = score(Cramped(4), requests, settings, mask_id=4)
    assert scored.batches_halved > 0
    plain = score(Waves(4), requests, settings, mask_id=4)
    for one, other in zip(scored.estimates, plain.estimates, strict=True):
        assert one.log_likelihood == pytest.approx(other.log_likelihood, abs=1e-5)
    assert scored.network_calls == plain.network_calls


def test_a_sequence_that_never_fits_is_named():
    class NoRoom(Cramped):
        room = 0

    with pytest.raises(UnmaskError, match="not enough memory for a single sequence"):
        score(NoRoom(4), some_requests(2), Settings("exact"), mask_id=4)


def test_other_errors_of_the_network_are_not_taken_for_a_lack_of_memory():
    def broken(tokens_BL, select_BL=None):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        score(broken, some_requests(2), mask_id=4)


def test_more_rows_than_a_window_and_progress():
    requests = [Request((), tuple(int(bit) for bit in f"{number:08b}")) for number in range(2 * WINDOW // 255)]
    seen = []
    scored = score(
        any_order_case,
        requests,
        Settings("exact"),
        mask_id=2,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert len(seen) > 1
    assert seen[-1] == (len(requests), len(requests))
    last = torch.tensor(requests[-1].continuation)
    alone = likelihood.bound(any_order_case, last, torch.ones(8).bool(), mask_id=2, estimator="exact")
    assert scored.estimates[-1].log_likelihood == pytest.approx(alone.log_likelihood, abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"estimator": "exat"}, "did you mean 'exact'"),
        ({"num_samples": 0}, "num_samples 0"),
        ({"guidance": -1.0}, "guidance -1.0"),
        ({"guidance": math.nan}, "guidance nan"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"adaptive": 0.0}, "adaptive 0.0"),
    ],
)
def test_bad_settings_are_named(settings, words):
    with pytest.raises(UsageError, match=words):
        Settings(**settings)


def test_bad_requests_are_named():
    with pytest.raises(UsageError, match="request 1: nothing to score"):
        score(Waves(4), [Request((1,), (2,)), Request((1,), ())], mask_id=4)
    with pytest.raises(UsageError, match="scored token is the mask token"):
        score(Waves(4), [Request((1,), (4,))], mask_id=4)
    for settings in (Settings(guidance=0.5), Settings("mc"), Settings("stratified")):
        with pytest.raises(UsageError, match="autoregressive"):
            score(causal_fn, [Request((1,), (1,))], settings, mask_id=2, causal=True)
