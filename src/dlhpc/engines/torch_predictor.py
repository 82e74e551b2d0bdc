"""The PyTorch predictor: canonical weights in, class probabilities out."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dlhpc.engines.inputs import LARGEST_BATCH, check_inputs
from dlhpc.engines.torch_memory import keep_freed_memory
from dlhpc.engines.torch_network import Normalize, build_model, load_weights, local_device, numbers
from dlhpc.ports import NamedArrays, Preprocessing
from dlhpc.spec.model import ModelSpec
from dlhpc.spec.precision import ComputePrecision
from dlhpc.weights.layout import layout
from dlhpc.weights.table import narrow_rows, param_table
from dlhpc.weights.verify import verify_weights


class TorchPredictor:
    """Answers from any number of threads: nothing changes after construction. In bfloat16 weights are kept and
    activations computed in that, norms and probabilities in float32."""

    def __init__(
        self,
        model: ModelSpec,
        weights: NamedArrays,
        preprocessing: Preprocessing,
        precision: ComputePrecision = "float32",
    ) -> None:
        table = param_table(model)
        verify_weights(table, weights, "the weights")
        if model.input_shape is None or model.num_classes is None:
            raise ValueError("a predictor needs a resolved model")
        self._input_shape, self._classes = model.input_shape, model.num_classes
        self._device, formats = local_device(), numbers(precision)
        keep_freed_memory(os.environ)
        self._module = build_model(model, formats.master)
        load_weights(self._module, model, weights)
        narrow = narrow_rows(table)
        for place in layout("torch", table).places:
            if place.canonical in narrow:
                row = self._module.get_parameter(place.name)
                row.data = row.data.to(formats.compute)
        self._module.to(self._device).requires_grad_(False)
        self._normalize = Normalize(preprocessing, formats, self._device)

    def __call__(self, inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Class probabilities (N, classes) for inputs (N, H, W, C) uint8, or floats in 0..1; DataError for others."""
        inputs = check_inputs(inputs, self._input_shape)
        probabilities = np.empty((len(inputs), self._classes), np.float32)
        with torch.inference_mode():
            for start in range(0, len(inputs), LARGEST_BATCH):
                part = torch.tensor(inputs[start : start + LARGEST_BATCH], device=self._device)
                answer = self._module(self._normalize(part)).float().softmax(dim=1)
                probabilities[start : start + len(part)] = answer.cpu().numpy()
        return probabilities
