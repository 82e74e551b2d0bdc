"""Golden examples: images, and what a version's weights made of them in the framework that trained it.

They are stored with the version, so that whoever computes with its weights later, in the other framework, in another
file format, on another machine, can tell whether the answers are still the same. The images are a function of the
model's input shape alone: nothing of anybody's data is in them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dlhpc.draws import NUMPY, uniform
from dlhpc.errors import IntegrityError, TrainingError
from dlhpc.ports import BackendLoader, Preprocessing
from dlhpc.spec.run import RunSpec
from dlhpc.weights.file import from_bytes, to_bytes
from dlhpc.weights.init import Weights

EXAMPLES: Final = 8
_SEED: Final = 0x601D
"""First counter of the draws."""


@dataclass(frozen=True)
class Golden:
    """Images and their answers."""

    inputs: npt.NDArray[np.uint8]
    """(N, H, W, C)."""
    outputs: npt.NDArray[np.float32]
    """(N, classes): class probabilities of the canonical weights, in float32."""

    def to_bytes(self) -> bytes:
        """The file of a version: safetensors with `inputs` and `outputs`."""
        return to_bytes({"inputs": self.inputs, "outputs": self.outputs})


def golden_inputs(input_shape: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    """The images (8, H, W, C) of an input shape: all 0, all 255, and six smooth random ones, each finer than the last.

    Random values on a grid of 2 x 2 to 7 x 7 points, joined linearly; the same on every machine.
    """
    height, width, channels = input_shape
    images = np.zeros((EXAMPLES, height, width, channels), np.uint8)
    images[1] = 255
    for number in range(2, EXAMPLES):
        grid = np.ix_(range(number), range(number), range(channels))
        coarse = uniform(NUMPY, _SEED, number, *grid).astype(np.float64)
        rows, columns = (_joints(number, size) for size in (height, width))
        above, below = (_join(coarse[row], columns) for row in rows[:2])
        smooth = above + (below - above) * rows[2][:, None, None]
        images[number] = np.floor(smooth * 256).astype(np.uint8)
    return images


def answered(run: RunSpec, weights: Weights, preprocessing: Preprocessing, load_backend: BackendLoader) -> Golden:
    """The golden examples of a resolved run's weights, answered by the framework that trained it.

    Raises MissingExtraError where it is not installed, TrainingError when an answer is no number.
    """
    assert run.model.input_shape is not None
    inputs = golden_inputs(run.model.input_shape)
    outputs = load_backend(run.backend).predictor(run.model, weights, preprocessing)(inputs)
    if not np.isfinite(outputs).all():
        raise TrainingError("no artifact of weights that give no probabilities: NaN came for the golden inputs")
    return Golden(inputs, outputs)


def read_golden(content: bytes, input_shape: tuple[int | None, ...], classes: int, where: str) -> Golden:
    """The examples in a file of golden examples. Raises IntegrityError, naming the file, when it holds others."""
    arrays: Mapping[str, npt.NDArray[Any]] = from_bytes(content, where)
    rows = len(arrays["inputs"]) if "inputs" in arrays and arrays["inputs"].ndim else 0
    expected = {"inputs": ((rows, *input_shape), "uint8"), "outputs": ((rows, classes), "float32")}
    found = {name: (array.shape, str(array.dtype)) for name, array in arrays.items()}
    if found != expected or rows == 0:
        came = ", ".join(f"{name} {shape} {dtype}" for name, (shape, dtype) in sorted(found.items()))
        raise IntegrityError(
            f"{where}: not the golden examples of this model: {came} came, expected inputs {('N', *input_shape)} "
            f"uint8 and outputs {('N', classes)} float32"
        )
    return Golden(arrays["inputs"], arrays["outputs"])


def _joints(points: int, size: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """For each of `size` pixels the grid points beside its centre, and how far it lies towards the second."""
    at = (np.arange(size) + 0.5) * (points - 1) / size
    first = np.floor(at).astype(np.intp)
    return first, first + 1, at - first


def _join(values: npt.NDArray[Any], joints: tuple[npt.NDArray[Any], ...]) -> npt.NDArray[Any]:
    """Values (rows, points, channels) along the second axis at the pixels (rows, pixels, channels)."""
    left, right, share = values[:, joints[0]], values[:, joints[1]], joints[2][:, None]
    joined: npt.NDArray[Any] = left + (right - left) * share
    return joined
