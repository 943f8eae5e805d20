"""Random generators derived from (seed, purpose, index), the only source of randomness in unmask.

Nothing reads or sets the global generators, so a result depends on its seed and on nothing that ran before
it, and a row's noise does not depend on which rows share its batch.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derived_seed(seed: int, purpose: str, index: int = 0) -> int:
    """A 63-bit seed that is a pure function of its arguments, the same on every machine."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(seed: int, purpose: str, index: int = 0, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh `torch.Generator` for one `purpose` ("corruption", "sample", ...) and one `index` of it."""
    import torch  # here, so that the seeds alone cost no import of torch

    return torch.Generator(device).manual_seed(derived_seed(seed, purpose, index))
