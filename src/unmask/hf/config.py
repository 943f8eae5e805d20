"""The config of our models in Transformers."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from transformers import AutoConfig, PreTrainedConfig

from unmask.config import ModelConfig
from unmask.model_directory import MODEL_TYPE

SHAPE_FIELDS = tuple(field.name for field in dataclasses.fields(ModelConfig))


class UnmaskConfig(PreTrainedConfig):
    """The `config.json` of a model directory: the fields of `ModelConfig`, and the objective it was trained with."""

    model_type = MODEL_TYPE
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "n_embd",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "num_key_value_heads": "n_kv_head",
        "max_position_embeddings": "context_length",
        "rms_norm_eps": "norm_eps",
        "mask_token_id": "mask_id",
    }

    n_layer: int = 2
    n_head: int = 2
    n_embd: int = 64
    intermediate_size: int = 256
    vocab_size: int = 258
    context_length: int = 256
    n_kv_head: int = 0
    head_dim: int = 0
    mask_id: int | None = None
    causal: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False
    block_length: int = 0
    shifted: bool = False
    padded_rows: int = 0
    tied_embeddings: bool = False
    rope_theta: float = 10000.0
    rope_precision: str = "float32"
    norm_eps: float = 1e-5
    objective: str = "mdm"
    tie_word_embeddings: bool = False  # with tied embeddings the network has no head of its own

    @property
    def shape(self) -> ModelConfig:
        """The network's."""
        return ModelConfig(**{name: getattr(self, name) for name in SHAPE_FIELDS})


def register() -> None:
    """Enter the model type into Transformers' table."""
    AutoConfig.register(MODEL_TYPE, UnmaskConfig, exist_ok=True)
