"""Programs of Flax models: StableHLO by jax.export, and ONNX."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import export

from dlhpc.engines.flax_network import forward_function, numbers
from dlhpc.engines.flax_onnx import onnx_bytes
from dlhpc.engines.onnx_graph import BATCH, INPUT, OPSET, OUTPUT
from dlhpc.engines.onnx_runtime import OnnxPredictor
from dlhpc.errors import UsageError
from dlhpc.ports import Exported, ExportFormat, NamedArrays, Predictor, Preprocessing
from dlhpc.spec.model import ModelSpec

PLATFORMS: Final = ("cpu", "cuda", "rocm", "tpu")
"""What a StableHLO file runs on."""
_CONFIG = threading.Lock()


class FlaxExporter:
    """Writes and runs programs of Flax models."""

    formats: tuple[ExportFormat, ...] = ("onnx", "stablehlo")

    def packages(self, form: ExportFormat) -> tuple[str, ...]:
        """What writes and runs a format, by the names under which they are installed. UsageError for another format."""
        match form:
            case "onnx":
                return ("jax", "jaxlib", "flax", "onnx", "onnxruntime")
            case "stablehlo":
                return ("jax", "jaxlib", "flax")
            case _:
                raise UsageError(f"flax writes {' and '.join(self.formats)}, not {form}")

    def export(
        self, form: ExportFormat, model: ModelSpec, weights: NamedArrays, preprocessing: Preprocessing
    ) -> Exported:
        """The program of canonical weights. Raises MissingExtraError where a format's library is not installed."""
        self.packages(form)
        assert model.input_shape is not None
        assert model.num_classes is not None
        params = {name: jnp.asarray(array, jnp.float32) for name, array in weights.items()}
        forward = forward_function(model, preprocessing, numbers("float32"))

        def probabilities(images: jax.Array) -> jax.Array:
            return jax.nn.softmax(forward(params, images, None))

        (batch,) = export.symbolic_shape(BATCH)
        images = jax.ShapeDtypeStruct((batch, *model.input_shape), jnp.uint8)
        facts = {"input": f"{INPUT}: uint8 ({BATCH}, H, W, C)", "output": f"{OUTPUT}: float32 ({BATCH}, classes)"}
        if form == "onnx":
            return Exported(onnx_bytes(probabilities, images, model.num_classes), {**facts, "opset": str(OPSET)})
        with _without_locations():
            exported = export.export(jax.jit(probabilities), platforms=PLATFORMS)(images)
        version = str(exported.calling_convention_version)
        facts |= {"platforms": ", ".join(PLATFORMS), "calling_convention": version}
        return Exported(bytes(exported.serialize()), facts)

    def program(self, form: ExportFormat, content: bytes, model: ModelSpec) -> Predictor:
        """A predictor that runs a program as it is."""
        return OnnxPredictor(content) if form == "onnx" else _StableHlo(content)


class _StableHlo:
    """A program as jax.export reads it: compiled for the machine that it runs on."""

    def __init__(self, content: bytes) -> None:
        self._call = jax.jit(export.deserialize(bytearray(content)).call)

    def __call__(self, inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        return np.asarray(self._call(inputs))


@contextmanager
def _without_locations() -> Iterator[None]:
    """No paths of this machine in the program."""
    name = "jax_traceback_in_locations_limit"
    with _CONFIG:
        before = getattr(jax.config, name)
        jax.config.update(name, 0)
        try:
            yield
        finally:
            jax.config.update(name, before)
