"""How initialisation, learning rates, weight decay and epsilon change with width and depth. No torch.

"standard" is the paper's: the same for all sizes but the init. "completep" follows Dey et al. (2025, arXiv 2505.01618,
table 1, alpha = 1), which joins muP over width (Yang et al., 2022) with a residual branch multiplied by 1 / depth, so
that the learning rate that is best for a small base size stays near the best for wider and deeper ones. With m_D the
width and m_L the depth over those of the base, their table as it stands here, for AdamW:

    parameters                       init std              learning rate    weight decay   epsilon
    embedding                        constant              1                1              1 / m_D
    qkv, gate and up                 1 / sqrt(m_D)         1 / m_D          m_D            1 / (m_D m_L)
    attention's out, mlp's down      1 / (sqrt(m_D) m_L)   1 / (m_D m_L)    m_D m_L        1 / m_D
    head                             1 / m_D               1 / m_D          m_D            1
    norms and biases of the blocks   constant              1                -              1 / (m_D m_L)
    last norm                        constant              1                -              1 / m_D

Their multipliers of the residual branches (1 / m_L) and of the logits (1 / m_D) are folded into the weights that they
multiply: with Adam a multiplier a of a weight is the same as an init and a learning rate times a, and decay and epsilon
over a. So the network computes what it always did, and a trained model has nothing that an export would have to carry.
Two things differ: the clipped norm is that of the folded gradients, and heads keep 1 / sqrt(head dimension), since in
the named sizes it is the number of heads that grows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from unmask import sizes
from unmask.config import ModelConfig, RunConfig
from unmask.errors import UsageError


@dataclass(frozen=True)
class Scale:
    """Factors over what is standard for the same parameter in the same network."""

    init: float = 1.0
    learning_rate: float = 1.0
    weight_decay: float = 1.0
    eps: float = 1.0


@dataclass(frozen=True)
class Parametrization:
    """The width and the depth of a network over those of the base; at 1 and 1 everything is standard."""

    width: float = 1.0
    depth: float = 1.0

    @classmethod
    def of(cls, run: RunConfig, config: ModelConfig) -> Parametrization:
        """What `run` asks for, for its network. Raises `UsageError` where that network cannot have it."""
        if run.parametrization == "standard":
            return STANDARD
        if config.tied_embeddings:
            raise UsageError("parametrization completep: embedding and head scale apart, so they cannot be tied")
        base = sizes.lookup(run.base_size)
        return cls(config.n_embd / base.n_embd, config.n_layer / base.n_layer)

    def scale(self, name: str) -> Scale:
        """The factors of the parameter `name` of a `Transformer`.

        The standard init is already 1 / sqrt(width) for all matrices, and 1 / depth for those that write into the
        residual stream.
        """
        width, depth = self.width, self.depth
        if name.endswith("embedding.weight"):
            return Scale(init=math.sqrt(width), eps=1 / width)
        if name.endswith("head.weight"):
            return Scale(init=1 / math.sqrt(width), learning_rate=1 / width, weight_decay=width)
        if name.endswith(("attention.out.weight", "mlp.down.weight")):
            return Scale(learning_rate=1 / (width * depth), weight_decay=width * depth, eps=1 / width)
        if name.endswith(("qkv.weight", "gate_up.weight")):
            return Scale(learning_rate=1 / width, weight_decay=width, eps=1 / (width * depth))
        return Scale(eps=1 / (width * depth) if "blocks" in name else 1 / width)


STANDARD = Parametrization()
