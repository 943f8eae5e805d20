"""Validation: the bound or the exact loss, on the same windows and masks for everybody."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from unmask import objectives, seeding
from unmask.config import RunConfig
from unmask.data.source import Corpus
from unmask.errors import UnmaskError, UsageError
from unmask.evals import perplexity
from unmask.model import Transformer
from unmask.records import Record
from unmask.train import starting_point
from unmask.train.parallel import World
from unmask.train.validation import Validation

Tiny = Callable[..., RunConfig]
ALONE = World(0, 1, torch.device("cpu"))


def network(run: RunConfig, corpus: Corpus, seed: int = 0) -> Transformer:
    model = Transformer(starting_point.find(run, corpus, starting_point.source(run)).config)
    model.init_weights(seeding.generator(seed, "init"))
    with torch.no_grad():  # less uniform than a new network
        model.head_weight.mul_(20)
    return model


def measured(run: RunConfig, corpus: Corpus, model: Transformer, world: World = ALONE) -> Record:
    validation = Validation.open(run, corpus)
    assert validation is not None
    return validation.measure(model, world, bfloat16=False)


def test_an_arms_loss_is_the_mean_of_its_next_token_losses(tiny: Tiny, corpus: Path) -> None:
    run, opened = tiny(objective="arm", validation_windows=10_000), Corpus.open(corpus)
    model = network(run, opened)
    source = opened.split("valid")
    windows = len(source) // 16
    tokens_WL = torch.from_numpy(source[: windows * 16].astype("int64")).view(windows, 16)
    inputs_WL = torch.cat([torch.full((windows, 1), opened.tokenizer.bos_id), tokens_WL[:, :-1]], dim=1)
    with torch.no_grad():
        nll = torch.nn.functional.cross_entropy(model(inputs_WL).flatten(0, 1), tokens_WL.flatten()).item()
    found = measured(run, opened, model)
    assert found["loss"] == pytest.approx(nll, rel=1e-5)
    assert (found["bound"], found["windows"], found["split"]) == (False, windows, "valid")
    bytes_per_token = source.split.bytes / source.split.tokens
    assert found["bits_per_byte"] == pytest.approx(nll / math.log(2) / bytes_per_token, rel=1e-5)


def test_many_draws_approach_the_bound_of_the_objective(tiny: Tiny, corpus: Path) -> None:
    run, opened = tiny(validation_windows=4, validation_draws=64), Corpus.open(corpus)
    model = network(run, opened)
    validation = Validation.open(run, opened)
    assert validation is not None
    rows = [torch.from_numpy(validation.source[w * 16 : (w + 1) * 16].astype("int64")) for w in validation.windows]
    tokens_BL = torch.stack(rows).repeat(1000, 1)
    mask_id = opened.tokenizer.mask_id
    corrupted = objectives.any_order(tokens_BL, seeding.generator(1, "corruption"), mask_id=mask_id)
    with torch.no_grad():
        loss = model.loss(corrupted.inputs_BL, corrupted.targets_BL, corrupted.weights_BL).item() / tokens_BL.numel()
    assert measured(run, opened, model)["loss"] == pytest.approx(loss, rel=0.02)


def test_masked_language_models_and_diffusion_are_measured_alike(tiny: Tiny, corpus: Path) -> None:
    opened = Corpus.open(corpus)
    runs = [tiny(objective=name, seed=seed) for seed, name in enumerate(("mdm", "mlm", "span", "any_order"))]
    model = network(runs[0], opened)
    found = [measured(run, opened, model) for run in runs]
    assert found[0]["bound"] is True
    assert all(other == found[0] for other in found)


class Noted(World):
    """One of several processes: it notes its share of a sum instead of adding the others'."""

    def sum(self, values: Tensor) -> Tensor:
        return values


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("objective", ["mdm", "arm"])
def test_windows_are_dealt_so_that_every_process_calls_as_often_and_each_counts_once(
    size: int, objective: str, tiny: Tiny, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, opened = tiny(objective=objective, validation_windows=21), Corpus.open(corpus)
    model = network(run, opened)
    calls: list[int] = []
    shares: list[Tensor] = []
    summarise = perplexity.summarise

    def noting(losses_W: Tensor, **arguments: object) -> object:
        shares.append(losses_W)
        return summarise(losses_W, **arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(perplexity, "summarise", noting)
    handle = model.register_forward_hook(lambda *_: calls.append(1))
    for rank in range(size):
        measured(run, opened, model, Noted(rank, size, torch.device("cpu")))
    per_process = len(calls) // size
    assert len(calls) == per_process * size
    handle.remove()
    calls.clear()
    measured(run, opened, model)
    assert torch.equal(torch.stack(shares[:size]).sum(dim=0), shares[size])  # to the last bit
    assert (torch.stack(shares[:size]) > 0).sum(dim=0).tolist() == [1] * 21


def test_there_may_be_no_validation(tiny: Tiny, corpus: Path) -> None:
    assert Validation.open(tiny(validation_windows=0), Corpus.open(corpus)) is None


def test_a_split_that_is_not_there_is_refused(tiny: Tiny, corpus: Path) -> None:
    with pytest.raises(
        UsageError, match=r"did you mean 'valid'\?.*: hold text out with .*, or give --validation-windows 0"
    ):
        Validation.open(tiny(validation_split="vald"), Corpus.open(corpus))
    with pytest.raises(UnmaskError, match=r"split 'valid' has \d+ tokens, less than one window of 9999"):
        Validation.open(dataclasses.replace(tiny(), length=9999), Corpus.open(corpus))
