"""How numbers are written for people, in figures, tables and sentences."""

from __future__ import annotations

import math

LETTERS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K"))


def count(value: float) -> str:
    """A count of parameters or tokens in three figures: 33.3K, 1.72M, 12.5B."""
    for size, letter in LETTERS:
        if value >= size * 0.9995:
            return f"{_digits(value / size, 3)}{letter}"
    return f"{value:.0f}"


def round_count(value: float) -> str:
    """A round count, as on an axis: 30K, 1M."""
    for size, letter in LETTERS:
        if value >= size * 0.9995:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def three_figures(value: float) -> str:
    """Three significant figures without an exponent: 0.00123, 14.6, 163; past a million as a count."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}".replace("inf", "∞")
    return count(value) if abs(value) >= 1e6 else _digits(value, 3)


def mantissa_exponent(value: float) -> tuple[str, int]:
    """The two parts of 3.2 × 10^13; the first is "1" for a power of ten."""
    exponent = math.floor(math.log10(value) + 1e-9)
    return f"{value / 10.0**exponent:.2g}", exponent


def signed(value: float, decimals: int) -> str:
    """A fixed number of decimals with a real minus sign."""
    return f"{value:.{decimals}f}".replace("-", "−")


def duration(seconds: float) -> str:
    """A duration: 42 s, 7 min 5 s, 3 h 20 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes % 60 else f"{minutes // 60} h"


def _digits(value: float, figures: int) -> str:
    return f"{value:.{max(0, figures - 1 - math.floor(math.log10(abs(value)) + 1e-12))}f}"
