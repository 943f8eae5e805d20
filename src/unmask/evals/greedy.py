"""Greedy answers of a model to many prompts, in pieces of similar length that are kept as they are finished."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from unmask.evals.finished import Finished, key_of
from unmask.language_model import LanguageModel
from unmask.likelihood import Settings, decoding

Tokens = tuple[int, ...]
PIECE = 64
"""Texts that are kept together."""


@dataclass(frozen=True)
class GreedyAnswers:
    """Of a model, by the guidance and the batch size of `settings`."""

    lm: LanguageModel
    settings: Settings
    finished: Finished

    def of(
        self, prompts: Sequence[Tokens], lengths: Sequence[int], expected: Sequence[Tokens] | None = None
    ) -> list[decoding.Decoded]:
        """As `decoding.greedy`, of a network with masks."""

        def compute(piece: Sequence[int]) -> list[Any]:
            found = decoding.greedy(
                self.lm.logits_fn,
                [prompts[i] for i in piece],
                [lengths[i] for i in piece],
                mask_id=self.lm.mask_id,
                expected=None if expected is None else [expected[i] for i in piece],
                guidance=self.settings.guidance,
                device=self.lm.device,
                batch_size=self.settings.batch_size,
            )
            return [astuple(each) for each in found]

        asked = [(prompts[i], lengths[i], expected[i] if expected else None) for i in range(len(prompts))]
        found = self._in_pieces("greedy", asked, [len(each[0]) + each[1] for each in asked], compute)
        return [decoding.Decoded(tuple(tokens), *others) for tokens, *others in found]

    def causal(self, pairs: Sequence[tuple[Tokens, Tokens]]) -> list[bool]:
        """As `decoding.are_likeliest`, of an ARM."""

        def compute(piece: Sequence[int]) -> list[bool]:
            return decoding.are_likeliest(
                self.lm.logits_fn,
                [pairs[i] for i in piece],
                device=self.lm.device,
                batch_size=self.settings.batch_size,
            )

        return self._in_pieces("causal greedy", pairs, [sum(map(len, pair)) for pair in pairs], compute)

    def _in_pieces(
        self, kind: str, asked: Sequence[Any], totals: Sequence[int], compute: Callable[[Sequence[int]], list[Any]]
    ) -> list[Any]:
        """What `compute` gives for some of the indices at a time, sorted by their total lengths."""
        order = sorted(range(len(asked)), key=lambda index: totals[index])
        found: dict[int, Any] = {}
        for start in range(0, len(order), PIECE):
            piece = order[start : start + PIECE]
            key = key_of(kind, *[asked[i] for i in piece])
            found |= dict(zip(piece, self.finished.once(key, lambda piece=piece: compute(piece)), strict=True))
        return [found[index] for index in range(len(asked))]
