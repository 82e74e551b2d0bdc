"""The model that compare_registries.py logs as `mlflow.pyfunc`: an MLP whose weights are a safetensors artifact."""

from typing import Any

import mlflow
import numpy as np
from safetensors.numpy import load_file


class Net(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # MLflow is not here
    """Images (N, height, width, channels) to class probabilities, in numpy."""

    def load_context(self, context: Any) -> None:
        """Read the weights."""
        self.weights = load_file(context.artifacts["weights"])

    def predict(self, context: Any, model_input: np.ndarray, params: Any = None) -> np.ndarray:
        """One dense layer after another."""
        return forward(self.weights, model_input)


def forward(weights: dict[str, np.ndarray], images: np.ndarray) -> np.ndarray:
    """The network's answers."""
    values, layers = images.reshape(len(images), -1), len(weights) // 2
    for layer in range(layers):
        values = values @ weights[f"{layer}.kernel"] + weights[f"{layer}.bias"]
        values = np.maximum(values, 0) if layer < layers - 1 else values
    shares = np.exp(values - values.max(axis=-1, keepdims=True))
    result: np.ndarray = shares / shares.sum(axis=-1, keepdims=True)
    return result


mlflow.models.set_model(Net())
