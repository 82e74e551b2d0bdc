"""What every ONNX file goes through."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from dlhpc.engines.onnx_graph import Graph, cleaned, require
from dlhpc.errors import MissingExtraError


def doubled() -> bytes:
    graph = Graph()
    wide = graph.cast("images", np.float32)
    flat = graph.node("Reshape", wide, graph.constant(np.array([-1, 2], np.int64)))
    return graph.to_bytes(graph.node("Mul", flat, graph.constant(np.float32(2))), (1, 2, 1), 2, "a test")


def test_traces_of_the_machine_are_removed() -> None:
    model = onnx.load_from_string(doubled())
    model.doc_string = "made in /home/somebody"
    model.graph.node[0].doc_string = 'File "/home/somebody/model.py"'
    for holder in (model.graph.node[1], model.graph, model, model.graph.input[0], model.graph.initializer[0]):
        entry = holder.metadata_props.add()
        entry.key, entry.value = "stack_trace", "/home/somebody"
    assert b"somebody" in model.SerializeToString()
    assert cleaned(model) == doubled()


def test_a_graph_that_is_none_is_refused() -> None:
    graph = Graph()
    with pytest.raises(onnx.checker.ValidationError):
        graph.to_bytes(graph.node("Mul", "images", "nowhere"), (1, 2, 1), 2, "a test")


def test_a_missing_library_says_what_to_install() -> None:
    require("onnx", "onnxruntime")
    with pytest.raises(MissingExtraError, match=r"needs 'onnx_of_nobody'.*demo\[onnx\]"):
        require("onnx", "onnx_of_nobody")
