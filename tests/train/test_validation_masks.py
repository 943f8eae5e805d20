"""What validation measures on: the same windows and masks for every run and any number of processes."""

import types

import numpy as np
import pytest
import torch

from toys import Waves
from unmask.config import ModelConfig
from unmask.train import validation
from unmask.train.parallel import World
from unmask.train.validation import Validation

LENGTH = 10


class Network(Waves):
    """A toy in the place of a `Transformer`, which remembers how many tokens were masked in each row."""

    def __init__(self):
        super().__init__(vocab_size=4)
        shape = {"n_layer": 1, "n_head": 1, "n_embd": 2, "intermediate_size": 2}
        self.config = ModelConfig(**shape, vocab_size=4, mask_id=4, context_length=LENGTH)
        self.counts = []

    def __call__(self, tokens_BL, select_BL=None, *, present_BL=None):
        self.counts += (tokens_BL == 4).sum(dim=1).tolist()
        return super().__call__(tokens_BL, select_BL)


class Source:
    """The windows of a text: as many as asked for."""

    name = "valid"

    def __init__(self, windows):
        self._tokens = torch.randint(0, 4, (windows * LENGTH,), generator=torch.Generator().manual_seed(1)).numpy()
        self.split = types.SimpleNamespace(bytes=3 * len(self._tokens), tokens=len(self._tokens))

    def __getitem__(self, key):
        return self._tokens[key].astype(np.uint16)


class OneOf(World):
    """One of several processes; what the others sum up is added by hand."""

    def sum(self, values):
        return values


def measured(windows, *, total, draws=1, rank=0, size=1):
    network = Network()
    chosen = validation.perplexity.spread(total, windows)
    held_out = Validation(Source(total), LENGTH, chosen, draws, bos_id=None)
    return held_out.measure(network, OneOf(rank, size, torch.device("cpu")), bfloat16=False), network


@pytest.mark.parametrize("stride", [1, 2, 13, 55, 89, 144])
def test_masks_are_spread_whatever_share_of_the_windows_is_measured(stride):
    """Strides that are Fibonacci numbers would give every window the same number of masks, were its place in the text
    what fixes them."""
    _, network = measured(20, total=20 * stride)
    counts = torch.bincount(torch.tensor(network.counts), minlength=LENGTH + 1).tolist()
    assert counts == pytest.approx([0] + [2] * LENGTH, abs=2)


@pytest.mark.parametrize("windows", [5, 8, 20, 33])
def test_processes_that_share_the_windows_measure_what_one_does(monkeypatch, windows):
    whole, _ = measured(windows, total=40)
    losses = []
    for rank in range(3):
        monkeypatch.setattr(OneOf, "sum", lambda self, values: losses.append(values) or values)
        measured(windows, total=40, rank=rank, size=3)
    summed = torch.stack(losses)
    assert ((summed != 0).sum(dim=0) == 1).all()  # each window by one of them
    assert summed.sum(dim=0).mean().item() == pytest.approx(whole["loss"], rel=1e-12)
