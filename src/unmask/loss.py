"""The training loss from hidden states to a number, without the logits of all positions in memory.

`sum_n weight_n * (logsumexp(W h_n) - (W h_n)[target_n])` over the scored positions n, a chunk of them at a time. The
gradients are formed in the same pass, from the probabilities that the loss needs anyway, so a chunk's logits are
computed once and live in one buffer that all chunks share.

Shapes: N scored positions, C of them in a chunk, D width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK_LOGITS = 2**24
"""Logits in memory at a time on a CPU (64 MiB of float32); an accelerator gets more, to fill it."""
CHUNK_LOGITS_ACCELERATOR = 2**27


def weighted_cross_entropy(
    hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, weights_N: Tensor, *, chunk: int | None = None
) -> Tensor:
    """The scalar `sum(weights * cross_entropy(hidden @ head.T, targets))`, in float32, differentiable in both factors.

    `chunk` is the number of positions at a time; None chooses it. Under autocast the products run in its precision,
    the softmax and the sums in float32. It can be differentiated once.
    """
    if chunk is None:
        budget = CHUNK_LOGITS if hidden_ND.device.type == "cpu" else CHUNK_LOGITS_ACCELERATOR
        chunk = max(64, budget // head_VD.shape[0])
    device = hidden_ND.device.type
    if torch.is_autocast_enabled(device):
        precision = torch.get_autocast_dtype(device)
        hidden_ND, head_VD = hidden_ND.to(precision), head_VD.to(precision)
    with torch.autocast(device, enabled=False):
        return _WeightedCrossEntropy.apply(hidden_ND, head_VD, targets_N, weights_N.float(), chunk)  # type: ignore[no-any-return]


class _WeightedCrossEntropy(torch.autograd.Function):
    """Loss and both gradients in one pass over the chunks."""

    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, weights_N: Tensor, chunk: int
    ) -> Tensor:
        """The loss; keeps the gradients for `backward`, which only scales them."""
        count, vocab = len(hidden_ND), len(head_VD)
        wants_hidden, wants_head = ctx.needs_input_grad[:2]
        grad_hidden_ND = torch.empty_like(hidden_ND) if wants_hidden else None
        grad_head_VD = torch.zeros_like(head_VD, dtype=torch.float32) if wants_head else None
        loss = torch.zeros((), device=hidden_ND.device)
        buffer_CV = hidden_ND.new_empty(min(chunk, count), vocab)
        for start in range(0, count, chunk):
            hidden_CD = hidden_ND[start : start + chunk]
            target_C1 = targets_N[start : start + chunk, None]
            weight_C = weights_N[start : start + chunk]
            logits_CV = torch.mm(hidden_CD, head_VD.T, out=buffer_CV[: len(hidden_CD)])
            target_logit_C = logits_CV.gather(1, target_C1)[:, 0].float()
            best_logit_C = logits_CV.amax(1).float()
            probs_CV = _softmax(logits_CV)
            # log-sum-exp by way of the likeliest token, whose probability cannot underflow
            normaliser_C = best_logit_C - probs_CV.amax(1).log()
            loss += torch.dot(weight_C, normaliser_C - target_logit_C)
            if grad_hidden_ND is None and grad_head_VD is None:
                continue
            # d loss / d logits = weight * (probs - onehot(target)); the weight joins the narrow factor
            probs_CV.scatter_add_(1, target_C1, torch.full_like(target_C1, -1, dtype=probs_CV.dtype))
            probs_CV = probs_CV.to(hidden_CD.dtype)
            if grad_hidden_ND is not None:
                grad_CD = torch.mm(probs_CV, head_VD, out=grad_hidden_ND[start : start + chunk])
                grad_CD.mul_(weight_C[:, None])
            if grad_head_VD is not None:
                weighted_CD = hidden_CD * weight_C[:, None].to(hidden_CD.dtype)
                if probs_CV.dtype == torch.float32:
                    grad_head_VD.addmm_(probs_CV.T, weighted_CD)
                else:
                    grad_head_VD += probs_CV.T @ weighted_CD
        ctx.gradients = (grad_hidden_ND, grad_head_VD)
        ctx.head_dtype = head_VD.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        """The gradients kept by `forward`, scaled in place."""
        (grad_loss,) = grad_outputs
        grad_hidden_ND, grad_head_VD = ctx.gradients
        del ctx.gradients
        if grad_hidden_ND is not None:
            grad_hidden_ND.mul_(grad_loss)
        if grad_head_VD is not None:
            grad_head_VD = grad_head_VD.mul_(grad_loss).to(ctx.head_dtype)
        return grad_hidden_ND, grad_head_VD, None, None, None


def _softmax(logits_CV: Tensor) -> Tensor:
    """Probabilities in float32, in the logits' own place where they are float32 too."""
    if logits_CV.dtype == torch.float32:
        return torch.softmax(logits_CV, 1, out=logits_CV)
    return torch.softmax(logits_CV, 1, dtype=torch.float32)
