"""The named sizes and their costs, against the paper's table and closed forms."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from unmask import sizes
from unmask.config import ModelConfig
from unmask.errors import UsageError
from unmask.sizes import FAMILY, SMALL

FAMILY_TABLE = Path(__file__).parents[2] / "shared/reference/scaling/smdm_model_family.csv"


@pytest.fixture(scope="module")
def family_table() -> list[dict[str, str]]:
    if not FAMILY_TABLE.exists():
        pytest.skip("the reference table smdm_model_family.csv is not beside this checkout")
    with FAMILY_TABLE.open() as file:
        return list(csv.DictReader(file))


def test_the_family_is_the_papers_table(family_table: list[dict[str, str]]) -> None:
    in_table = {
        f"{row['name_M']}M": (
            *(int(row[column]) for column in ("n_layer", "n_head", "n_embd", "intermediate")),
            int(row["non_embedding_params_formula"]),
        )
        for row in family_table
    }
    ours = {
        name: (size.n_layer, size.n_head, size.n_embd, size.intermediate_size, size.params)
        for name, size in FAMILY.items()
    }
    assert len(ours) == 30
    assert ours == in_table


def test_attention_flops_are_the_tables(family_table: list[dict[str, str]]) -> None:
    for row in family_table:
        size = FAMILY[f"{row['name_M']}M"]
        assert sizes.attention_flops(size, 2048) == int(row["attn_flops_fwd_per_token_T2048"])


def test_a_sizes_name_is_its_parameter_count() -> None:
    units = {"K": 1e3, "M": 1e6}
    for name, size in {**FAMILY, **SMALL}.items():
        last_digit = 10.0 ** -len(name[:-1].partition(".")[2])
        assert float(name[:-1]) == pytest.approx(size.params / units[name[-1]], abs=last_digit), name


def test_every_size_divides_into_heads_that_rotate() -> None:
    for size in {**FAMILY, **SMALL}.values():
        ModelConfig.of_size(size.name, vocab_size=256, context_length=32)


def test_sizes_ascend_in_the_small_ladder() -> None:
    params = [size.params for size in SMALL.values()]
    assert params == sorted(set(params))


@pytest.mark.parametrize(
    ("size", "flops", "batch_size", "steps"),
    [
        ("170M", 1e19, 256, 18710),
        ("1028M", 1e20, 256, 30932),
        ("1028M", 1.6e21, 384, 329951),
        ("1028M", 3.3e21, 1024, 255197),
    ],
)
def test_steps_are_those_of_the_papers_runs(size: str, flops: float, batch_size: int, steps: int) -> None:
    assert sizes.training_steps(flops, FAMILY[size].params, batch_size, 2048) == steps


def test_a_budget_below_one_step_is_refused_with_its_cost() -> None:
    with pytest.raises(UsageError, match=r"flops 1000 is less than one step of 3\.2.*e\+12: raise the budget"):
        sizes.training_steps(1000, FAMILY["6M"].params, 42, 2048)


def test_an_unknown_size_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown size '1028B': did you mean '1028M'"):
        sizes.lookup("1028B")


def test_grouped_heads_and_biases_are_counted() -> None:
    shape = {"n_layer": 3, "n_head": 4, "n_embd": 32, "intermediate_size": 48, "vocab_size": 10, "context_length": 8}
    plain = ModelConfig(**shape).params
    # Two of four key and value heads: half of two d x d matrices less in each layer.
    assert plain - ModelConfig(**shape, n_kv_head=2).params == 3 * 32 * 32
    assert ModelConfig(**shape, qkv_bias=True).params - plain == 3 * 3 * 32


def test_the_full_convention_adds_attention_and_the_scored_head() -> None:
    size = FAMILY["6M"]
    plain = sizes.training_flops(size, 1000)
    assert plain == 6 * size.params * 1000
    attention = sizes.training_flops(size, 1000, convention="full", length=2048, scored_share=0.0) - plain
    full = sizes.training_flops(size, 1000, convention="full", length=2048, scored_share=1.0) - plain
    # "6 N D leaves out" 100% for attention and 130% for the head at 6M and 2048 tokens.
    assert attention / plain == pytest.approx(1.0, abs=0.01)
    assert (full - attention) / plain == pytest.approx(1.3, abs=0.01)


def test_an_unknown_flop_convention_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown FLOP convention '6md': did you mean '6nd'"):
        sizes.training_flops(FAMILY["6M"], 1.0, convention="6md")
