"""The processes that train together: those of the launcher (`deepspeed`, torchrun), or this one alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from dlhpc.errors import UsageError


@dataclass(frozen=True)
class Launch:
    """What the launcher says about this process."""

    rank: int
    world_size: int
    local_rank: int


def read_launch(environ: Mapping[str, str]) -> Launch:
    """RANK, WORLD_SIZE and LOCAL_RANK; one process when there is no launcher. UsageError when they make no sense."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    if environ.get("WORLD_SIZE", "1") == "1":
        return Launch(0, 1, int(environ.get("LOCAL_RANK", "0")))
    values = [environ.get(name, "") for name in names]
    if all(value.isdigit() for value in values):
        launch = Launch(*map(int, values))
        if launch.rank < launch.world_size:
            return launch
    shown = ", ".join(f"{name}={environ.get(name, '(absent)')}" for name in names)
    raise UsageError(
        f"the launcher's variables are {shown}: expected a number in each, RANK below WORLD_SIZE; "
        "start with `deepspeed`, or remove them to train in one process"
    )


class _Group:
    """The process group's users, and what was made for them: the last one out undoes it."""

    users = 0
    made_here = False
    local_rank_set_here = False
    store: Any = None
    """Where the launcher's processes meet, kept for life: a second store on its port would meet the first one's
    late-comers."""
    generation = 0
    """How often they met; each time under its own prefix."""


def join(launch: Launch, device: torch.device) -> None:
    """Enter the process group, making it when there is none. Alone, it takes no port, no file and no MPI."""
    if not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        store = _meeting_place(launch)
        dist.init_process_group(backend, store=store, rank=launch.rank, world_size=launch.world_size)
        _Group.made_here = True
    if "LOCAL_RANK" not in os.environ:  # DeepSpeed insists on it
        os.environ["LOCAL_RANK"] = str(launch.local_rank)
        _Group.local_rank_set_here = True
    _Group.users += 1


def _meeting_place(launch: Launch) -> Any:
    if launch.world_size == 1:
        return dist.HashStore()  # type: ignore[attr-defined]
    if _Group.store is None:
        _Group.store = next(iter(dist.rendezvous("env://", launch.rank, launch.world_size)))[0]  # type: ignore[attr-defined]
    _Group.generation += 1
    return dist.PrefixStore(f"dlhpc-{_Group.generation}", _Group.store)  # type: ignore[attr-defined]


def leave() -> None:
    """Leave the process group; the last user destroys one that was made here."""
    _Group.users -= 1
    if _Group.users:
        return
    if _Group.local_rank_set_here:
        _Group.local_rank_set_here = False
        del os.environ["LOCAL_RANK"]
    if _Group.made_here:
        _Group.made_here = False
        from deepspeed import comm

        # Through DeepSpeed, which keeps references to the group and its parts.
        comm.destroy_process_group()


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum over all processes, in place."""
    dist.all_reduce(values, op=dist.ReduceOp.SUM)
    return values


def greatest(value: int, device: torch.device) -> int:
    """The greatest value that any process passes."""
    tensor = torch.tensor(value, dtype=torch.int64, device=device)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return int(tensor)
