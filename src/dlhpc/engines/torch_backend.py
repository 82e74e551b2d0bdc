"""What PyTorch/DeepSpeed offers to the rest of the system."""

from __future__ import annotations

from dlhpc.engines.torch_learner import TorchLearner
from dlhpc.engines.torch_predictor import TorchPredictor
from dlhpc.ports import Backend, NamedArrays, Preprocessing
from dlhpc.spec.model import ModelSpec
from dlhpc.spec.run import RunSpec


class TorchBackend:
    """Learners on a DeepSpeed engine, predictors on plain PyTorch."""

    name = "torch"

    def learner(self, run: RunSpec) -> TorchLearner:
        """A learner for a resolved run, in the processes that the launcher made (one when there is none)."""
        return TorchLearner(run)

    def predictor(self, model: ModelSpec, weights: NamedArrays, preprocessing: Preprocessing) -> TorchPredictor:
        """A predictor over canonical weights. Raises IntegrityError when they do not fit the model's table."""
        return TorchPredictor(model, weights, preprocessing)


BACKEND: Backend = TorchBackend()
