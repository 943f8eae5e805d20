import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unmask.samplers import truncation
from unmask.samplers.truncation import keep_likeliest


def by_sorting(weights_CV, top_k, top_p):
    """The plain way: sort the vocabulary, cut, put back."""
    sorted_CV, order_CV = weights_CV.double().sort(dim=1, descending=True, stable=True)
    if top_k is not None:
        sorted_CV[:, top_k:] = 0
    before_CV = sorted_CV.cumsum(dim=1) - sorted_CV
    keep_CV = (before_CV < top_p * sorted_CV.sum(dim=1, keepdim=True)) & (sorted_CV > 0)
    return torch.zeros_like(keep_CV).scatter(1, order_CV, keep_CV)


@settings(max_examples=200, deadline=None)
@given(
    vocabulary=st.integers(1, 60),
    rows=st.integers(1, 4),
    seed=st.integers(0, 2**31),
    levels=st.sampled_from([2, 5, 1000]),
    top_k=st.none() | st.integers(1, 70),
    top_p=st.sampled_from([0.05, 0.3, 0.777, 0.95, 1.0]),
    look=st.sampled_from([1, 3, 256]),
)
def test_it_keeps_what_sorting_keeps_of_equal_tokens_the_first(vocabulary, rows, seed, levels, top_k, top_p, look):
    # whole numbers, so that sums are exact and equal weights common
    generator = torch.Generator().manual_seed(seed)
    weights_CV = torch.randint(1, levels, (rows, vocabulary), generator=generator).float()
    before, truncation.FIRST_LOOK = truncation.FIRST_LOOK, look
    try:
        kept_CV = keep_likeliest(weights_CV, top_k, top_p, 0.0)
        alone_CV = torch.cat([keep_likeliest(row_1V, top_k, top_p, 0.0) for row_1V in weights_CV.split(1)])
    finally:
        truncation.FIRST_LOOK = before
    assert torch.equal(kept_CV > 0, by_sorting(weights_CV, top_k, top_p))
    assert torch.equal(kept_CV[kept_CV > 0], weights_CV[kept_CV > 0])
    assert torch.equal(kept_CV, alone_CV)


@pytest.mark.parametrize("top_p", [0.5, 0.999])
def test_a_wide_nucleus_takes_further_looks(top_p):
    weights_CV = torch.rand(3, 5000, generator=torch.Generator().manual_seed(0))
    weights_CV[1, 7] = 1e9
    kept_CV = keep_likeliest(weights_CV, None, top_p, 0.0)
    assert torch.equal(kept_CV > 0, by_sorting(weights_CV, None, top_p))
    assert (kept_CV > 0).sum(dim=1).tolist()[1] <= 2
