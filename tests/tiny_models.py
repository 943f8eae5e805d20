"""Models of a few thousand weights, as they are initialised, for tests that ask what is done with a model."""

from __future__ import annotations

import torch

from unmask import seeding
from unmask.config import ModelConfig
from unmask.data.tokenizer import Tokenizer
from unmask.language_model import LanguageModel
from unmask.model import Transformer


def language_model(
    tokenizer: Tokenizer, *, causal: bool, n_layer: int = 1, context_length: int = 64, sharpened: bool = False
) -> LanguageModel:
    """An ARM or an MDM. `sharpened`: its matrices times 3, since the paper's init is nearly uniform."""
    config = ModelConfig(
        n_layer=n_layer,
        n_head=2,
        n_embd=16,
        intermediate_size=32,
        vocab_size=tokenizer.vocab_size,
        context_length=context_length,
        mask_id=None if causal else tokenizer.mask_id,
        causal=causal,
    )
    model = Transformer(config)
    model.init_weights(seeding.generator(0, "init"))
    if sharpened:
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 2:
                    parameter.mul_(3)
    return LanguageModel(model, tokenizer, "arm" if causal else "mdm")
