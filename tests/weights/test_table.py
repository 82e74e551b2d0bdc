"""The parameter table against shapes worked out by hand."""

from __future__ import annotations

import pytest

from dlhpc.spec.model import CNNSpec, MLPSpec
from dlhpc.weights.state_table import APPLIED, CONSUMED, state_table
from dlhpc.weights.table import conv_output_shape, conv_strides, param_table


def shapes(spec: MLPSpec | CNNSpec) -> dict[str, tuple[int, ...]]:
    return {row.name: row.shape for row in param_table(spec)}


def test_mlp_rows() -> None:
    spec = MLPSpec(num_classes=10, input_shape=(5, 4, 3), hidden_sizes=(7, 6), normalization="layer")
    assert shapes(spec) == {
        "dense_0/kernel": (60, 7),
        "dense_0/bias": (7,),
        "dense_norm_0/scale": (7,),
        "dense_norm_0/bias": (7,),
        "dense_1/kernel": (7, 6),
        "dense_1/bias": (6,),
        "dense_norm_1/scale": (6,),
        "dense_norm_1/bias": (6,),
        "head/kernel": (6, 10),
        "head/bias": (10,),
    }


def test_softmax_regression_has_the_head_alone() -> None:
    assert shapes(MLPSpec(num_classes=3, input_shape=(2, 2, 1), hidden_sizes=())) == {
        "head/kernel": (4, 3),
        "head/bias": (3,),
    }


def test_cnn_rows_with_strides_and_a_non_square_kernel() -> None:
    spec = CNNSpec(
        num_classes=4, input_shape=(7, 9, 3), channels=(5, 6), kernel_size=(3, 2), strides=(2, 2), hidden_sizes=(8,)
    )
    assert conv_output_shape(spec, (7, 9, 3)) == (2, 3, 6)
    assert shapes(spec) == {
        "conv_0/kernel": (3, 2, 3, 5),
        "conv_0/bias": (5,),
        "conv_1/kernel": (3, 2, 5, 6),
        "conv_1/bias": (6,),
        "dense_0/kernel": (36, 8),
        "dense_0/bias": (8,),
        "head/kernel": (8, 4),
        "head/bias": (4,),
    }


def test_conv_norms_follow_their_convolution() -> None:
    spec = CNNSpec(num_classes=4, input_shape=(8, 8, 1), channels=(5,), hidden_sizes=(), normalization="layer")
    assert list(shapes(spec))[2:4] == ["conv_norm_0/scale", "conv_norm_0/bias"]


def test_one_stride_serves_all_convolutions() -> None:
    assert conv_strides(CNNSpec(channels=(1, 2, 3), strides=(2,))) == (2, 2, 2)


def test_only_kernels_decay() -> None:
    spec = CNNSpec(num_classes=4, input_shape=(8, 8, 1), normalization="layer")
    assert all(row.decay == row.name.endswith("/kernel") for row in param_table(spec))


def test_an_unresolved_spec_has_no_table() -> None:
    with pytest.raises(ValueError, match="must be resolved"):
        param_table(MLPSpec())


def test_training_state_has_every_slot_of_every_parameter_and_the_counters() -> None:
    params = param_table(MLPSpec(num_classes=3, input_shape=(2, 2, 1), hidden_sizes=()))
    rows = {row.name: row.shape for row in state_table(params, ("m", "v"))}
    assert rows == {
        "param/head/kernel": (4, 3),
        "param/head/bias": (3,),
        "slot/m/head/kernel": (4, 3),
        "slot/m/head/bias": (3,),
        "slot/v/head/kernel": (4, 3),
        "slot/v/head/bias": (3,),
        CONSUMED: (),
        APPLIED: (),
    }
