"""`evaluation.json` of a study: what its best models do on held-out text, and what they write.

    {
      "format": "unmask-evaluation-1",
      "seconds": 41.5,                                        how long it took, or null
      "splits": {"in-period": "addresses up to 1999 ...",     what each split is, in words; "in-period" and
                 "shifted": "addresses since 2000"},          "shifted" are compared with each other
      "temporal": [{"objective": "mdm", "run": "mdm-3.2e13-1.7M", "split": "in-period", "loss": 4.61,
                    "standard_error": 0.02, "bits_per_byte": 1.52, "bound": true, "tokens": 65536}, ...],
      "samples": [{"objective": "mdm", "run": "mdm-3.2e13-1.7M", "title": "Written from nothing", "kind": "generated",
                   "sampler": "confidence", "network_calls": 16, "seed": 0,
                   "tokens": [["Fellow", null], [" citizens", 3], ...]}, ...]
    }

`loss` is in nats per token; `bound` says whether it is an upper bound or exact. A sample's `kind` is "generated" or
"infilled". Its tokens are pairs of text and the step, from 0, at which the token was revealed; null for text that was
given. Whoever evaluates writes it with `Evaluation.write`; `unmask.report.page` shows it.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast

from unmask.config import from_dict
from unmask.errors import UnmaskError

FORMAT = "unmask-evaluation-1"
IN_PERIOD, SHIFTED = "in-period", "shifted"


@dataclass(frozen=True)
class HeldOut:
    """What one split of held-out text costs under one model."""

    objective: str
    run: str
    """Name of the run that made the model."""
    split: str
    """`IN_PERIOD`, `SHIFTED`, or another name."""
    loss: float
    """Nats per token."""
    standard_error: float | None
    bits_per_byte: float
    bound: bool
    tokens: int | None = None
    """Tokens evaluated."""


class SampleToken(NamedTuple):
    """One token of a sample."""

    text: str
    step: int | None
    """The step, from 0, at which it was revealed; None if it was given."""


@dataclass(frozen=True)
class Sample:
    """One text that a model wrote, wholly or in part."""

    objective: str
    run: str
    title: str
    kind: str
    """"generated" or "infilled"."""
    sampler: str
    network_calls: int
    seed: int
    tokens: tuple[SampleToken, ...]

    @property
    def steps(self) -> int:
        """Steps from the first reveal to the last; 0 if nothing was revealed."""
        return 1 + max((token.step for token in self.tokens if token.step is not None), default=-1)


@dataclass(frozen=True)
class Evaluation:
    """Everything that a report says beside the fits."""

    temporal: tuple[HeldOut, ...] = ()
    samples: tuple[Sample, ...] = ()
    splits: dict[str, str] = field(default_factory=dict[str, str])
    seconds: float | None = None

    def write(self, directory: Path) -> Path:
        """Write `evaluation.json` into a study directory and return its path."""
        path = directory / "evaluation.json"
        draft = path.with_suffix(".json.part")
        fields = {"format": FORMAT, **dataclasses.asdict(self)}
        draft.write_text(json.dumps(fields, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        draft.replace(path)
        return path

    @classmethod
    def read(cls, directory: Path) -> Evaluation | None:
        """The evaluation in a study directory, or None. Raises `UnmaskError` for one that is damaged."""
        path = directory / "evaluation.json"
        if not path.exists():
            return None
        remedy = "remove it, or evaluate again"
        try:
            fields = cast(dict[str, Any], json.loads(path.read_text(encoding="utf-8")))
            if fields.pop("format", None) != FORMAT:
                raise UnmaskError(f"{path}: its format is not {FORMAT!r}: {remedy}")
            temporal = [from_dict(HeldOut, row, f"{path}: temporal") for row in fields.pop("temporal", [])]
            samples = [
                from_dict(Sample, {**row, "tokens": tuple(SampleToken(*pair) for pair in row["tokens"])}, str(path))
                for row in fields.pop("samples", [])
            ]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            if isinstance(error, UnmaskError):
                raise
            raise UnmaskError(f"{path}: is damaged ({type(error).__name__}: {error}): {remedy}") from error
        return from_dict(cls, {**fields, "temporal": tuple(temporal), "samples": tuple(samples)}, str(path))
