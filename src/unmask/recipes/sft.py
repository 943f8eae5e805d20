"""Supervised fine-tuning on conversations, with the paper's settings (Nie et al., 2025, section 5)."""

from __future__ import annotations

from unmask.sft_config import SftConfig


def sft() -> SftConfig:
    """A model (--model) fine-tuned on conversations (--data FILE...): masked diffusion or autoregressive."""
    return SftConfig(size="")
