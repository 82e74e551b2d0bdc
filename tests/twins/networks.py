"""One network, one batch, both frameworks: logits, loss and gradients under canonical names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import torch

from dlhpc.engines import flax_network, torch_network
from dlhpc.models import flax_layers, torch_layers
from dlhpc.ports import Preprocessing
from dlhpc.spec.model import CNNSpec, MLPSpec, ModelSpec
from dlhpc.weights.init import initial_weights
from dlhpc.weights.layout import layout
from dlhpc.weights.table import param_table

Arrays = dict[str, npt.NDArray[Any]]
PREPROCESSING = Preprocessing(mean=(0.4,), std=(0.6,))
SMOOTHING = 0.1
DROPPING = {"rate": 0.3, "seed": 5, "step": 17, "first_row": 64}

SPECS: dict[str, ModelSpec] = {
    "mlp": MLPSpec(input_shape=(8, 8, 1), num_classes=10, hidden_sizes=(32, 16)),
    "mlp-layer-silu": MLPSpec(
        input_shape=(5, 9, 3), num_classes=7, hidden_sizes=(24, 24, 12), normalization="layer", activation="silu"
    ),
    "mlp-relu": MLPSpec(input_shape=(3, 11, 2), num_classes=4, hidden_sizes=(40,), activation="relu"),
    "mlp-layer-gelu": MLPSpec(input_shape=(6, 6, 1), num_classes=3, hidden_sizes=(17,), normalization="layer"),
    "softmax-regression": MLPSpec(input_shape=(4, 7, 1), num_classes=5, hidden_sizes=()),
    "cnn": CNNSpec(input_shape=(8, 8, 1), num_classes=10, channels=(8, 12), strides=(1, 2), hidden_sizes=(16,)),
    "cnn-even-kernel": CNNSpec(
        input_shape=(7, 10, 3), num_classes=6, channels=(5, 7), kernel_size=(2, 4), strides=(2, 2), hidden_sizes=(9,)
    ),
    "cnn-layer-relu": CNNSpec(
        input_shape=(9, 6, 2),
        num_classes=5,
        channels=(6, 6, 4),
        kernel_size=(3, 2),
        strides=(2, 1, 3),
        hidden_sizes=(11, 8),
        normalization="layer",
        activation="relu",
    ),
    "cnn-stride-over-kernel": CNNSpec(
        input_shape=(11, 13, 1), num_classes=3, channels=(4,), kernel_size=(1, 2), strides=(3,), hidden_sizes=()
    ),
    "cnn-kernel-over-image": CNNSpec(
        input_shape=(3, 4, 1),
        num_classes=4,
        channels=(5, 3),
        kernel_size=(5, 7),
        strides=(2,),
        hidden_sizes=(6,),
        activation="silu",
        normalization="layer",
    ),
}


def random_spec(number: int) -> ModelSpec:
    """A model drawn from the number: sizes, shapes, kernels, strides, activation, normalisation.

    Layers are at least 4 wide: layer norm over 2 features is a sign, whose gradient is rounding noise in any framework.
    """
    draw = np.random.default_rng(number)
    shared = {
        "input_shape": tuple(int(size) for size in (*draw.integers(2, 14, 2), draw.choice([1, 2, 3]))),
        "num_classes": int(draw.integers(2, 12)),
        "hidden_sizes": tuple(int(size) for size in draw.integers(4, 40, draw.integers(0, 4))),
        "activation": str(draw.choice(["relu", "gelu", "silu"])),
        "normalization": str(draw.choice(["none", "layer"])),
    }
    if draw.random() < 0.3:
        return MLPSpec.model_validate(shared)
    depth = int(draw.integers(1, 4))
    own = {
        "channels": tuple(int(size) for size in draw.integers(4, 10, depth)),
        "kernel_size": tuple(int(size) for size in draw.integers(1, 6, 2)),
        "strides": tuple(int(size) for size in draw.integers(1, 4, depth)),
    }
    return CNNSpec.model_validate(shared | own)


@dataclass(frozen=True)
class Batch:
    """uint8 inputs and labels, two of which are padding."""

    inputs: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int32]


@dataclass(frozen=True)
class Answer:
    """What a framework computes for a batch."""

    logits: npt.NDArray[Any]
    loss: float
    gradients: Arrays


def random_batch(spec: ModelSpec, rows: int = 24, seed: int = 0) -> Batch:
    """Noise with labels."""
    assert spec.input_shape is not None
    assert spec.num_classes is not None
    draw = np.random.default_rng(seed)
    inputs = draw.integers(0, 256, (rows, *spec.input_shape), dtype=np.uint8)
    labels = draw.integers(0, spec.num_classes, rows).astype(np.int32)
    labels[-2:] = -1
    return Batch(inputs, labels)


def trained_weights(spec: ModelSpec, steps: int = 15) -> Arrays:
    """Float64 weights after some steps of gradient descent on noise from a random start: no row is zero or uniform."""
    draw = np.random.default_rng(1)
    weights = {
        name: array + 0.1 * draw.standard_normal(array.shape)
        for name, array in initial_weights(param_table(spec), 3, np.float64).items()
    }
    for step in range(steps):
        gradients = torch_answer(spec, weights, random_batch(spec, seed=step), "float64").gradients
        weights = {name: array - 0.01 * gradients[name] for name, array in weights.items()}
    return weights


def flax_answer(
    spec: ModelSpec, weights: Arrays, batch: Batch, precision: str, dropping: dict[str, Any] | None = None
) -> Answer:
    """By JAX."""
    formats = flax_network.numbers(precision)
    with jax.enable_x64(precision == "float64"):
        forward = flax_network.forward_function(spec, PREPROCESSING, formats)
        counters = None
        if dropping is not None:
            rate, *others = (dropping[field] for field in flax_layers.Dropping._fields)
            counters = flax_layers.Dropping(jnp.asarray(rate, formats.master), *map(jnp.uint32, others))

        def objective(params: Any) -> Any:
            logits = forward(params, jnp.asarray(batch.inputs), counters)
            return flax_network.loss_sum(logits, jnp.asarray(batch.labels), SMOOTHING), logits

        params = {name: jnp.asarray(array, formats.master) for name, array in weights.items()}
        (loss, logits), gradients = jax.jit(jax.value_and_grad(objective, has_aux=True))(params)
        return Answer(np.asarray(logits), float(loss), {name: np.asarray(g) for name, g in gradients.items()})


def torch_answer(
    spec: ModelSpec, weights: Arrays, batch: Batch, precision: str, dropping: dict[str, Any] | None = None
) -> Answer:
    """By PyTorch."""
    formats = torch_network.numbers(precision)
    module = torch_network.build_model(spec, formats.master)
    torch_network.load_weights(module, spec, weights)
    normalize = torch_network.Normalize(PREPROCESSING, formats, torch.device("cpu"))
    counters = None if dropping is None else torch_layers.Dropping(**dropping)
    logits = module(normalize(torch.tensor(batch.inputs)), counters).to(formats.master)
    loss = torch_network.loss_sum(logits, torch.tensor(batch.labels, dtype=torch.int64), SMOOTHING)
    loss.backward()
    gradients = {name: parameter.grad.numpy() for name, parameter in module.named_parameters()}
    return Answer(
        logits.detach().numpy(), float(loss.detach()), layout("torch", param_table(spec)).to_canonical(gradients)
    )


def difference(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    """max|a - b| / max|b|: the measure of all parity tests."""
    assert a.shape == b.shape
    return float(np.max(np.abs(a.astype(np.float64) - b)) / max(float(np.max(np.abs(b))), np.finfo(np.float64).tiny))
