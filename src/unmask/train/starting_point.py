"""Where the network of a run begins: new, or with the weights of another model; and an ARM made into an MDM.

An autoregressive model that is to be trained with masks is adapted as DiffuLLaMA (Gong et al., 2025) and Dream (Ye et
al., 2025) are: a mask token joins the embedding, the state at position i - 1 goes on predicting token i, and each
position sees a growing random share of the later ones until the network is bidirectional. In the first step it is the
very network that it was.

Shapes: L positions; row i of (L, L) says which positions i sees.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from unmask import convert, model_directory, objectives, seeding
from unmask.config import ModelConfig, RunConfig
from unmask.data.no_tokenizer import NoTokenizer
from unmask.data.tokenizer import Tokenizer
from unmask.errors import UsageError
from unmask.model import Transformer
from unmask.model_directory import Stored
from unmask.parametrization import STANDARD, Parametrization
from unmask.sft_config import SftConfig

EMBEDDING = "embedding.weight"


class Tokenized(Protocol):
    """Data in the tokens of a tokenizer."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Whose ids they have."""
        ...


@dataclass(frozen=True)
class StartingPoint:
    """The network of a run before its first step."""

    config: ModelConfig
    weights: dict[str, Tensor] | None = None
    """Its `state_dict`; None for a new one."""
    adapted: bool = False
    """Whether its attention is to turn from causal to bidirectional."""

    def build(self, seed: int, parametrization: Parametrization = STANDARD) -> Transformer:
        """The network with these weights in float32, or with new ones drawn from `seed`."""
        if self.weights is not None:
            copied = {name: tensor.to(torch.float32, copy=True) for name, tensor in self.weights.items()}
            return Transformer.of_weights(self.config, copied)
        model = Transformer(self.config)
        model.init_weights(seeding.generator(seed, "init"), parametrization)
        return model


def source(run: RunConfig) -> Stored | None:
    """The model that `run` starts from; None for a new one. Raises `UnmaskError` where its files are damaged."""
    return convert.read(run.init_from) if run.init_from else None


def find(run: RunConfig, data: Tokenized, stored: Stored | None) -> StartingPoint:
    """The starting point of `run` over the vocabulary of its `data`, from its `source`.

    Raises `UsageError` where the model does not fit the objective, the length or the data.
    """
    causal = run.objective in objectives.CAUSAL
    if stored is None:
        tokenizer = data.tokenizer
        return StartingPoint(run.model_config(tokenizer.vocab_size, None if causal else tokenizer.mask_id, causal))
    config = stored.config
    if causal and not config.causal:
        option = "--model" if isinstance(run, SftConfig) else "--from"
        raise UsageError(
            f"{option} {run.init_from}: a masked network, and objective {run.objective} trains a causal one: "
            "take another objective, or another model"
        )
    if run.length > config.context_length:
        raise UsageError(
            f"length {run.length}: more than the context of {config.context_length} of {run.init_from}: lower it"
        )
    check_tokenizer(run, stored.tokenizer, data.tokenizer, config)
    weights = model_directory.fitting_weights(stored)
    if causal or not config.causal:
        return StartingPoint(config, weights)
    adapted = adapted_config(config, data.tokenizer)
    return StartingPoint(adapted, with_mask_token(weights, config, adapted), adapted=True)


def adapted_config(config: ModelConfig, tokenizer: Tokenizer) -> ModelConfig:
    """The masked form of a causal network: the mask token of `tokenizer`, shifted by one."""
    mask_id = tokenizer.mask_id
    padded = config.padded_rows
    if config.vocab_size - padded <= mask_id < config.vocab_size:  # it takes the first of the padded rows
        padded = config.vocab_size - mask_id - 1
    return dataclasses.replace(config, causal=False, shifted=True, mask_id=mask_id, padded_rows=padded)


def with_mask_token(weights: dict[str, Tensor], config: ModelConfig, adapted: ModelConfig) -> dict[str, Tensor]:
    """`weights` with a row for the mask token of `adapted`, the mean of all; one of the tokens keeps its own."""
    mask_id, tokens = adapted.mask_id, config.vocab_size - config.padded_rows
    assert mask_id is not None
    if mask_id < tokens:
        return weights
    before = weights[EMBEDDING]
    embedding = before.new_zeros(adapted.embedding_rows, config.n_embd)
    embedding[: len(before)] = before
    embedding[mask_id] = before[:tokens].float().mean(dim=0).to(before.dtype)
    return {**weights, EMBEDDING: embedding}


def annealed(run: RunConfig, step: int, steps: int) -> float:
    """Share of the later positions that an adapted network sees in `step`: 0 in the first, 1 after `anneal_share`."""
    over = run.anneal_share * steps
    return min(1.0, step / over) if over > 0 else 1.0


def attention(run: RunConfig, step: int, steps: int) -> Tensor | None:
    """Which positions see which in `step`, boolean (L, L): all earlier ones and a random share of the later ones.

    None once all see all. A shorter sequence takes the upper left part.
    """
    share = annealed(run, step, steps)
    if share == 1:
        return None
    generator = seeding.generator(run.seed, "attention", step)
    seen_LL = torch.rand(run.length, run.length, generator=generator) < share
    return seen_LL | torch.ones_like(seen_LL).tril()


def check_tokenizer(run: RunConfig, theirs: Tokenizer, ours: Tokenizer, config: ModelConfig) -> None:
    """Raise `UsageError` unless the corpus of `run` has the ids of the model that it starts from."""
    rows = config.vocab_size - config.padded_rows
    masked = config.mask_id
    if isinstance(theirs, NoTokenizer) or isinstance(ours, NoTokenizer):
        same = model_directory.tokenizer_rows(config, ours) == rows
    else:
        same = theirs.vocab_size == ours.vocab_size and _vocabulary(theirs) == _vocabulary(ours)
    if not same or (masked is not None and masked != ours.mask_id):
        raise UsageError(
            f"data {run.data}: not prepared with the tokenizer of {run.init_from}: "
            "unmask prepare --tokenizer takes its folder"
        )


def _vocabulary(tokenizer: Tokenizer) -> Any:
    return json.loads(tokenizer.to_json())["model"].get("vocab")
