"""The named family of network sizes, and what a size costs in parameters and FLOPs. Needs no torch.

The 30 sizes of "Scaling up Masked Diffusion Models on Text" (Nie et al., 2025, appendix) and a ladder of smaller ones
for studies on a CPU. N counts everything but the embedding and the output head:
N = L (4 d^2 + 3 d f + 2 d) + d for plain multi-head attention without biases.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from unmask.errors import UsageError, unknown_name


class Shape(Protocol):
    """What the formulas read of a size or of a model's config."""

    @property
    def n_layer(self) -> int: ...
    @property
    def n_head(self) -> int: ...
    @property
    def n_kv_head(self) -> int: ...
    @property
    def n_embd(self) -> int: ...
    @property
    def intermediate_size(self) -> int: ...


@dataclass(frozen=True)
class Size:
    """The shape of one network; vocabulary and context are the run's."""

    name: str
    n_layer: int
    n_head: int
    n_embd: int
    intermediate_size: int

    @property
    def n_kv_head(self) -> int:
        """The family uses plain multi-head attention."""
        return self.n_head

    @property
    def params(self) -> int:
        """Non-embedding parameters."""
        return non_embedding_params(self)


def _sizes(rows: str) -> dict[str, Size]:
    sizes = (Size(name, *map(int, numbers)) for name, *numbers in map(str.split, rows.strip().splitlines()))
    return {size.name: size for size in sizes}


# name, layers, heads, width d, intermediate f
FAMILY: dict[str, Size] = _sizes("""
    6M     6  4  256 1024
    19M    8  6  384 1536
    34M    8  8  512 2048
    48M    9  9  576 2304
    66M   10 10  640 2560
    85M   13 10  640 2560
    75M   16  8  640 1600
    113M  12 12  768 3072
    142M  15 12  768 3072
    170M  18 12  768 3072
    180M  14 14  896 3584
    206M  16 14  896 3584
    231M  18 14  896 3584
    268M  16 16 1024 4096
    302M  18 16 1024 4096
    336M  20 16 1024 4096
    472M  18 10 1280 5120
    551M  21 10 1280 5120
    571M  18 11 1408 5632
    629M  24 10 1280 5120
    666M  21 11 1408 5632
    717M  19 12 1536 6144
    761M  24 11 1408 5632
    831M  22 12 1536 6144
    944M  25 12 1536 6144
    1028M 20 14 1792 7168
    1233M 24 14 1792 7168
    1476M 22 16 2048 8192
    1678M 25 16 2048 8192
    2121M 28 17 2176 8704
""")
"""The paper's 30 sizes, by name."""

SMALL: dict[str, Size] = _sizes("""
    5K     2  1   12   48
    8K     2  1   16   64
    16K    2  1   24   80
    22K    2  1   28   96
    33K    2  1   32  128
    56K    2  2   48  128
    131K   2  2   64  256
    197K   3  2   64  256
    307K   3  4   80  320
    517K   4  4   96  320
    804K   4  4  112  448
    1.0M   4  4  128  512
    1.7M   5  6  144  576
    2.4M   5  6  180  640
    3.5M   6  6  192  768
""")
"""Sizes for studies on a CPU, by name."""


def lookup(name: str) -> Size:
    """The size called `name`. Raises `UsageError` with the nearest name where there is none."""
    size = SMALL.get(name) or FAMILY.get(name)
    if size is None:
        raise unknown_name("size", name, [*SMALL, *FAMILY])
    return size


def non_embedding_params(config: Shape) -> int:
    """N, the parameters of all blocks and of the last norm (with qkv biases and norms where the config has them)."""
    head_dim = _head_dim(config)
    q_dim, kv_dim = config.n_head * head_dim, config.n_kv_head * head_dim
    d, f = config.n_embd, config.intermediate_size
    attention = 2 * d * q_dim + 2 * d * kv_dim
    if getattr(config, "qkv_bias", False):
        attention += q_dim + 2 * kv_dim
    if getattr(config, "qk_norm", False):
        attention += 2 * head_dim
    return config.n_layer * (attention + 3 * d * f + 2 * d) + d


def _head_dim(config: Shape) -> int:
    """Width of one head: the config's own, or all of d shared out."""
    return getattr(config, "head_dim", 0) or config.n_embd // config.n_head


def attention_flops(config: Shape, length: int) -> int:
    """Forward FLOPs per token of the score and value products against `length` visible positions: 4 L d T.

    d is the width of all heads together. A causal network sees half of the positions on average; count the half in
    `length` if that is wanted.
    """
    return 4 * config.n_layer * config.n_head * _head_dim(config) * length


def head_flops(config: Shape, vocab_size: int) -> int:
    """Forward FLOPs of the output head for one scored position."""
    return 2 * config.n_embd * vocab_size


CONVENTIONS = ("6nd", "full")


def training_flops(
    config: Shape,
    tokens: float,
    *,
    convention: str = "6nd",
    length: int = 2048,
    vocab_size: int = 32000,
    scored_share: float = 1.0,
) -> float:
    """FLOPs C of training on `tokens` tokens (forward and backward).

    `convention` "6nd" is the paper's 6 N D. "full" adds attention over `length` positions, and the head on the
    `scored_share` of the positions, which 6 N D leaves out. Raises `UsageError` on another convention.
    """
    if convention not in CONVENTIONS:
        raise unknown_name("FLOP convention", convention, CONVENTIONS)
    per_token = 6.0 * non_embedding_params(config)
    if convention == "full":
        per_token += 3.0 * (attention_flops(config, length) + scored_share * head_flops(config, vocab_size))
    return per_token * tokens


def training_steps(flops: float, params: int, batch_size: int, length: float) -> int:
    """The paper's stepping rule int(C / (6 N B T)). Raises `UsageError` if not even one step fits."""
    steps = int(flops / (6 * params * batch_size * length))
    if steps < 1:
        raise UsageError(
            f"flops {flops:g} is less than one step of {6 * params * batch_size * length:g}: "
            "raise the budget, or take a smaller size or batch"
        )
    return steps
