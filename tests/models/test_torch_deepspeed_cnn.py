"""The PyTorch CNN: its parameters are the table's (its numbers are compared with Flax's in tests/twins)."""

from __future__ import annotations

import pytest
import torch

from dlhpc.models.torch_deepspeed_cnn import TorchDeepSpeedCNN
from dlhpc.spec.model import CNNSpec
from dlhpc.weights.layout import layout
from dlhpc.weights.table import conv_output_shape, param_table


@pytest.mark.parametrize("normalization", ["none", "layer"])
@pytest.mark.parametrize(("channels", "strides"), [((3,), (1,)), ((3, 4), (2,)), ((3, 4, 5), (1, 2, 3))])
def test_parameters_are_the_table_in_its_order(
    channels: tuple[int, ...], strides: tuple[int, ...], normalization: str
) -> None:
    spec = CNNSpec.model_validate(
        {
            "num_classes": 3,
            "input_shape": (7, 5, 2),
            "channels": channels,
            "strides": strides,
            "kernel_size": (3, 2),
            "hidden_sizes": (6,),
            "normalization": normalization,
        }
    )
    table = param_table(spec)
    rows = {row.name: row.shape for row in table}
    shapes = [(name, tuple(tensor.shape)) for name, tensor in TorchDeepSpeedCNN(spec, torch.float32).named_parameters()]
    places = layout("torch", table).places
    assert shapes == [(place.name, place.framework_shape(rows[place.canonical])) for place in places]


def test_strides_shrink_the_image_as_the_table_says() -> None:
    spec = CNNSpec(num_classes=3, input_shape=(7, 5, 2), channels=(3, 4), strides=(2, 3), hidden_sizes=())
    assert conv_output_shape(spec, (7, 5, 2)) == (2, 1, 4)
    assert TorchDeepSpeedCNN(spec, torch.float32)(torch.zeros(2, 7, 5, 2)).shape == (2, 3)


def test_images_stay_in_channels_last_memory() -> None:
    """NHWC memory seen as NCHW needs no copy, and convolutions keep the format."""
    spec = CNNSpec(num_classes=3, input_shape=(8, 8, 4), channels=(8, 8), strides=(1, 2), hidden_sizes=())
    model, seen = TorchDeepSpeedCNN(spec, torch.float32), []
    for index in range(2):
        model.get_submodule(f"conv_{index}").register_forward_hook(lambda module, args, out: seen.append((*args, out)))
    model(torch.zeros(2, 8, 8, 4))
    assert all(x.is_contiguous(memory_format=torch.channels_last) for pair in seen for x in pair)
