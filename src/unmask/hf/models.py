"""The models in Transformers, and how their weights are stored.

Shapes: B rows, L positions, V vocabulary, N tokens of a row without padding.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedModel
from transformers import initialization as hf_init
from transformers.cache_utils import Cache, DynamicCache
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import Concatenate, ConversionOps, WeightConverter, WeightRenaming
from transformers.generation.utils import GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast, MaskedLMOutput

from unmask import llama_names
from unmask.errors import UsageError
from unmask.hf import config as hf_config
from unmask.hf.cache import HfCache
from unmask.hf.config import UnmaskConfig
from unmask.hf.generation import DiffusionGeneration
from unmask.layers import Block, rotary_tables
from unmask.model import Transformer
from unmask.model_directory import MODEL_TYPE


class UnmaskPreTrainedModel(PreTrainedModel):
    """A `Transformer` under the name `model`; on disk its weights have Llama's names."""

    config_class = UnmaskConfig
    config: UnmaskConfig
    base_model_prefix = "model"
    _no_split_modules: ClassVar[set[str] | list[str] | None] = ["Block"]  # pyright: ignore[reportIncompatibleVariableOverride]
    _supports_sdpa = True

    def __init__(self, config: UnmaskConfig) -> None:
        super().__init__(config)
        self.model = Transformer(config.shape)
        blocks = [module for module in self.model.modules() if isinstance(module, Block)]
        self._residual_writers = {id(part) for block in blocks for part in (block.attention.out, block.mlp.down)}
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """The paper's init, and the rotary tables, which no checkpoint holds."""
        width, layers = self.config.n_embd, self.config.n_layer
        if isinstance(module, Transformer):
            for buffer, table in zip(
                (module.rotary_cos_CE, module.rotary_sin_CE), rotary_tables(module.config), strict=True
            ):
                hf_init.copy_(buffer, table)
        elif isinstance(module, nn.RMSNorm):
            hf_init.ones_(module.weight)
        elif isinstance(module, nn.Linear | nn.Embedding):
            narrow = id(module) in self._residual_writers
            std = 1 / (math.sqrt(width) * layers) if narrow else math.sqrt(2 / (5 * width))
            hf_init.normal_(module.weight, mean=0.0, std=std)
            if isinstance(module, nn.Linear) and cast("Tensor | None", module.bias) is not None:
                hf_init.zeros_(module.bias)

    def get_input_embeddings(self) -> nn.Module:
        """The embedding of the tokens."""
        return self.model.embedding

    def get_output_embeddings(self) -> nn.Module | None:
        """The head; None where it is the embedding."""
        return self.model.head

    def logits(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """(B, L, V). Padding (0 in the mask) is left out of each row before the network sees it; its rows are 0."""
        if attention_mask is None or bool(attention_mask.all()):
            return self.model(input_ids)
        there_BL = attention_mask.bool()
        if not there_BL.any():
            raise UsageError("attention_mask: masks out every token: give at least one")
        logits_BLV = input_ids.new_zeros(*input_ids.shape, self.config.vocab_size, dtype=self.dtype)
        counts_B = there_BL.sum(dim=1)
        for length in cast("list[int]", counts_B.unique().tolist()):
            rows_BL = there_BL & (counts_B == length)[:, None]
            if length:
                found_RNV = self.model(input_ids[rows_BL].view(-1, length))
                logits_BLV = logits_BLV.index_put((rows_BL,), found_RNV.flatten(0, 1).to(self.dtype))
        return logits_BLV


class UnmaskForMaskedLM(DiffusionGeneration, UnmaskPreTrainedModel):
    """A masked diffusion model, or another that was trained with masks. Raises `UsageError` for another one."""

    def __init__(self, config: UnmaskConfig) -> None:
        if config.causal:
            raise UsageError("this model is autoregressive and has no mask token: load it with AutoModelForCausalLM")
        super().__init__(config)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
        **_: Any,
    ) -> MaskedLMOutput | tuple[Tensor, ...]:
        """Logits (B, L, V): position i's predict token i. With `labels`, the mean cross-entropy, -100 left out."""
        logits_BLV = self.logits(input_ids, attention_mask)
        loss = None if labels is None else F.cross_entropy(logits_BLV.flatten(0, 1).float(), labels.flatten())
        if return_dict is False:
            return (logits_BLV,) if loss is None else (loss, logits_BLV)
        return MaskedLMOutput(loss=cast(Any, loss), logits=cast(Any, logits_BLV))


