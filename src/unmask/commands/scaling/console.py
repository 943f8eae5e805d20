"""The console that tables are printed on."""

from __future__ import annotations

from rich.console import Console

WIDTH = 116
"""Columns that the widest table takes: a narrower terminal wraps its lines instead of losing figures."""


def wide_console() -> Console:
    """A console wide enough for the tables."""
    console = Console(highlight=False, soft_wrap=True)
    return Console(highlight=False, soft_wrap=True, width=max(console.width, WIDTH))
