"""The processes of a run: who is here, on which device, and how the network is sharded over them.

One process is the same loop without sharding. Under `torchrun` every process holds a slice of each global batch and,
through FSDP2 `fully_shard`, a slice of each parameter.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from unmask.errors import UnmaskError, UsageError
from unmask.objectives import Rows

T = TypeVar("T")
E = TypeVar("E", bound=Exception)

COMPILE_BACKEND: Any = "inductor"
"""What compiles; see `torch.compile`."""


@dataclass(frozen=True)
class World:
    """This process among all of the run."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes metrics and reports."""
        return self.rank == 0

    def rows(self, batch_size: int) -> Rows:
        """The rows of the global batch that are this process's; raises `UsageError` if they cannot be dealt evenly."""
        if batch_size % self.size:
            raise UsageError(f"batch_size {batch_size} does not divide by the {self.size} processes: change either")
        return Rows(self.rank * (batch_size // self.size), batch_size)

    def sum(self, values: Tensor) -> Tensor:
        """The sum of `values` over all processes."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Whether `flag` is set on any process."""
        if self.size == 1:
            return flag
        return bool(self.sum(torch.tensor(float(flag), device=self.device)).item() > 0)

    def on_main(self, work: Callable[[], T]) -> T:
        """What `work()` returns on the main process, which alone does it; what it raises there is raised everywhere."""
        if self.size == 1:
            return work()
        outcome: list[Any] = [None, None]
        if self.is_main:
            try:
                outcome[0] = work()
            except (UnmaskError, OSError) as error:
                outcome[1] = error
        dist.broadcast_object_list(outcome, device=torch.device("cpu"))
        if outcome[1] is not None:
            raise self.told_once(outcome[1])
        return outcome[0]

    def gather(self, value: T) -> list[T]:
        """The `value` of every process, in their order."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def told_once(self, error: E) -> E:
        """`error`, which every process raises and the main one alone reports."""
        if isinstance(error, UnmaskError) and not self.is_main:
            error.told_elsewhere = True
        return error

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            dist.barrier()


def join() -> World:
    """Join the processes that `torchrun` started, or be the only one.

    They stay together until they exit: one run after another may use them.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if size > 1 and not dist.is_initialized():
        # gloo beside nccl: messages about checkpoints and files go over the CPU
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
        atexit.register(dist.destroy_process_group)
    return World(rank, size, device)


def distribute(model: nn.Module, world: World, *, bfloat16: bool) -> nn.Module:
    """Shard `model` in place over the processes, block by block; nothing to do for one process."""
    if world.size == 1:
        return model
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(world.device.type, (world.size,), mesh_dim_names=("shard",))
    # gather the weights in bfloat16, reduce the gradients in float32
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32) if bfloat16 else None
    options: dict[str, Any] = {"mesh": mesh} | ({"mp_policy": policy} if policy else {})
    for block in cast(nn.ModuleList, model.blocks):
        fully_shard(block, **options)
    fully_shard(model, **options)
    register_fsdp_forward_method(model, "loss")
    return model


def compile_blocks(model: nn.Module, device: torch.device) -> str | None:
    """Compile the blocks of `model` in place; where that can't be done on this machine, return why.

    The last block of a masked network is left as it is: it works on the scored positions alone, of which each step has
    another number. For short sequences torch compiles once more, and then for any length.
    """
    try:
        torch.compile(torch.neg, backend=COMPILE_BACKEND)(torch.ones(8, device=device))
    except Exception as error:  # whatever a compiler that is missing or broken does
        inner = getattr(error, "inner_exception", error)
        reason = str(inner).strip().splitlines()
        return f"torch.compile does not work here ({type(inner).__name__}: {reason[0] if reason else 'no reason'})"
    blocks = list(cast(nn.ModuleList, model.blocks))
    for block in blocks if cast(Any, model.config).causal else blocks[:-1]:
        block.compile(backend=COMPILE_BACKEND)
    return None


def set_gradient_sync(model: nn.Module, sync: bool) -> None:
    """Reduce gradients over the processes in the next backward pass, or keep adding them up locally."""
    setter = getattr(model, "set_requires_gradient_sync", None)
    if setter is not None:
        setter(sync)


def bfloat16_wanted(precision: str, device: torch.device) -> bool:
    """Whether `precision` means bfloat16 autocast on `device`: by default on a GPU only."""
    return precision == "bfloat16" or (precision == "auto" and device.type == "cuda")