class UnmaskForCausalLM(UnmaskPreTrainedModel, GenerationMixin):
    """An autoregressive model, which `generate` runs with a cache. Raises `UsageError` for a masked one."""

    def __init__(self, config: UnmaskConfig) -> None:
        if not config.causal:
            raise UsageError("this model is no autoregressive one: load it with AutoModelForMaskedLM")
        super().__init__(config)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        return_dict: bool | None = None,
        **_: Any,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Logits (B, L, V): position i's predict token i + 1. With `labels`, the mean cross-entropy of those.

        With `past_key_values` the ids stand behind those that it holds, and join them; `attention_mask` is then one of
        all. `use_cache` without it begins one. `logits_to_keep` leaves all but the last so many positions out.
        """
        if past_key_values is None and use_cache:
            past_key_values = DynamicCache()
        if past_key_values is None or self._must_begin_anew(past_key_values, attention_mask):
            past_key_values = None
            logits_BLV = self.logits(input_ids, attention_mask)[:, -logits_to_keep:]
        else:
            logits_BLV = self._cached_logits(input_ids, attention_mask, past_key_values, logits_to_keep)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits_BLV[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
        if return_dict is False:
            return tuple(part for part in (loss, logits_BLV, past_key_values) if part is not None)
        return CausalLMOutputWithPast(
            loss=cast(Any, loss), logits=cast(Any, logits_BLV), past_key_values=past_key_values
        )

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        *_: Any,
        past_key_values: Cache | None = None,
        attention_mask: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        **__: Any,
    ) -> dict[str, Any]:
        """The tokens that the cache does not hold."""
        known = 0 if past_key_values is None else int(past_key_values.get_seq_length())
        return {
            "input_ids": input_ids[:, known:],
            "attention_mask": attention_mask,
            "past_key_values": past_key_values,
            "use_cache": use_cache,
            "logits_to_keep": logits_to_keep,
        }

    def _must_begin_anew(self, cache: Cache, attention_mask: Tensor | None) -> bool:
        """Whether the cache has to stay empty: padding moves a row, and rounded tables tell its places apart."""
        if attention_mask is None or int(cache.get_seq_length()) or bool(attention_mask.all()):
            return False
        return self.config.rope_precision != "float32" or attention_mask.shape[1] > self.config.context_length

    def _cached_logits(
        self, input_ids: Tensor, attention_mask: Tensor | None, cache: Cache, logits_to_keep: int
    ) -> Tensor:
        """(B, L, V) of the new tokens, or of the last of them; padding is seen by no position but itself."""
        present_BT = None if attention_mask is None or bool(attention_mask.all()) else attention_mask.bool()
        ours = HfCache(cache, self.model.config)
        kept = min(logits_to_keep or input_ids.shape[1], input_ids.shape[1])
        select_BL = torch.zeros_like(input_ids, dtype=torch.bool)
        select_BL[:, -kept:] = True
        return self.model(input_ids, select_BL, ours, present_BL=present_BT).view(len(input_ids), kept, -1)


class SplitRows(ConversionOps):
    """Take a fused matrix apart into queries, keys and values, which may differ in height."""

    @torch.no_grad()
    def convert(
        self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str], **kwargs: Any
    ) -> dict[str, Any]:
        """The parts by `target_patterns`."""
        held = next(iter(input_dict.values()))
        fused = cast(Tensor, held[0] if isinstance(held, list) else held)
        config = cast(UnmaskConfig, kwargs["config"]).shape
        parts = torch.split(fused, llama_names.rows("attention.qkv", config))
        return {name: part.contiguous() for name, part in zip(target_patterns, parts, strict=True)}

    @property
    def reverse_op(self) -> ConversionOps:
        """`FuseRows`."""
        return FuseRows()


class FuseRows(Concatenate):
    """Queries, keys and values as one matrix."""

    def __init__(self) -> None:
        super().__init__(dim=0)

    @property
    def reverse_op(self) -> ConversionOps:
        """`SplitRows`."""
        return SplitRows()


def weight_mapping() -> list[WeightConverter | WeightRenaming]:
    """From the names on disk to those of the modules here; Transformers derives the way back."""
    fused = [
        WeightConverter(
            [f".{name}." for name in theirs],
            f".{ours}.",
            [FuseRows() if ours == "attention.qkv" else Concatenate(dim=0)],
        )
        for ours, theirs in llama_names.FUSED.items()
    ]
    whole = [WeightRenaming(f"{theirs}.", f"model.{ours}.") for ours, theirs in llama_names.WHOLE.items()]
    blocks = [WeightRenaming("model.layers.", "model.blocks.")]
    parts = [WeightRenaming(f".{theirs}.", f".{ours}.") for ours, theirs in llama_names.IN_BLOCK.items()]
    return [*whole, *blocks, *parts, *fused]


def register() -> None:
    """Enter the models into Transformers' tables."""
    hf_config.register()
    AutoModelForMaskedLM.register(UnmaskConfig, UnmaskForMaskedLM, exist_ok=True)
    AutoModelForCausalLM.register(UnmaskConfig, UnmaskForCausalLM, exist_ok=True)
    register_checkpoint_conversion_mapping(MODEL_TYPE, weight_mapping(), overwrite=True)
