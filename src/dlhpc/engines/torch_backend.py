"""What PyTorch/DeepSpeed offers to the rest of the system."""

from __future__ import annotations

import torch

from dlhpc.engines.torch_learner import TorchLearner
from dlhpc.engines.torch_network import local_device
from dlhpc.engines.torch_predictor import TorchPredictor
from dlhpc.ports import Backend, Device, Exporter, NamedArrays, Preprocessing
from dlhpc.spec.model import ModelSpec
from dlhpc.spec.precision import ComputePrecision
from dlhpc.spec.run import RunSpec


class TorchBackend:
    """Learners on a DeepSpeed engine, predictors and exporters on plain PyTorch."""

    name = "torch"

    def device(self) -> Device:
        """This process's accelerator, or the CPU with the threads that PyTorch was given."""
        device = local_device()
        kind = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        return Device(kind, torch.get_num_threads())

    def learner(self, run: RunSpec) -> TorchLearner:
        """A learner for a resolved run, in the processes that the launcher made (one when there is none)."""
        return TorchLearner(run)

    def predictor(
        self,
        model: ModelSpec,
        weights: NamedArrays,
        preprocessing: Preprocessing,
        precision: ComputePrecision = "float32",
    ) -> TorchPredictor:
        """A predictor over canonical weights. Raises IntegrityError when they do not fit the model's table."""
        return TorchPredictor(model, weights, preprocessing, precision)

    def exporter(self) -> Exporter:
        """What makes programs of models."""
        # The exporters' own imports take a second that no server has to wait for.
        from dlhpc.engines.torch_export import TorchExporter

        return TorchExporter()


BACKEND: Backend = TorchBackend()
