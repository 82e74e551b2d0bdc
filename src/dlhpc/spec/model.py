"""What a model is: its architecture and sizes. Names no framework."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dlhpc.spec.base import Fraction, PositiveInt, Spec

Activation = Literal["relu", "gelu", "silu"]
Normalization = Literal["none", "layer"]
InputShape = tuple[PositiveInt, PositiveInt, PositiveInt]


class _ImageModel(Spec):
    num_classes: Annotated[int, Field(ge=2, strict=True)] | None = None
    """Number of classes; taken from the data when absent."""

    input_shape: InputShape | None = None
    """Image shape as [height, width, channels]; taken from the data when absent."""

    activation: Activation = "gelu"
    """Non-linearity after every hidden layer (gelu is the tanh-free, exact form)."""

    normalization: Normalization = "none"
    """`layer` normalises over the features (MLP) or channels (CNN) of every hidden layer, before the activation."""

    dropout_rate: Fraction = 0.0
    """Share of the hidden dense activations dropped in training."""


class MLPSpec(_ImageModel):
    """A multi-layer perceptron over the flattened image."""

    architecture: Literal["mlp"] = "mlp"

    hidden_sizes: Annotated[tuple[PositiveInt, ...], Field(max_length=256)] = (512, 256, 128)
    """Width of each hidden layer; [] is softmax regression."""


class CNNSpec(_ImageModel):
    """Convolutions ('SAME' padding), then flatten, then dense layers."""

    architecture: Literal["cnn"] = "cnn"

    channels: Annotated[tuple[PositiveInt, ...], Field(min_length=1, max_length=256)] = (32, 64)
    """Output channels of each convolution."""

    kernel_size: tuple[PositiveInt, PositiveInt] = (3, 3)
    """Kernel as [height, width]."""

    strides: Annotated[tuple[PositiveInt, ...], Field(min_length=1, max_length=256)] = (1, 2)
    """Stride of each convolution, both directions; one value serves all."""

    hidden_sizes: Annotated[tuple[PositiveInt, ...], Field(max_length=256)] = (128,)
    """Width of each dense layer between the convolutions and the classifier."""


ModelSpec = Annotated[MLPSpec | CNNSpec, Field(discriminator="architecture")]
