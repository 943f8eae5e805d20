"""Models small enough to enumerate, as LogitsFns.

Shapes: B rows, L positions, V vocabulary.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor


def at(logits_BLV: Tensor, select_BL: Tensor | None) -> Tensor:
    return logits_BLV if select_BL is None else logits_BLV[select_BL]


class Joint:
    """The exact conditionals of a random joint distribution over all texts of `length` tokens out of `vocab_size`.

    The mask token is `vocab_size`; any other id that is out of the vocabulary is not expected.
    """

    def __init__(self, length: int, vocab_size: int, seed: int = 0, sharpness: float = 1.5) -> None:
        self.mask_id = vocab_size
        self.vocab_size = vocab_size
        self.texts_NL = torch.tensor(list(itertools.product(range(vocab_size), repeat=length)))
        noise = torch.randn(len(self.texts_NL), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        self.probs_N = (sharpness * noise).softmax(0)
        self.rows_seen = 0

    def __call__(self, tokens_BL: Tensor, select_BL: Tensor | None = None) -> Tensor:
        self.rows_seen += len(tokens_BL)
        visible_BL = tokens_BL != self.mask_id
        agrees_BN = ((tokens_BL[:, None] == self.texts_NL) | ~visible_BL[:, None]).all(dim=2)
        onehot_NLV = torch.nn.functional.one_hot(self.texts_NL, self.vocab_size).double()
        mass_BLV = torch.einsum("bn,nlv->blv", agrees_BN * self.probs_N, onehot_NLV)
        return at(mass_BLV.log(), select_BL)

    def index(self, tokens_BL: Tensor) -> Tensor:
        """The number of each text in `probs_N`."""
        powers = self.vocab_size ** torch.arange(tokens_BL.shape[1] - 1, -1, -1)
        return (tokens_BL * powers).sum(dim=1)


class Waves:
    """Conditionals that are those of no joint distribution and depend on every token; for any length.

    `outputs` may exceed `vocab_size`: the mask token, `vocab_size`, then has an output too, the likeliest one.
    """

    def __init__(self, vocab_size: int, outputs: int | None = None) -> None:
        self.mask_id = vocab_size
        self.vocab_size = vocab_size
        self.outputs = outputs or vocab_size
        self.rows_seen = 0

    def __call__(self, tokens_BL: Tensor, select_BL: Tensor | None = None) -> Tensor:
        self.rows_seen += len(tokens_BL)
        positions_L = torch.arange(tokens_BL.shape[1])
        sums_B = ((tokens_BL + 1) * (positions_L + 2) ** 2).sum(dim=1)
        phase_BLV = sums_B[:, None, None] + 7 * positions_L[:, None] + 13 * torch.arange(self.outputs)
        logits_BLV = 2 * (phase_BLV * phase_BLV).double().sin()
        logits_BLV[..., self.vocab_size :] = 50.0
        return at(logits_BLV, select_BL)


def any_order_case(tokens_BL: Tensor, select_BL: Tensor | None = None) -> Tensor:
    """p(x_i = 1 | visible) = sigmoid(0.3 (i + 1) + 0.5 (sum of visible, +1 or -1) + 0.2 (number masked)); mask 2."""
    masked_BL = tokens_BL == 2
    signs_B1 = (2.0 * tokens_BL.double() - 1).masked_fill(masked_BL, 0).sum(dim=1, keepdim=True)
    field_BL = 0.3 * torch.arange(1, tokens_BL.shape[1] + 1) + 0.5 * signs_B1 + 0.2 * masked_BL.sum(dim=1, keepdim=True)
    return at(torch.stack([torch.zeros_like(field_BL), field_BL], dim=2), select_BL)
