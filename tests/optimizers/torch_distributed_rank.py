r"""One of two processes that train under torch's DDP and FSDP2 with every rule, for test_torch_distributed.py.

RANK=0 WORLD_SIZE=2 LOCAL_RANK=0 MASTER_ADDR=127.0.0.1 MASTER_PORT=... \
        python -m tests.optimizers.torch_distributed_rank OUT
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from dlhpc.optimizers.torch_estimators import squared_gradient
from dlhpc.optimizers.torch_optimizers import build
from dlhpc.spec.optimizer import AdaBeliefSpec, AdamWSpec, AdanSpec, LionSpec, OptimizerSpec, SophiaSpec

SPECS: dict[str, OptimizerSpec] = {
    "adamw": AdamWSpec(),
    "lion": LionSpec(),
    "adan": AdanSpec(),
    "adabelief": AdaBeliefSpec(rectify=True),
    "sophia": SophiaSpec(interval=2),
}
WAYS = ("alone", "ddp", "fsdp")
STEPS, ROWS = 6, 12


def make_model() -> nn.Sequential:
    """Layers of odd sizes, so that two processes have unequal shards."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.LayerNorm(7), nn.Linear(7, 3)).double()


def prepared(way: str) -> nn.Module:
    """The model as it is, replicated, or sharded layer by layer."""
    model = make_model()
    if way == "ddp":
        return DistributedDataParallel(model)
    if way == "fsdp":
        mesh = dist.init_device_mesh("cpu", (2,))
        for layer in model:
            if any(True for _ in layer.parameters()):
                fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        parameters = list(model.parameters())
        assert all(isinstance(parameter, DTensor) for parameter in parameters)
        assert any(parameter.to_local().numel() < parameter.numel() for parameter in parameters)
    return model


def follow(spec: OptimizerSpec, way: str, rank: int, world_size: int) -> dict[str, Any]:
    """Weights and slots after some steps, the batch cut over the processes."""
    model = prepared(way)
    optimizer = build(model.parameters(), spec, lr=0.01)
    share = ROWS // world_size
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        inputs = torch.randn(ROWS, 5, dtype=torch.float64, generator=generator)
        labels = torch.randint(0, 3, (2, ROWS), generator=generator)
        mine = slice(rank * share, (rank + 1) * share)
        if optimizer.bound.curvature is not None and optimizer.bound.curvature.due(step):
            # Gauss-Newton-Bartlett, with labels that stand in for sampled ones: the averaged gradient is the mesh's.
            functional.cross_entropy(model(inputs[mine]), labels[1, mine]).backward()
            optimizer.set_hessian([squared_gradient(gradient_of(each), ROWS) for each in model.parameters()])
            optimizer.zero_grad()
        functional.cross_entropy(model(inputs[mine]), labels[0, mine]).backward()
        optimizer.step()
        optimizer.zero_grad()
    arrays = {}
    for name, parameter in model.named_parameters():
        tensors = {"param": parameter.detach()} | {
            slot: optimizer.state[parameter][slot] for slot in optimizer.bound.slots
        }
        arrays |= {f"{name.removeprefix('module.')}|{key}": whole(tensor) for key, tensor in tensors.items()}
    return arrays


def gradient_of(parameter: Tensor) -> Tensor:
    """Its gradient, which exists."""
    assert parameter.grad is not None
    return parameter.grad


def whole(tensor: Tensor) -> Any:
    """All of a tensor that may be sharded, on the host."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).numpy().copy()


def main(folder: Path) -> None:
    """Every rule in both ways."""
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    results = {
        f"{way}|{name}|{key}": array
        for way in WAYS[1:]
        for name, spec in SPECS.items()
        for key, array in follow(spec, way, rank, 2).items()
    }
    np.savez(folder / f"{rank}.npz", **results)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
