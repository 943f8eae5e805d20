"""unmask: train, scale, evaluate and sample masked diffusion language models, beside autoregressive ones.

The public names; each is imported when it is first used, so `import unmask` alone costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from unmask.hf import registration

if TYPE_CHECKING:
    from unmask import config, guidance, likelihood, objectives, samplers, scaling, seeding, sizes
    from unmask.errors import UnmaskError, UsageError
    from unmask.language_model import Generation, LanguageModel, load
    from unmask.likelihood import Estimate

__all__ = [
    "Estimate",
    "Generation",
    "LanguageModel",
    "UnmaskError",
    "UsageError",
    "config",
    "guidance",
    "likelihood",
    "load",
    "objectives",
    "samplers",
    "scaling",
    "seeding",
    "sizes",
]

_HOME = {
    "Estimate": "likelihood",
    "Generation": "language_model",
    "LanguageModel": "language_model",
    "UnmaskError": "errors",
    "UsageError": "errors",
    "load": "language_model",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    return importlib.import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


registration.watch()
