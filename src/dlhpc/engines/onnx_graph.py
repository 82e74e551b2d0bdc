"""ONNX graphs, node by node: what converters write into, and what every ONNX file goes through before it is kept."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from dlhpc.errors import MissingExtraError

OPSET = 20
"""Version of the operators: read by onnxruntime since 1.17 (2024)."""
INPUT, OUTPUT = "images", "probabilities"
"""Names of the graph's input and output."""
BATCH = "batch"
"""Name of the axis of any size."""


def require(*packages: str) -> None:
    """Raise MissingExtraError unless every package is installed."""
    for package in packages:
        if find_spec(package) is None:
            raise MissingExtraError("the ONNX format", package, "onnx")


class Graph:
    """A graph that grows: values are names, constants are given as arrays."""

    def __init__(self) -> None:
        require("onnx", "onnxruntime")
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._names = 0

    def constant(self, value: npt.ArrayLike) -> str:
        """The name of an array that is kept in the file."""
        from onnx import numpy_helper

        name = self._name("constant")
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add an operator with one output, and give the output's name."""
        from onnx import helper

        name = self._name(operator.lower())
        self._nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def cast(self, value: str, dtype: npt.DTypeLike) -> str:
        """Convert a value to a type of numpy's."""
        from onnx import helper

        return self.node("Cast", value, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def to_bytes(self, output: str, image_shape: tuple[int, ...], classes: int, producer: str) -> bytes:
        """The checked model whose output is that value; images are uint8 (batch, *image_shape)."""
        from onnx import TensorProto, helper

        self._nodes.append(helper.make_node("Identity", [output], [OUTPUT], name=OUTPUT))
        graph = helper.make_graph(
            self._nodes,
            "model",
            [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, [BATCH, *image_shape])],
            [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [BATCH, classes])],
            self._constants,
        )
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model_gen_version(graph, opset_imports=opsets, producer_name=producer)
        return cleaned(model)

    def _name(self, stem: str) -> str:
        self._names += 1
        return f"{stem}_{self._names}"


def cleaned(model: Any) -> bytes:
    """The bytes of a model proto, checked, without the traces that exporters leave of the machine that ran them."""
    from onnx import checker

    model.doc_string = ""
    for holder in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        holder.doc_string = ""
        del holder.metadata_props[:]
    for value in (*model.graph.input, *model.graph.output):
        value.doc_string = ""
        del value.metadata_props[:]
    checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString(deterministic=True)
    return content
