"""Samples as text in which each token is shaded by the step at which it was revealed."""

from __future__ import annotations

from collections.abc import Sequence

from unmask.report.evaluation import Sample, SampleToken
from unmask.report.markup import name_of, paragraph, text

SHADES = 8
"""Shades from the first step to the last, as classes `s0` to `s7` in the style sheet."""

LEGEND = (
    '<p class="legend"><span class="ramp">'
    + "".join(f'<i class="s{shade}"></i>' for shade in range(SHADES))
    + '</span> revealed first to last <span class="given">given text</span></p>'
)


def sample_figures(samples: Sequence[Sample]) -> list[str]:
    """A legend, and each sample as a figure; nothing if there are none."""
    if not samples:
        return []
    words = (
        "A masked diffusion model starts from masks and reveals tokens in any order; the shade of each token is the "
        "step at which it appeared. An autoregressive model writes from left to right."
    )
    return [paragraph(words), LEGEND, *(_figure(sample) for sample in samples)]


def shade(step: int, steps: int) -> int:
    """The shade of a token that was revealed at `step`, from 0, of `steps`."""
    return min(SHADES - 1, step * SHADES // max(steps, 1))


def _figure(sample: Sample) -> str:
    steps = sample.steps
    calls = f"{sample.network_calls} network call{'' if sample.network_calls == 1 else 's'}"
    about = f"{name_of(sample.objective)} {text(sample.run)} · {text(sample.sampler)} · {calls} · seed {sample.seed}"
    tokens = "".join(_token(token, steps) for token in sample.tokens)
    return (
        f'<figure class="sample {text(sample.kind)}">\n<h3>{text(sample.title)}</h3>\n'
        f"<blockquote>{tokens}</blockquote>\n<figcaption>{about}</figcaption>\n</figure>"
    )


def _token(token: SampleToken, steps: int) -> str:
    if token.step is None:
        return f'<span class="given">{text(token.text)}</span>'
    title = f"step {token.step + 1} of {steps}"
    return f'<span class="s{shade(token.step, steps)}" title="{title}">{text(token.text)}</span>'
