"""`import unmask` makes Transformers' `Auto*` classes know our models, at no cost to who uses neither of them.

Transformers takes seconds to import, so nothing of it is imported here: the two modules that hold its tables are
watched, and ours are entered as soon as somebody imports them. If that happened before, they are entered at once.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from types import ModuleType

TABLES = {
    "transformers.models.auto.configuration_auto": "unmask.hf.config",
    "transformers.models.auto.modeling_auto": "unmask.hf.models",
}
"""The modules that are watched, and ours whose `register` enters what it has into each."""


def watch() -> None:
    """Enter our models into Transformers' tables, now or when they are imported."""
    for name, ours in TABLES.items():
        if name in sys.modules:
            _enter(ours)
    waiting = {name for name in TABLES if name not in sys.modules}
    if waiting and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder(waiting))


def _enter(module: str) -> None:
    importlib.import_module(module).register()


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the watched modules as Python would, and acts after they are executed."""

    def __init__(self, waiting: set[str]) -> None:
        self._waiting = waiting

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self._waiting:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return spec
        self._waiting.discard(fullname)
        if not self._waiting:
            sys.meta_path.remove(self)
        spec.loader = _Loader(spec.loader, lambda: _enter(TABLES[fullname]))
        return spec


class _Loader(importlib.abc.Loader):
    """Another loader, and an action after it."""

    def __init__(self, loader: importlib.abc.Loader, then: Callable[[], None]) -> None:
        self._loader = loader
        self._then = then

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._then()
