"""Pretraining from scratch, with the paper's optimizer settings (Nie et al., 2025, appendix)."""

from __future__ import annotations

from unmask.config import RunConfig


def pretrain() -> RunConfig:
    """A masked diffusion model from scratch; `--objective arm` makes it an autoregressive one."""
    return RunConfig()
