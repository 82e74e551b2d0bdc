"""The parameter table: what a ModelSpec's weights are called, how they are shaped and how they start.

Canonical form: dense kernels (in, out), convolution kernels (kh, kw, in, out), activations NHWC, so a flattened
image runs over height, then width, then channels. Each framework's model is tested to match the table;
weights/layout.py maps the shapes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, assert_never

from dlhpc.spec.model import CNNSpec, MLPSpec, ModelSpec

Init = Literal["he_normal", "lecun_normal", "zeros", "ones"]


@dataclass(frozen=True)
class Param:
    """One named array of a model."""

    name: str
    """Canonical name, such as `dense_0/kernel`."""
    shape: tuple[int, ...]
    axes: tuple[str, ...]
    """Meaning of each axis: `in`, `out`, `kh`, `kw`."""
    init: Init
    """Law of the first values; he_normal and lecun_normal count every axis but `out` as fan-in."""
    decay: bool
    """Whether weight decay applies."""


def narrow_rows(table: tuple[Param, ...]) -> frozenset[str]:
    """Names of the rows that compute in the activations' type, and may be kept in it: all but those of norms."""
    norms = {_module(row) for row in table if row.name.endswith("/scale")}
    return frozenset(row.name for row in table if _module(row) not in norms)


def _module(row: Param) -> str:
    return row.name.rpartition("/")[0]


def param_table(spec: ModelSpec) -> tuple[Param, ...]:
    """Every parameter of a resolved spec, in forward order.

    Raises ValueError when input_shape or num_classes is still open.
    """
    if spec.input_shape is None or spec.num_classes is None:
        raise ValueError("the model's input_shape and num_classes must be resolved before its table can be made")
    match spec:
        case MLPSpec():
            return tuple(_mlp(spec, spec.input_shape, spec.num_classes))
        case CNNSpec():
            return tuple(_cnn(spec, spec.input_shape, spec.num_classes))
        case _:
            assert_never(spec)


def conv_strides(spec: CNNSpec) -> tuple[int, ...]:
    """The stride of each convolution: the given ones, or the single one repeated."""
    return spec.strides * len(spec.channels) if len(spec.strides) == 1 else spec.strides


def conv_output_shape(spec: CNNSpec, input_shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """Height, width and channels after the last convolution ('SAME': ceil(size / stride))."""
    height, width, _ = input_shape
    for stride in conv_strides(spec):
        height, width = -(-height // stride), -(-width // stride)
    return height, width, spec.channels[-1]


def _mlp(spec: MLPSpec, input_shape: tuple[int, int, int], num_classes: int) -> Iterator[Param]:
    height, width, channels = input_shape
    yield from _dense_stack(spec, height * width * channels, num_classes)


def _cnn(spec: CNNSpec, input_shape: tuple[int, int, int], num_classes: int) -> Iterator[Param]:
    fan_in = input_shape[2]
    for index, out in enumerate(spec.channels):
        shape = (*spec.kernel_size, fan_in, out)
        yield Param(f"conv_{index}/kernel", shape, ("kh", "kw", "in", "out"), "he_normal", decay=True)
        yield Param(f"conv_{index}/bias", (out,), ("out",), "zeros", decay=False)
        if spec.normalization == "layer":
            yield from _layer_norm(f"conv_norm_{index}", out)
        fan_in = out
    height, width, channels = conv_output_shape(spec, input_shape)
    yield from _dense_stack(spec, height * width * channels, num_classes)


def _dense_stack(spec: ModelSpec, fan_in: int, num_classes: int) -> Iterator[Param]:
    for index, out in enumerate(spec.hidden_sizes):
        yield Param(f"dense_{index}/kernel", (fan_in, out), ("in", "out"), "he_normal", decay=True)
        yield Param(f"dense_{index}/bias", (out,), ("out",), "zeros", decay=False)
        if spec.normalization == "layer":
            yield from _layer_norm(f"dense_norm_{index}", out)
        fan_in = out
    yield Param("head/kernel", (fan_in, num_classes), ("in", "out"), "lecun_normal", decay=True)
    yield Param("head/bias", (num_classes,), ("out",), "zeros", decay=False)


def _layer_norm(name: str, features: int) -> Iterator[Param]:
    yield Param(f"{name}/scale", (features,), ("out",), "ones", decay=False)
    yield Param(f"{name}/bias", (features,), ("out",), "zeros", decay=False)
