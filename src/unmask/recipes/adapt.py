"""An autoregressive model made into a masked diffusion model (Gong et al., 2025; Ye et al., 2025)."""

from __future__ import annotations

from unmask.config import RunConfig


def adapt() -> RunConfig:
    """An autoregressive model, of ours or from elsewhere (--from), made into a masked diffusion model.

    Prepare the data with its tokenizer: `unmask prepare TEXT --out corpus --tokenizer MODEL`.
    """
    return RunConfig(size="", learning_rate=1e-4)
