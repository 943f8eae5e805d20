"""What stays the same over widths and depths, by theory and in a network that is trained for some steps."""

from __future__ import annotations

import math

import pytest
import torch

from unmask.config import ModelConfig, RunConfig
from unmask.errors import UsageError
from unmask.model import Transformer
from unmask.parametrization import STANDARD, Parametrization
from unmask.train import optim

RATE = 3e-3
VOCABULARY = 8


def config(width: int = 32, depth: int = 2, **fields) -> ModelConfig:
    heads = max(1, width // 32)
    return ModelConfig(depth, heads, width, 4 * width, vocab_size=VOCABULARY, context_length=16, **fields)


def completep(shape: ModelConfig) -> Parametrization:
    return Parametrization.of(RunConfig(parametrization="completep", base_size="33K"), shape)


def drawn(shape: ModelConfig, parametrization: Parametrization) -> Transformer:
    model = Transformer(shape)
    model.init_weights(torch.Generator().manual_seed(0), parametrization)
    return model


def trained(shape: ModelConfig, parametrization: Parametrization, steps: int = 10) -> tuple[Transformer, float]:
    """A network that has learned for some steps to say which token follows, and how far its logits have moved."""
    model = drawn(shape, parametrization)
    optimizer = optim.build_optimizer(model, RunConfig(learning_rate=RATE), parametrization)
    optim.set_learning_rate(optimizer, RATE)
    tokens_BL = torch.randint(0, VOCABULARY, (8, 16), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before_BLV = model(tokens_BL)
    for _ in range(steps):
        weights_BL = torch.full(tokens_BL.shape, 1 / tokens_BL.numel())
        model.loss(tokens_BL, (tokens_BL + 1) % VOCABULARY, weights_BL).backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        return model, (model(tokens_BL) - before_BLV).square().mean().sqrt().item()


def slope(sizes: list[int], values: list[float]) -> float:
    """The exponent of the line through the first and the last value."""
    return math.log(values[-1] / values[0]) / math.log(sizes[-1] / sizes[0])


def test_at_the_width_and_depth_of_the_base_it_is_the_standard_one_to_the_last_bit():
    shape = config(qkv_bias=True, qk_norm=True)
    assert completep(shape) == STANDARD
    ours, _ = trained(shape, completep(shape), steps=3)
    standard, _ = trained(shape, STANDARD, steps=3)
    for name, parameter in ours.state_dict().items():
        assert torch.equal(parameter, standard.state_dict()[name]), name


def test_the_standard_one_has_the_groups_that_it_always_had():
    optimizer = optim.build_optimizer(drawn(config(), STANDARD), RunConfig(weight_decay=0.3))
    assert [(group["weight_decay"], group["eps"]) for group in optimizer.param_groups] == [(0.3, 1e-8), (0.0, 1e-8)]
    assert all(optim.RATE_SCALE not in group for group in optimizer.param_groups)


def test_the_movement_of_the_logits_stays_put_over_widths_and_without_it_grows():
    widths = [32, 64, 128, 256]
    ours = [trained(config(width), completep(config(width)))[1] for width in widths]
    standard = [trained(config(width), STANDARD)[1] for width in widths]
    assert ours[0] == standard[0]
    assert abs(slope(widths, ours)) < 0.1
    assert slope(widths, standard) > 0.25


def test_the_movement_of_the_logits_stays_put_over_depths():
    depths = [2, 4, 8, 16]
    ours = [trained(config(depth=depth), completep(config(depth=depth)))[1] for depth in depths]
    assert abs(slope(depths, ours)) < 0.1
    # and over both at once
    both = trained(config(width=128, depth=8), completep(config(width=128, depth=8)))[1]
    assert both == pytest.approx(ours[0], rel=0.25)


def test_activations_stay_put_over_widths():
    def sizes_of(shape: ModelConfig) -> tuple[float, float]:
        """Of the embedding and of the last block's states, after some steps."""
        model, _ = trained(shape, completep(shape))
        seen: list[float] = []
        for module in (model.embedding, model.blocks[-1]):
            module.register_forward_hook(lambda _, __, out: seen.append(out.square().mean().sqrt().item()))
        with torch.no_grad():
            model(torch.arange(VOCABULARY)[None])
        return seen[0], seen[1]

    base = sizes_of(config())
    for shape in (config(width=128), config(width=256)):
        assert sizes_of(shape) == pytest.approx(base, rel=0.35), (shape.n_embd, shape.n_layer)


def test_the_factors_are_those_of_the_table_with_the_multipliers_folded_in():
    scheme = completep(config(width=128, depth=8))
    assert (scheme.width, scheme.depth) == (4.0, 4.0)
    matrices = {
        "embedding.weight": (2.0, 1.0, 1.0, 1 / 4),
        "blocks.0.attention.qkv.weight": (1.0, 1 / 4, 4.0, 1 / 16),
        "blocks.1.mlp.gate_up.weight": (1.0, 1 / 4, 4.0, 1 / 16),
        "blocks.1.attention.out.weight": (1.0, 1 / 16, 16.0, 1 / 4),
        "blocks.1.mlp.down.weight": (1.0, 1 / 16, 16.0, 1 / 4),
        "head.weight": (0.5, 1 / 4, 4.0, 1.0),
    }
    vectors = {"blocks.0.mlp_norm.weight": 1 / 16, "blocks.0.attention.qkv.bias": 1 / 16, "norm.weight": 1 / 4}
    for name, factors in matrices.items():
        scale = scheme.scale(name)
        assert (scale.init, scale.learning_rate, scale.weight_decay, scale.eps) == factors, name
        # what a step takes away of a weight is the same for all
        assert scale.learning_rate * scale.weight_decay == 1
    for name, eps in vectors.items():
        scale = scheme.scale(name)
        assert (scale.init, scale.learning_rate, scale.eps) == (1.0, 1.0, eps), name
    assert {name for name, _ in drawn(config(qkv_bias=True), STANDARD).named_parameters()} >= {*matrices, *vectors}


def test_folding_a_multiplier_into_a_weight_changes_no_step():
    """A residual branch times 1 / m with AdamW, against the weight times 1 / m with this module's factors."""
    m, rate, decay, eps = 4.0, 0.01, 0.3, 1e-3
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 3, dtype=torch.float64, generator=generator)
    weight = torch.randn(3, 3, dtype=torch.float64, generator=generator)
    plain, folded = weight.clone().requires_grad_(), (weight / m).requires_grad_()
    # eps is that of the gradient: m times as large for the folded weight
    optimizers = [
        torch.optim.AdamW([plain], lr=rate, weight_decay=decay, eps=eps),
        torch.optim.AdamW([folded], lr=rate / m, weight_decay=decay * m, eps=eps * m),
    ]
    for _ in range(5):
        ((x @ plain / m).sin()).sum().backward()
        ((x @ folded).sin()).sum().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    assert torch.allclose(plain / m, folded, rtol=1e-12)


def test_every_group_follows_the_schedule_times_its_own_factor():
    shape = config(width=64)
    model = drawn(shape, completep(shape))
    optimizer = optim.build_optimizer(model, RunConfig(weight_decay=0.2), completep(shape))
    for rate in (0.5, 0.1):
        optim.set_learning_rate(optimizer, rate)
        rates = {id(each): group["lr"] for group in optimizer.param_groups for each in group["params"]}
        for name, parameter in model.named_parameters():
            assert rates.pop(id(parameter)) == rate * completep(shape).scale(name).learning_rate
        assert not rates


def test_it_is_refused_for_tied_embeddings():
    with pytest.raises(UsageError, match="parametrization completep: embedding and head scale apart"):
        completep(config(tied_embeddings=True))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"parametrization": "mup"}, "parametrization 'mup' must be standard or completep"),
        ({"base_size": "32K"}, "unknown base_size '32K': did you mean '33K'"),
    ],
)
def test_a_config_that_is_wrong_is_one_line(fields, told):
    with pytest.raises(UsageError, match=told):
        RunConfig(**fields)
