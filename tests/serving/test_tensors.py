"""Tensors: whatever comes is a question or a refusal."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dlhpc.serving.bodies import pixels_of
from dlhpc.serving.exchange import Refusal
from dlhpc.serving.tensors import images_of, output, parsed
from dlhpc.spec.oip import OutputParameters
from tests.serving.asgi import SHAPE

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=10,
)
SHAPES = st.one_of(
    st.sampled_from([[1, *SHAPE], [2, *SHAPE], [1], [1, 1]]), st.lists(st.integers(-1, 10**20), max_size=4), ANYTHING
)
TENSORS = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["image", "image", "x"]),
        "datatype": st.sampled_from(["UINT8", "INT64", "FP16", "FP32", "BYTES", "BF16"]),
        "shape": SHAPES,
    },
    optional={
        "data": st.one_of(ANYTHING, st.lists(st.integers(0, 1), min_size=24, max_size=24)),
        "parameters": st.one_of(st.none(), st.fixed_dictionaries({"binary_data_size": st.integers(-1, 100)})),
    },
)
LENGTHS = st.one_of(st.none(), st.binary(max_size=4), st.just(b"exact"))


def outcome(body: bytes, length: bytes | None) -> list[Any] | int:
    """The pixels that are asked for, or the status of the refusal."""
    try:
        request, binary = parsed(body, length)
        images = images_of(request, binary, SHAPE, 2)
        return [pixels_of(images, index, SHAPE, 10**6) for index in range(len(images.sources))]
    except Refusal as refusal:
        return refusal.status


@settings(max_examples=150)
@given(TENSORS, st.binary(max_size=60), LENGTHS)
def test_whatever_comes_is_pixels_or_a_refusal(tensor: dict[str, Any], binary: bytes, length: bytes | None) -> None:
    text = json.dumps({"inputs": [tensor]}).encode()
    told = outcome(text + (b"" if length is None else binary), b"%d" % len(text) if length == b"exact" else length)
    if isinstance(told, int):
        assert told in {400, 413, 422}
    else:
        assert 1 <= len(told) <= 2
        assert {each.shape for each in told} == {SHAPE}


def test_a_tensor_goes_out_little_endian_and_row_by_row() -> None:
    rows = [np.array([0.25, 0.75], np.float32), np.array([1.0, 0.0], np.float32)]
    told, content = output(rows, ("a", "b"), OutputParameters(), is_binary=True)
    assert content == np.array([0.25, 0.75, 1.0, 0.0], "<f4").tobytes()
    assert (told.shape, told.parameters, told.data) == ((2, 2), {"binary_data_size": 16}, None)
    told, content = output(rows, ("a", "b"), OutputParameters(), is_binary=False)
    assert (told.data, content) == ([0.25, 0.75, 1.0, 0.0], b"")
