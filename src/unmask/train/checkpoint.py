"""Checkpoints of the training state through torch's distributed checkpoint (DCP).

A checkpoint is a directory `step-00000100/`, written under a temporary name and renamed when it is whole, with the
size and SHA-256 of each of its files in `files.json`. Any number of processes can load what any other number saved.
The state is the weights that are trained, AdamW's moments and the seconds spent; everything random derives from the
step. Frozen weights are those that the run started from.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load  # pyright: ignore[reportUnknownVariableType]
from torch.distributed.checkpoint.state_dict_saver import (  # pyright: ignore[reportUnknownVariableType]
    async_save,  # pyright: ignore[reportUnknownVariableType]
    save,  # pyright: ignore[reportUnknownVariableType]
)

from unmask.data.digests import sync_directory, write_atomically
from unmask.errors import UnmaskError
from unmask.train.parallel import World

warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # one process is what was asked for

FILES, METADATA = "files.json", ".metadata"
Files = dict[str, tuple[int, str]]
"""Name to bytes and SHA-256."""


@dataclass(frozen=True)
class Restored:
    """What `Checkpointer.restore` found."""

    step: int
    """Steps done; 0 where there is no checkpoint."""
    seconds: float = 0.0
    """Training time up to there."""
    warnings: tuple[str, ...] = ()
    """One line for each damaged checkpoint that was passed over."""


class Checkpointer:
    """Saves to and restores from one run's `checkpoints/` directory."""

    def __init__(self, directory: Path, *, keep: int, asynchronous: bool, world: World) -> None:
        self.directory = directory
        self._keep = keep
        self._asynchronous = asynchronous
        self._world = world
        self._pending: tuple[int, Future[Files]] | None = None
        self._behind = ThreadPoolExecutor(1, "checkpoint")
        # a group of its own, so that a save in the background never meets the training's messages
        separate = asynchronous and world.size > 1
        self._group = cast("dist.ProcessGroup", dist.new_group(backend="gloo")) if separate else None
        world.on_main(self._clean)

    def steps(self) -> list[int]:
        """Steps of the checkpoints that are there, oldest first."""
        return sorted(int(path.name.removeprefix("step-")) for path in self.directory.glob("step-*"))

    def path(self, step: int) -> Path:
        """Where the checkpoint of `step` is or will be."""
        return self.directory / f"step-{step:08d}"

    def newest(self, before: int | None = None) -> str:
        """The newest checkpoint, or the newest of a step before that one, in words for a message."""
        steps = [step for step in self.steps() if before is None or step < before]
        return str(self.path(steps[-1])) if steps else "none"

    def save(self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, *, seconds: float = 0.0) -> None:
        """Save the state after `step` steps; an asynchronous save goes on behind the next steps (see `poll`).

        Raises `UnmaskError` if the checkpoint cannot be written; earlier ones are untouched.
        """
        self.wait()
        state = _state(model, optimizer, seconds)
        partial, alone = self._partial(step), self._world.size == 1
        if self._asynchronous:
            saving = cast(
                "Future[Any]", async_save(state, checkpoint_id=partial, no_dist=alone, process_group=self._group)
            )
            self._pending = (step, self._behind.submit(lambda: self._own_files(partial, saving.result())))
            return
        try:
            save(state, checkpoint_id=partial, no_dist=alone)
            files = self._own_files(partial)
        except (OSError, CheckpointException) as error:
            raise self._failed(step, error) from error
        self._seal(step, files)

    def poll(self) -> None:
        """Give an asynchronous save that is over its name, so that a later kill does not cost it.

        Raises `UnmaskError` if it failed.
        """
        if self._pending is not None and not self._world.any(not self._pending[1].done()):
            self.wait()

    def wait(self) -> None:
        """Wait until no save is under way. Raises `UnmaskError` if it failed."""
        if self._pending is None:
            return
        (step, saving), self._pending = self._pending, None
        try:
            files = saving.result()
        except (OSError, CheckpointException) as error:
            raise self._failed(step, error) from error
        self._seal(step, files)

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Restored:
        """Load the newest whole checkpoint, if there is one. A damaged one is renamed and passed over.

        Raises `UnmaskError` if all are damaged, or the newest whole one is not of this network.
        """
        step, passed_over = self._world.on_main(self._newest_whole)
        if not step:
            return Restored(0)
        state = _state(model, optimizer, 0.0)
        try:
            load(state, checkpoint_id=self.path(step), no_dist=self._world.size == 1)
        except (OSError, CheckpointException) as error:
            raise self._world.told_once(
                UnmaskError(f"{self.path(step)}: cannot be loaded ({_cause(error)}): delete it to use the one before")
            ) from error
        set_state_dict(
            model,
            optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
            options=_options(model),
        )
        return Restored(step, state["seconds"], tuple(passed_over))

    def _newest_whole(self) -> tuple[int, list[str]]:
        """The step of the newest whole checkpoint, 0 if there is none, and what to say of the damaged ones."""
        damaged: dict[Path, str] = {}
        for step in reversed(self.steps()):
            problem = damage(self.path(step))
            if problem is None:
                passed_over: list[str] = []
                for path, reason in damaged.items():
                    aside = path.with_name(f"damaged-{path.name}")
                    shutil.rmtree(aside, ignore_errors=True)
                    path.rename(aside)
                    passed_over.append(
                        f"checkpoint {path} is damaged ({reason}) and now called {aside.name}: "
                        f"going on from {self.path(step).name}"
                    )
                return step, passed_over
            damaged[self.path(step)] = problem
        if damaged:
            told = "; ".join(f"{path.name}: {reason}" for path, reason in damaged.items())
            raise UnmaskError(
                f"{self.directory}: every checkpoint is damaged ({told}): restore one from a copy, "
                "or delete them to start from the beginning"
            )
        return 0, []

    def _partial(self, step: int) -> Path:
        return self.directory / f"partial-{step:08d}"

    def _clean(self) -> None:
        """Make the directory, without what a killed process left half-written."""
        self.directory.mkdir(parents=True, exist_ok=True)
        for partial in self.directory.glob("partial-*"):
            shutil.rmtree(partial, ignore_errors=True)

    def _own_files(self, partial: Path, _: object = None) -> Files:
        """Size and SHA-256 of what this process wrote."""
        mine = partial.glob(f"__{self._world.rank}_*")
        shared = [partial / METADATA] if self._world.is_main else []
        return {path.name: (path.stat().st_size, _sha256(path)) for path in [*sorted(mine), *shared]}

    def _seal(self, step: int, own_files: Files) -> None:
        """Write down the files of a finished save, give it its name, and drop the oldest beyond `keep`."""
        partial, final = self._partial(step), self.path(step)
        everybodys = self._world.gather(own_files)

        def seal() -> None:
            files = {name: fingerprint for files in everybodys for name, fingerprint in files.items()}
            listed = {name: {"bytes": size, "sha256": digest} for name, (size, digest) in files.items()}
            write_atomically(partial / FILES, json.dumps(listed, indent=1) + "\n")
            shutil.rmtree(final, ignore_errors=True)  # of steps that are made again
            partial.rename(final)
            sync_directory(self.directory)
            for old in self.steps()[: -self._keep]:
                shutil.rmtree(self.path(old), ignore_errors=True)

        try:
            self._world.on_main(seal)
        except OSError as error:
            raise self._failed(step, error) from error

    def _failed(self, step: int, error: OSError | CheckpointException) -> UnmaskError:
        if self._world.is_main:
            shutil.rmtree(self._partial(step), ignore_errors=True)  # and make room again
        return self._world.told_once(
            UnmaskError(
                f"{self.path(step)}: the checkpoint could not be written ({_cause(error)}); "
                f"the last good one: {self.newest()}: make room and run again with --resume"
            )
        )


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint directory, or None if all its files are as they were written."""
    try:
        listed = json.loads((checkpoint / FILES).read_text(encoding="utf-8"))
        sealed = {str(name): (int(each["bytes"]), str(each["sha256"])) for name, each in listed.items()}
    except FileNotFoundError:
        return f"{FILES} is missing"
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        return f"{FILES} cannot be read ({type(error).__name__}: {error})"
    for name, (size, digest) in sealed.items():
        path = checkpoint / name
        if not path.exists():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} of {size} bytes"
        if _sha256(path) != digest:
            return f"{name} was altered"
    return None


def _state(model: nn.Module, optimizer: torch.optim.Optimizer, seconds: float) -> dict[str, Any]:
    model_state, optimizer_state = get_state_dict(model, optimizer, options=_options(model))
    return {"model": model_state, "optimizer": optimizer_state, "seconds": seconds}


def _options(model: nn.Module) -> StateDictOptions:
    """Of a network with frozen weights the others alone."""
    frozen = any(not parameter.requires_grad for parameter in model.parameters())
    return StateDictOptions(ignore_frozen_params=frozen, strict=not frozen)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _cause(error: OSError | CheckpointException) -> str:
    """What went wrong, on whichever process, in one line: the system's own word for it where there is one."""
    cause: BaseException = error
    if isinstance(error, CheckpointException) and error.failures:
        cause = next(iter(error.failures.values()))[0]
    behind: BaseException | None = cause
    while behind is not None:  # torch's writer of files complains of the consequences
        if isinstance(behind, OSError) and behind.strerror:
            return behind.strerror
        behind = behind.__cause__ or behind.__context__
    told = str(cause).strip().splitlines()
    return f"{type(cause).__name__}: {told[0] if told else 'no message'}"
