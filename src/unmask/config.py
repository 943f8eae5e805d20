"""Frozen dataclasses of one run: the network and the training run around it. No torch.

A recipe is a function that returns a `RunConfig`; the command line overrides its fields; `RunConfig.__post_init__`
reports every problem at once. `config.json` of a run directory is the JSON of the `RunConfig`.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

from unmask import sizes
from unmask.errors import UsageError, problems_error

T = TypeVar("T")
RopePrecision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class ModelConfig:
    """The shape of one Transformer."""

    n_layer: int
    """Blocks."""
    n_head: int
    """Query heads."""
    n_embd: int
    """Width d; `n_embd / n_head` is the head dimension and must be even."""
    intermediate_size: int
    """Width f of the SwiGLU."""
    vocab_size: int
    """Tokens that the head predicts. A mask token with this very id has an embedding but no output."""
    context_length: int
    """Longest sequence in tokens."""
    n_kv_head: int = 0
    """Key and value heads (grouped-query attention); 0 means as many as query heads."""
    mask_id: int | None = None
    """Id of the mask token; None for a network without one."""
    causal: bool = False
    """Each position sees only itself and earlier ones (an ARM) instead of all."""
    qkv_bias: bool = False
    """Biases on the query, key and value projections (as in Qwen2)."""
    tied_embeddings: bool = False
    """The output head is the embedding."""
    rope_theta: float = 10000.0
    """Base of the rotary position frequencies."""
    rope_precision: RopePrecision = "float32"
    """Precision to which the rotary tables are rounded; the released SMDM models need bfloat16."""
    norm_eps: float = 1e-5
    """Epsilon of the RMS norms."""

    def __post_init__(self) -> None:
        if self.n_kv_head == 0:
            object.__setattr__(self, "n_kv_head", self.n_head)
        problems: list[str] = []
        for name in ("n_layer", "n_head", "n_kv_head", "n_embd", "intermediate_size", "vocab_size", "context_length"):
            if getattr(self, name) < 1:
                problems.append(f"{name} {getattr(self, name)} must be at least 1")
        if not problems:
            if self.n_embd % self.n_head or self.n_embd // self.n_head % 2:
                problems.append(f"n_embd {self.n_embd} must be an even multiple of n_head {self.n_head}")
            if self.n_head % self.n_kv_head:
                problems.append(f"n_head {self.n_head} must be a multiple of n_kv_head {self.n_kv_head}")
            if self.mask_id is not None and not 0 <= self.mask_id <= self.vocab_size:
                problems.append(f"mask_id {self.mask_id} must be from 0 to vocab_size {self.vocab_size}")
            if self.tied_embeddings and self.mask_id == self.vocab_size:
                problems.append("tied_embeddings needs mask_id within vocab_size: the mask row has no output")
        if self.rope_theta <= 0:
            problems.append(f"rope_theta {self.rope_theta} must be positive")
        if self.rope_precision not in ("float32", "bfloat16"):
            problems.append(f"rope_precision {self.rope_precision!r} must be float32 or bfloat16")
        if problems:
            raise problems_error("model config", problems)

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.n_embd // self.n_head

    @property
    def embedding_rows(self) -> int:
        """Rows of the embedding: the vocabulary, and one more if the mask id lies just past it."""
        return self.vocab_size + (self.mask_id == self.vocab_size)

    @property
    def params(self) -> int:
        """Non-embedding parameters N."""
        return sizes.non_embedding_params(self)

    @classmethod
    def of_size(cls, size: str, **fields: Any) -> ModelConfig:
        """The config of a named size; `fields` are the remaining ones (vocabulary, context, ...)."""
        shape = sizes.lookup(size)
        return cls(
            n_layer=shape.n_layer,
            n_head=shape.n_head,
            n_embd=shape.n_embd,
            intermediate_size=shape.intermediate_size,
            **fields,
        )


def to_json(config: Any) -> str:
    """The JSON of a config dataclass: every field by name, two-space indent, a final newline."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_dict(cls: type[T], fields: dict[str, Any], source: str) -> T:
    """Build the config dataclass `cls` from `fields` read from `source`.

    Raises `UsageError` that names `source` and every field that is unknown or missing.
    """
    known = {field.name: field for field in dataclasses.fields(cast(Any, cls))}
    problems = [f"unknown field {name!r}" for name in fields if name not in known]
    for name, field in known.items():
        optional = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if name not in fields and not optional:
            problems.append(f"missing field {name!r}")
    if problems:
        raise UsageError(f"{source}: " + "; ".join(problems))
    return cls(**fields)
