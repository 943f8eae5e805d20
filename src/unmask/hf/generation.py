"""`generate` of a masked model in Transformers, in the conventions of the text-diffusion model that it carries.

DiffusionGemma's names where it has them (`max_denoising_steps`, a streamer with `put_draft`, `tokens_per_forward`); our
samplers do the work.

Shapes: B rows, L positions, N new tokens, R rows of one length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.utils.generic import ModelOutput

from unmask import guidance as guiding
from unmask import samplers, seeding
from unmask.errors import UsageError
from unmask.hf.config import UnmaskConfig
from unmask.model import Transformer
from unmask.network_logits import MaskedLogits
from unmask.samplers.canvas import Step


@dataclass
class DiffusionOutput(ModelOutput):
    """What `generate` of a masked model returns, as DiffusionGemma's does."""

    sequences: Tensor | None = None
    """(B, L): the prompts and the new tokens; padding stays where it was."""
    tokens_per_forward: Tensor | None = None
    """(B,) new tokens, those past the end of text aside, for each network call of the row."""


class DiffusionGeneration:
    """`generate`, for a model with a `config` and a network `model`."""

    config: UnmaskConfig
    model: Transformer

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor,
        *,
        attention_mask: Tensor | None = None,
        max_new_tokens: int = 64,
        max_denoising_steps: int | None = None,
        streamer: Any = None,
        sampler: str = "confidence",
        guidance: float = 0.0,
        temperature: float = 1.0,
        do_sample: bool = True,
        top_k: int | None = None,
        top_p: float = 1.0,
        seed: int | None = None,
        eos_token_id: int | None = None,
        pad_token_id: int | None = None,
        return_dict_in_generate: bool = True,
        **options: Any,
    ) -> DiffusionOutput | Tensor:
        """Write `max_new_tokens` tokens behind each prompt of `input_ids` (B, L), in `max_denoising_steps` steps.

        Masks inside the prompts are filled too. The arguments are DiffusionGemma's where it has them: a `streamer` gets
        the prompt, then each state of the new tokens by `put_draft` where it has that, then the new tokens. `sampler`
        is a name in `unmask.samplers.SAMPLERS` with its `options`, `guidance` the weight of classifier-free guidance;
        `do_sample=False` is temperature 0. Each row has its own draws from `seed` and its place in the batch; without a
        seed, from torch's global generator. Without steps there is one for each token. What follows a row's
        end-of-text token becomes `pad_token_id`, or the end of text itself.
        """
        config, mask_id = self.config, self.config.mask_id
        assert mask_id is not None  # no network but a causal one goes without
        unknown = sorted(options.keys() - samplers.options_of(sampler, options.get("inner")) - {"min_p"})
        if unknown:
            raise UsageError(f"generate: {', '.join(unknown)}: unknown to the sampler {sampler!r}: leave out")
        _check_ids(input_ids, self.model.config.embedding_rows)
        if max_new_tokens < 1:
            raise UsageError(f"max_new_tokens {max_new_tokens}: must be at least 1")
        eos_token_id = getattr(config, "eos_token_id", None) if eos_token_id is None else eos_token_id
        rows, width = input_ids.shape
        there_BL = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        seed = int(torch.randint(2**62, ())) if seed is None else seed
        padding = range(config.vocab_size - config.padded_rows, config.vocab_size)
        if streamer is not None:
            streamer.put(input_ids.cpu())
        new_BN = input_ids.new_full((rows, max_new_tokens), mask_id)
        sequences_BL = torch.cat([input_ids, new_BN], dim=1)
        calls_B = torch.zeros(rows, dtype=torch.int64, device=input_ids.device)
        counts_B = there_BL.sum(dim=1)
        for length in cast("list[int]", counts_B.unique().tolist()):
            rows_R = (counts_B == length).nonzero()[:, 0]
            prompt_RN = input_ids[rows_R][there_BL[rows_R]].view(len(rows_R), length)
            tokens_RN = torch.cat([prompt_RN, new_BN[rows_R]], dim=1)
            guided = guiding.classifier_free(MaskedLogits(self.model), tokens_RN != mask_id, guidance, mask_id)
            sampled = samplers.lookup(sampler)(
                guiding.suppress(guided, [token for token in padding if token != mask_id]),
                tokens_RN,
                mask_id=mask_id,
                steps=max_denoising_steps,
                temperature=temperature if do_sample else 0.0,
                top_k=top_k,
                top_p=top_p,
                generator=[seeding.generator(seed, "sample", row) for row in cast("list[int]", rows_R.tolist())],
                on_step=_drafts(streamer, length),
                **options,
            )
            place_BL = F.pad(there_BL, (0, max_new_tokens), value=True) & (counts_B == length)[:, None]
            sequences_BL[place_BL] = sampled.tokens_BL.flatten()
            calls_B[rows_R] = sampled.network_calls_B
        kept_B = torch.full_like(calls_B, max_new_tokens)
        if eos_token_id is not None:
            new_BN = sequences_BL[:, width:]
            ended_BN = (new_BN == eos_token_id).cumsum(dim=1) - (new_BN == eos_token_id).int() > 0
            kept_B = (~ended_BN).sum(dim=1)
            filler = eos_token_id if pad_token_id is None else pad_token_id
            sequences_BL[:, width:] = new_BN.masked_fill(ended_BN, filler)
        if streamer is not None:
            streamer.put(sequences_BL[:, width:].cpu())
            streamer.end()
        if not return_dict_in_generate:
            return sequences_BL
        return DiffusionOutput(sequences=sequences_BL, tokens_per_forward=kept_B / calls_B.clamp(min=1))


def _check_ids(input_ids: Tensor, rows: int) -> None:
    """Raise `UsageError` for what is no batch of tokens of an embedding of `rows` rows."""
    if input_ids.ndim != 2 or input_ids.dtype not in (torch.int64, torch.int32):
        raise UsageError(
            f"input_ids: {input_ids.dtype} of shape {tuple(input_ids.shape)}: give whole numbers of shape (rows, "
            "length)"
        )
    if input_ids.numel() and (input_ids.min() < 0 or input_ids.max() >= rows):
        strange = input_ids.max() if input_ids.max() >= rows else input_ids.min()
        raise UsageError(f"input_ids: hold the token {strange}, and the model has {rows}: use its own tokenizer")


def _drafts(streamer: Any, start: int) -> Callable[[Step], None] | None:
    """Gives the new tokens of each step to a streamer that takes drafts."""
    if streamer is None or not hasattr(streamer, "put_draft"):
        return None
    return lambda step: streamer.put_draft(step.tokens_BL[:, start:].cpu())
