"""Errors that a person is meant to read: what was wrong, its value, and the remedy, in one line.

`unmask` prints them without a traceback and exits with their `exit_status` (2 for a usage error, 1 for a
failure). Both are `ValueError`s, so that library users need to know nothing of them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UnmaskError(ValueError):
    """A failure with a cause that the reader can act on, such as a damaged file."""

    exit_status = 1
    told_elsewhere = False
    """Whether another process of the same run reports this very error."""


class UsageError(UnmaskError):
    """A wrong option or argument."""

    exit_status = 2


def problems_error(subject: str, problems: Iterable[str]) -> UsageError:
    """One `UsageError` for all `problems` found in `subject`, so that they are mended in one go."""
    return UsageError(f"{subject}: " + "; ".join(problems))


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """A `UsageError` for a `name` that is not among the `known` ones; suggests the nearest."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return UsageError(f"unknown {kind} {name!r}: {hint}known: {', '.join(names)}")
