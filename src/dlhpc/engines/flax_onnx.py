"""ONNX from JAX: the program that JAX traced, operation by operation.

What is translated is the jaxpr, so the file computes what the Flax model computes, whatever its spec says. Only what
the models use is known; anything else is refused by name. The first axis may be symbolic (the batch).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from dlhpc.engines.onnx_graph import Graph
from dlhpc.errors import DlhpcError

_SAME: Final = {
    "add": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "div": "Div",
    "max": "Max",
    "exp": "Exp",
    "erf": "Erf",
    "logistic": "Sigmoid",
}
"""Operations that ONNX has too, with numpy's broadcasting."""
_CALLS: Final = {"jit": "jaxpr", "custom_jvp_call": "call_jaxpr"}
"""Operations that stand for a program of their own -> the parameter that holds it."""

_CONVOLUTION: Final = {
    "dimension_numbers": jax.lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2)),
    "lhs_dilation": (1, 1),
    "rhs_dilation": (1, 1),
    "feature_group_count": 1,
    "batch_group_count": 1,
}
"""The kind that the models have: NHWC, HWIO, undilated, ungrouped."""


def onnx_bytes(forward: Callable[[jax.Array], jax.Array], images: jax.ShapeDtypeStruct, classes: int) -> bytes:
    """The ONNX model of a function from uint8 images (batch, H, W, C) to probabilities (batch, classes).

    Raises DlhpcError where the function does what has no translation here.
    """
    graph = Graph()
    traced = jax.make_jaxpr(forward)(images)
    (output,) = _Translation(graph).program(traced, ["images"])
    return graph.to_bytes(output, images.shape[1:], classes, "dlhpc (jax)")


class _Translation:
    """One jaxpr at a time: JAX's variables -> names in the graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def program(self, closed: ClosedJaxpr, inputs: Sequence[str]) -> list[str]:
        """Names of the outputs of a program whose inputs have these names."""
        jaxpr: Jaxpr = closed.jaxpr
        names = dict(zip(jaxpr.invars, inputs, strict=True))
        names |= {
            variable: self.graph.constant(np.asarray(value))
            for variable, value in zip(jaxpr.constvars, closed.consts, strict=True)
        }

        def name(atom: Any) -> str:
            return self.graph.constant(_array(atom)) if isinstance(atom, Literal) else names[atom]

        for equation in jaxpr.eqns:
            outputs = self._equation(equation, [name(atom) for atom in equation.invars])
            names |= dict(zip(equation.outvars, outputs, strict=True))
        return [name(atom) for atom in jaxpr.outvars]

    def _equation(self, equation: Any, inputs: list[str]) -> list[str]:
        operation = equation.primitive.name
        if operation in _CALLS:
            return self.program(equation.params[_CALLS[operation]], inputs)
        return [self._operation(operation, equation, inputs)]

    def _operation(self, operation: str, equation: Any, inputs: list[str]) -> str:
        add, parameters, aval = self.graph.node, equation.params, equation.outvars[0].aval
        match operation:
            case _ if operation in _SAME:
                return add(_SAME[operation], *inputs)
            case "stop_gradient":
                return inputs[0]
            case "square":
                return add("Mul", inputs[0], inputs[0])
            case "rsqrt":
                return add("Reciprocal", add("Sqrt", *inputs))
            case "convert_element_type":
                return self.graph.cast(inputs[0], aval.dtype)
            case "reduce_sum" | "reduce_max":
                axes = self.graph.constant(np.array(parameters["axes"], np.int64))
                return add("ReduceSum" if operation == "reduce_sum" else "ReduceMax", *inputs, axes, keepdims=0)
            case "reshape":
                return self._reshaped(inputs[0], aval.shape)
            case "broadcast_in_dim":
                return self._broadcast(inputs[0], equation)
            case "dot_general":
                if parameters["dimension_numbers"] == (((1,), (0,)), ((), ())):
                    return add("MatMul", *inputs)
            case "conv_general_dilated" if {key: parameters[key] for key in _CONVOLUTION} == _CONVOLUTION:
                return self._convolution(inputs, parameters)
        raise _untranslated(equation)

    def _reshaped(self, value: str, shape: tuple[Any, ...]) -> str:
        """A reshape; the size of the batch is left to ONNX."""
        sizes = [size if isinstance(size, int) else -1 for size in shape]
        return self.graph.node("Reshape", value, self.graph.constant(np.array(sizes, np.int64)))

    def _broadcast(self, value: str, equation: Any) -> str:
        """New axes of size 1. Nothing grows: the operations that follow broadcast as numpy does."""
        before, after = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
        kept = equation.params["broadcast_dimensions"]
        if any(size != 1 for axis, size in enumerate(after) if axis not in kept) or before != tuple(
            after[axis] for axis in kept
        ):
            raise _untranslated(equation)
        return self._reshaped(value, after)

    def _convolution(self, inputs: list[str], parameters: Any) -> str:
        """NHWC and HWIO, as the models have them; ONNX has NCHW and OIHW."""
        add = self.graph.node
        images = add("Transpose", inputs[0], perm=[0, 3, 1, 2])
        kernel = add("Transpose", inputs[1], perm=[3, 2, 0, 1])
        before, after = zip(*parameters["padding"], strict=True)
        convolved = add("Conv", images, kernel, strides=list(parameters["window_strides"]), pads=[*before, *after])
        return add("Transpose", convolved, perm=[0, 2, 3, 1])


def _array(literal: Any) -> np.ndarray[Any, Any]:
    return np.asarray(literal.val, literal.aval.dtype)


def _untranslated(equation: Any) -> DlhpcError:
    return DlhpcError(f"ONNX from JAX: no translation of {str(equation).splitlines()[0]!r}; export it from torch")
