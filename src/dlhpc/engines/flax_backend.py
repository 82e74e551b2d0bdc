"""What JAX/Flax offers to the rest of the system."""

from __future__ import annotations

import jax

from dlhpc.engines.flax_learner import FlaxLearner
from dlhpc.engines.flax_predictor import FlaxPredictor
from dlhpc.monitoring.machine import usable_cores
from dlhpc.ports import Backend, Device, Exporter, NamedArrays, Preprocessing
from dlhpc.spec.model import ModelSpec
from dlhpc.spec.precision import ComputePrecision
from dlhpc.spec.run import RunSpec


class FlaxBackend:
    """Learners, predictors and exporters on JAX."""

    name = "flax"

    def device(self) -> Device:
        """JAX's default device; on a CPU XLA uses every core that the process may use."""
        return Device(jax.devices()[0].device_kind, usable_cores())

    def learner(self, run: RunSpec) -> FlaxLearner:
        """A learner for a resolved run, on JAX's default device."""
        return FlaxLearner(run)

    def predictor(
        self,
        model: ModelSpec,
        weights: NamedArrays,
        preprocessing: Preprocessing,
        precision: ComputePrecision = "float32",
    ) -> FlaxPredictor:
        """A predictor over canonical weights. Raises IntegrityError when they do not fit the model's table."""
        return FlaxPredictor(model, weights, preprocessing, precision)

    def exporter(self) -> Exporter:
        """What makes programs of models."""
        # The exporters' own imports take a second that no server has to wait for.
        from dlhpc.engines.flax_export import FlaxExporter

        return FlaxExporter()


BACKEND: Backend = FlaxBackend()
