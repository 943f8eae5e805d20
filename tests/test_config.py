"""`ModelConfig`: what it derives, what it refuses, and its way through JSON."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmask.config import ModelConfig, from_dict, to_json
from unmask.errors import UsageError

SHAPE: dict[str, Any] = {
    "n_layer": 2,
    "n_head": 4,
    "n_embd": 32,
    "intermediate_size": 64,
    "vocab_size": 100,
    "context_length": 16,
}


def config(**fields: Any) -> ModelConfig:
    return ModelConfig(**{**SHAPE, **fields})


def test_zero_kv_heads_means_as_many_as_query_heads() -> None:
    assert config().n_kv_head == 4
    assert config(n_kv_head=2).n_kv_head == 2
    assert config() == config(n_kv_head=4)


@pytest.mark.parametrize(("mask_id", "rows"), [(None, 100), (100, 101), (7, 100)])
def test_only_a_mask_id_past_the_vocabulary_adds_an_embedding_row(mask_id: int | None, rows: int) -> None:
    assert config(mask_id=mask_id).embedding_rows == rows


def test_all_problems_are_reported_together_in_one_line() -> None:
    with pytest.raises(UsageError) as caught:
        config(n_head=5, n_kv_head=2, mask_id=101, rope_theta=0.0, rope_precision="float16")
    message = str(caught.value)
    assert "\n" not in message
    for problem in (
        "n_embd 32 must be an even multiple of n_head 5",
        "n_head 5 must be a multiple of n_kv_head 2",
        "mask_id 101 must be from 0 to vocab_size 100",
        "rope_theta 0.0 must be positive",
        "rope_precision 'float16' must be float32 or bfloat16",
    ):
        assert problem in message


@pytest.mark.parametrize("name", list(SHAPE))
@pytest.mark.parametrize("value", [0, -1])
def test_a_count_below_one_is_named_with_its_value(name: str, value: int) -> None:
    with pytest.raises(UsageError, match=f"model config: {name} {value} must be at least 1"):
        config(**{name: value})


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"n_head": 32}, "n_embd 32 must be an even multiple of n_head 32"),  # head dimension 1 cannot rotate
        ({"head_dim": 7}, "head_dim 7 must be even"),
        ({"padded_rows": 999999}, "padded_rows 999999 must be less than vocab_size"),
        ({"shifted": True, "causal": True}, "shifted is for bidirectional networks"),
        ({"block_length": 8, "causal": True}, "block_length is for networks that are neither causal nor shifted"),
        ({"block_length": 8, "shifted": True}, "block_length is for networks that are neither causal nor shifted"),
        ({"block_length": -1}, "block_length -1 must be 0"),
        ({"n_kv_head": -1}, "n_kv_head -1 must be at least 1"),
        ({"mask_id": -1}, "mask_id -1 must be from 0"),
    ],
)
def test_what_does_not_fit_together_is_refused(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        config(**fields)


def test_a_config_cannot_be_changed_after_its_validation() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        config().n_layer = 0  # pyright: ignore[reportAttributeAccessIssue]


@given(
    heads=st.integers(1, 8),
    groups=st.integers(1, 4),
    half_head_dim=st.integers(1, 16),
    vocab_size=st.integers(1, 1000),
    has_mask=st.booleans(),
    causal=st.booleans(),
)
def test_json_and_back_is_the_same_config(
    heads: int, groups: int, half_head_dim: int, vocab_size: int, has_mask: bool, causal: bool
) -> None:
    before = config(
        n_head=heads * groups,
        n_kv_head=heads,
        n_embd=2 * half_head_dim * heads * groups,
        vocab_size=vocab_size,
        mask_id=vocab_size if has_mask else None,
        causal=causal,
    )
    assert from_dict(ModelConfig, json.loads(to_json(before)), "config.json") == before
    assert before.head_dim == 2 * half_head_dim


def test_unknown_and_missing_fields_of_a_file_are_named_with_it() -> None:
    fields = {**SHAPE, "n_layers": 2}
    del fields["n_layer"]
    with pytest.raises(UsageError) as caught:
        from_dict(ModelConfig, fields, "model/config.json")
    message = str(caught.value)
    assert message.startswith("model/config.json: ")
    assert "unknown field 'n_layers'" in message
    assert "missing field 'n_layer'" in message


def test_a_named_size_takes_the_remaining_fields() -> None:
    small = ModelConfig.of_size("33K", vocab_size=50, context_length=8, causal=True)
    assert (small.n_layer, small.n_embd, small.vocab_size, small.causal) == (2, 32, 50, True)
    assert small.params == 32928
