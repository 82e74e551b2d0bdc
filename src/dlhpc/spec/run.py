"""A whole run: what is trained, on what, how, and where the result goes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from dlhpc.spec.base import Name, NonNegativeInt, Spec
from dlhpc.spec.data import DataSpec, SyntheticSpec
from dlhpc.spec.distributed import DistributedSpec
from dlhpc.spec.model import MLPSpec, ModelSpec
from dlhpc.spec.optimizer import AdamWSpec, OptimizerSpec
from dlhpc.spec.registry import RegistrySpec
from dlhpc.spec.training import TrainingSpec

Backend = Literal["flax", "torch"]

MODEL_NAMES: dict[str, tuple[str, Backend]] = {
    "FlaxMLP": ("mlp", "flax"),
    "FlaxCNN": ("cnn", "flax"),
    "TorchDeepSpeedMLP": ("mlp", "torch"),
    "TorchDeepSpeedCNN": ("cnn", "torch"),
}
"""`model.name` in a file -> (model.architecture, backend): a file names both at once, a spec keeps them apart."""


class RunSpec(Spec):
    """One training run."""

    name: Name | None = None
    """Name of the run and of its model in the registry; `<source>-<architecture>` when absent."""

    seed: NonNegativeInt = 0
    """Of everything random: weights, order, augmentation, dropout."""

    backend: Backend = "flax"
    """Framework that trains: `flax` (JAX) or `torch` (PyTorch on DeepSpeed). In a file, `model.name` says it."""

    model: ModelSpec = MLPSpec()
    """Architecture and sizes."""

    optimizer: OptimizerSpec = AdamWSpec()
    """Update rule and its constants."""

    data: DataSpec = SyntheticSpec()
    """Source, split and preprocessing."""

    training: TrainingSpec = TrainingSpec()
    """Length, batch, learning rate, precision."""

    distributed: DistributedSpec = DistributedSpec()
    """Spread over processes."""

    registry: RegistrySpec = RegistrySpec()
    """Where the result goes."""

    runs_dir: Path = Path("runs")
    """Folder that receives one sub-folder per run: history, checkpoints, result."""

    @property
    def resolved_name(self) -> str:
        """The given name, or one made of the data's and the architecture's."""
        return self.name or f"{self.data.source.replace('_', '-')}-{self.model.architecture}"

    @property
    def model_name(self) -> str:
        """`FlaxMLP`, `TorchDeepSpeedCNN`, ...: the name that a file uses."""
        return next(name for name, pair in MODEL_NAMES.items() if pair == (self.model.architecture, self.backend))
