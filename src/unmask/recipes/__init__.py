"""Recipes: functions that return the configuration of a run, from which the command line goes on.

`unmask train RECIPE ...` begins with one of them; any field can be overridden. A recipe of your own is a function and
one entry in `RECIPES`.
"""

from __future__ import annotations

from collections.abc import Callable

from unmask.config import RunConfig
from unmask.errors import unknown_name
from unmask.recipes.adapt import adapt
from unmask.recipes.pretrain import pretrain
from unmask.recipes.sft import sft

RECIPES: dict[str, Callable[[], RunConfig]] = {"pretrain": pretrain, "adapt": adapt, "sft": sft}
"""The recipes by name."""


def lookup(name: str) -> Callable[[], RunConfig]:
    """The recipe called `name`. Raises `UsageError` with the nearest name where there is none."""
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    return RECIPES[name]
