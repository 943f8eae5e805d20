"""The parts of the network's blocks."""

import pytest
import torch
from torch.nn import functional as F

from unmask import layers


@pytest.mark.parametrize("rows", [0, 1, 2, 7, layers.THIN_ROWS, layers.THIN_ROWS + 1])
def test_a_large_heads_logits_are_the_plain_product_for_few_rows_and_for_many(rows):
    generator = torch.Generator().manual_seed(0)
    hidden_SD = torch.randn(rows, 64, generator=generator)
    head_VD = torch.randn(layers.LARGE_MATRIX // 64, 64, generator=generator)
    with torch.no_grad():
        logits_SV = layers.head_logits(hidden_SD, head_VD)
    assert logits_SV.shape == (rows, len(head_VD))
    assert logits_SV.is_contiguous()
    torch.testing.assert_close(logits_SV.double(), F.linear(hidden_SD.double(), head_VD.double()), rtol=1e-5, atol=1e-4)
