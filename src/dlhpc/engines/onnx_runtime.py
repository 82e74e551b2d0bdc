"""ONNX files run by onnxruntime, on the CPU: as anybody will run them who has the file and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dlhpc.engines.onnx_graph import INPUT, OUTPUT, require


class OnnxPredictor:
    """Answers from any number of threads."""

    def __init__(self, content: bytes) -> None:
        require("onnxruntime")
        import onnxruntime

        self._session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def __call__(self, inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Class probabilities (N, classes) for inputs (N, H, W, C) uint8."""
        (probabilities,) = self._session.run([OUTPUT], {INPUT: inputs})
        return np.asarray(probabilities)
