"""The layouts: bijections that turn axes and rename, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlhpc.spec.model import CNNSpec, MLPSpec, ModelSpec
from dlhpc.weights.init import initial_weights
from dlhpc.weights.layout import Framework, layout
from dlhpc.weights.table import param_table

sizes = st.integers(1, 6)
shared = {
    "num_classes": st.integers(2, 5),
    "input_shape": st.tuples(sizes, sizes, st.integers(1, 3)),
    "normalization": st.sampled_from(["none", "layer"]),
    "hidden_sizes": st.lists(sizes, max_size=3).map(tuple),
}
models: st.SearchStrategy[ModelSpec] = st.one_of(
    st.builds(MLPSpec, **shared),
    st.builds(
        CNNSpec,
        channels=st.lists(sizes, min_size=1, max_size=3).map(tuple),
        strides=st.tuples(st.integers(1, 3)),
        kernel_size=st.tuples(sizes, sizes),
        **shared,
    ),
)
frameworks = st.sampled_from(["flax", "torch"])


@given(models, frameworks)
def test_there_and_back_is_the_identity(spec: ModelSpec, framework: Framework) -> None:
    table = param_table(spec)
    weights, bijection = initial_weights(table, 1), layout(framework, table)
    turned = bijection.to_framework(weights)
    assert len(turned) == len(table), "two rows share a name"
    back = bijection.to_canonical(turned)
    assert list(back) == [row.name for row in table]
    for name, array in weights.items():
        assert back[name].tobytes() == array.tobytes()
        assert back[name].shape == array.shape


@given(models, frameworks)
def test_back_and_there_is_the_identity(spec: ModelSpec, framework: Framework) -> None:
    table = param_table(spec)
    bijection = layout(framework, table)
    draw = np.random.default_rng(0)
    shapes = {row.name: row.shape for row in table}
    turned = {place.name: draw.random(place.framework_shape(shapes[place.canonical])) for place in bijection.places}
    again = bijection.to_framework(bijection.to_canonical(turned))
    for name, array in turned.items():
        np.testing.assert_array_equal(again[name], array)


@given(models, frameworks)
def test_arrays_are_owned_and_contiguous(spec: ModelSpec, framework: Framework) -> None:
    table = param_table(spec)
    weights = initial_weights(table, 1)
    for place, array in zip(layout(framework, table).places, weights.values(), strict=True):
        turned = place.to_framework(array)
        assert turned.flags.c_contiguous
        assert not np.shares_memory(turned, array)
        back = place.to_canonical(turned)
        assert back.flags.c_contiguous
        assert not np.shares_memory(back, turned)


def test_torch_kernels_are_transposed_also_where_the_shape_does_not_tell() -> None:
    table = param_table(CNNSpec(num_classes=2, input_shape=(1, 1, 3), channels=(3,), hidden_sizes=(3,)))
    weights = {row.name: np.arange(np.prod(row.shape), dtype=np.float32).reshape(row.shape) for row in table}
    turned = layout("torch", table).to_framework(weights)
    assert list(turned) == [
        "conv_0.weight",
        "conv_0.bias",
        "dense_0.weight",
        "dense_0.bias",
        "head.weight",
        "head.bias",
    ]
    dense, conv = weights["dense_0/kernel"], weights["conv_0/kernel"]
    assert dense.shape == turned["dense_0.weight"].shape == (3, 3)
    assert turned["dense_0.weight"][2, 1] == dense[1, 2]
    assert turned["conv_0.weight"].shape == (3, 3, 3, 3)
    assert turned["conv_0.weight"][2, 1, 0, 2] == conv[0, 2, 1, 2]


def test_norms_are_weight_and_bias_in_torch() -> None:
    table = param_table(MLPSpec(num_classes=2, input_shape=(1, 1, 1), hidden_sizes=(3,), normalization="layer"))
    assert [place.name for place in layout("torch", table).places][2:4] == ["dense_norm_0.weight", "dense_norm_0.bias"]


def test_a_missing_row_is_named() -> None:
    table = param_table(MLPSpec(num_classes=2, input_shape=(1, 1, 1), hidden_sizes=()))
    with pytest.raises(KeyError, match="head/kernel"):
        layout("torch", table).to_framework({})
