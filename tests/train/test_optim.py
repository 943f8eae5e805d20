"""The learning rate's schedule, AdamW's groups, the gradient's norm."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from unmask.config import RunConfig
from unmask.train import optim


def rates(steps: int, **fields: Any) -> list[float]:
    run = RunConfig(learning_rate=1.0, **fields)
    return [optim.learning_rate(run, step, steps) for step in range(steps)]


def test_a_linear_warm_up_then_a_cosine_to_a_tenth() -> None:
    found = rates(1000, warmup_steps=100)
    assert found[0] == pytest.approx(0.01)
    assert found[49] == pytest.approx(0.5)
    assert found[99] == found[100] == 1.0
    assert found[550] == pytest.approx(0.55)  # half-way down: the mean of 1 and 0.1
    assert found[-1] == pytest.approx(0.1, abs=1e-4)
    assert found[325] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2)


def test_the_papers_warm_up_is_a_hundred_steps_or_one_percent() -> None:
    assert RunConfig().warmup(5000) == 100
    assert RunConfig().warmup(50_000) == 500
    assert RunConfig().warmup(300) == 30  # but no more than a tenth of a short run


@given(st.integers(1, 400), st.floats(0, 1), st.none() | st.integers(0, 50))
def test_the_rate_rises_then_falls_and_stays_within_its_bounds(steps: int, last: float, warmup: int | None) -> None:
    warmup = None if warmup is None else min(warmup, steps - 1)
    found = rates(steps, final_learning_rate=last, warmup_steps=warmup)
    top = RunConfig(warmup_steps=warmup).warmup(steps)
    assert all(0 < rate <= 1 or last == 0 for rate in found)
    assert found[:top] == sorted(found[:top])
    assert found[top:] == sorted(found[top:], reverse=True)
    assert found[top] == pytest.approx(1.0)
    assert min(found[top:]) >= last - 1e-12


def test_matrices_decay_and_vectors_do_not() -> None:
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.RMSNorm(4))
    optimizer = optim.build_optimizer(model, RunConfig(weight_decay=0.3, beta1=0.8, beta2=0.7))
    decay = {parameter: group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]}
    assert [decay[parameter] for parameter in model.parameters()] == [0.3, 0.3, 0.0, 0.0]
    assert all(group["betas"] == (0.8, 0.7) for group in optimizer.param_groups)
    optim.set_learning_rate(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5]


@pytest.mark.parametrize(("clip", "left"), [(1.0, 1.0), (0.0, 5.0), (10.0, 5.0)])
def test_the_norm_is_of_the_whole_gradient_before_it_is_clipped(clip: float, left: float) -> None:
    model = nn.Linear(1, 1)
    model.weight.grad, model.bias.grad = torch.tensor([[3.0]]), torch.tensor([4.0])
    assert optim.gradient_norm(model, clip) == pytest.approx(5.0)
    after = torch.cat([model.weight.grad.flatten(), model.bias.grad]).norm().item()
    assert after == pytest.approx(left, rel=1e-5)


def test_a_gradient_that_is_not_finite_has_no_finite_norm() -> None:
    model = nn.Linear(1, 1)
    model.weight.grad, model.bias.grad = torch.tensor([[math.nan]]), torch.tensor([4.0])
    assert not math.isfinite(optim.gradient_norm(model, 1.0))
