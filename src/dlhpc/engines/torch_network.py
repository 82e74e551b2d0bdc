"""A PyTorch model with its device and number formats: from canonical weights and pixels to logits; and its loss."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, assert_never

import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from dlhpc.models.torch_deepspeed_cnn import TorchDeepSpeedCNN
from dlhpc.models.torch_deepspeed_mlp import TorchDeepSpeedMLP
from dlhpc.ports import Preprocessing
from dlhpc.spec.model import CNNSpec, MLPSpec, ModelSpec
from dlhpc.weights.layout import layout
from dlhpc.weights.table import param_table

PADDING = -1
"""Label of rows that weigh nothing."""


class Part(NamedTuple):
    """Rows that are worked through at once: inputs [b, H, W, C], labels [b], the first row's number."""

    inputs: Tensor
    labels: Tensor
    first_row: int


@dataclass(frozen=True)
class Numbers:
    """Number formats of a network."""

    compute: torch.dtype
    """Type of activations and products."""
    master: torch.dtype
    """Type of the stored parameters and of the loss."""


def numbers(precision: str) -> Numbers:
    """Number formats of a training precision."""
    compute = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}[precision]
    return Numbers(compute, torch.promote_types(compute, torch.float32))


def local_device() -> torch.device:
    """This process's accelerator (the launcher's LOCAL_RANK picks one), or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    # float32 means float32: cuDNN would round convolutions to TF32.
    torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def build_model(spec: ModelSpec, dtype: torch.dtype) -> nn.Module:
    """The module of a resolved spec, on the CPU, with undefined weights."""
    match spec:
        case MLPSpec():
            return TorchDeepSpeedMLP(spec, dtype)
        case CNNSpec():
            return TorchDeepSpeedCNN(spec, dtype)
        case _:
            assert_never(spec)


def load_weights(module: nn.Module, spec: ModelSpec, weights: Mapping[str, npt.NDArray[Any]]) -> None:
    """Copy verified canonical arrays into the module, in the module's precision."""
    arrays = layout("torch", param_table(spec)).to_framework(weights)
    module.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})


class Normalize:
    """(x / 255 - mean) / std per channel; floating point inputs are already in 0..1. On the device."""

    def __init__(self, preprocessing: Preprocessing, formats: Numbers, device: torch.device) -> None:
        self._formats = formats
        self._mean = torch.tensor(preprocessing.mean, dtype=formats.master, device=device)
        self._std = torch.tensor(preprocessing.std, dtype=formats.master, device=device)

    def __call__(self, inputs: Tensor) -> Tensor:
        pixels = inputs.to(self._formats.master)
        if inputs.dtype == torch.uint8:
            pixels.div_(255.0).sub_(self._mean)  # in the copy's memory
        else:
            pixels = pixels - self._mean
        return pixels.div_(self._std).to(self._formats.compute)


def loss_sum(logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """Cross entropy with smoothed targets (Szegedy et al. 2016, arXiv:1512.00567), summed over the rows with a label.

    logits (B, classes), labels (B,) int64 with -1 for padding.
    """
    return functional.cross_entropy(
        logits, labels, ignore_index=PADDING, reduction="sum", label_smoothing=label_smoothing
    )


def correct_count(logits: Tensor, labels: Tensor) -> Tensor:
    """Rows whose greatest logit is the label's; padding never counts."""
    return (logits.argmax(dim=1) == labels).sum()
