"""Programs of PyTorch models: torch.export, and ONNX by torch's own exporter.

torch.export.save keeps example inputs as a pickle, and torch.export.load unpickles them, and weights of odd types, with
`weights_only=False` where it has to. So the program is saved without example inputs, and a file is looked through
before it is loaded: raw tensors and JSON, and nothing else.
"""

from __future__ import annotations

import io
import json
import logging
import re
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dlhpc.engines.onnx_graph import BATCH, INPUT, OPSET, OUTPUT, cleaned, require
from dlhpc.engines.onnx_runtime import OnnxPredictor
from dlhpc.engines.torch_network import Normalize, build_model, load_weights, numbers
from dlhpc.errors import IntegrityError, UsageError
from dlhpc.ports import Exported, ExportFormat, NamedArrays, Predictor, Preprocessing
from dlhpc.spec.model import ModelSpec

_RAW = re.compile(
    r"^[^/]+/(data/(weights/weight_\d+|constants/tensor_\d+|\w+/model_\w+_config\.json)|models/model\.json"
    r"|archive_(format|version)|byteorder|\.data/(version|serialization_id))$"
)
"""Files of an archive that torch.export reads without unpickling."""
_LOGGERS = ("torch.onnx", "torch.export")
_TRACES = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn")
"""What a graph's nodes remember of the code that made them, files of this machine among it."""


class TorchExporter:
    """Writes and runs programs of PyTorch models, on the CPU."""

    formats: tuple[ExportFormat, ...] = ("onnx", "torch-export")

    def packages(self, form: ExportFormat) -> tuple[str, ...]:
        """What writes and runs a format, by the names under which they are installed. UsageError for another format."""
        match form:
            case "onnx":
                return ("torch", "onnxscript", "onnx", "onnxruntime")
            case "torch-export":
                return ("torch",)
            case _:
                raise UsageError(f"torch writes {' and '.join(self.formats)}, not {form}")

    def export(
        self, form: ExportFormat, model: ModelSpec, weights: NamedArrays, preprocessing: Preprocessing
    ) -> Exported:
        """The program of canonical weights. Raises MissingExtraError where a format's library is not installed."""
        self.packages(form)
        if form == "onnx":
            require("onnx", "onnxscript", "onnxruntime")
        facts = {"input": f"{INPUT}: uint8 ({BATCH}, H, W, C)", "output": f"{OUTPUT}: float32 ({BATCH}, classes)"}
        with _quiet():
            program = _traced(model, weights, preprocessing)
            if form == "onnx":
                return Exported(_onnx(program), {**facts, "opset": str(OPSET)})
            buffer = io.BytesIO()
            torch.export.save(program, buffer)
        content = buffer.getvalue()
        refuse_pickles(content)
        return Exported(content, facts)

    def program(self, form: ExportFormat, content: bytes, model: ModelSpec) -> Predictor:
        """A predictor that runs a program as it is."""
        return OnnxPredictor(content) if form == "onnx" else _TorchProgram(content)


class _Probabilities(nn.Module):
    """Pixels in, probabilities out: what TorchPredictor computes, as one module."""

    def __init__(self, model: nn.Module, normalize: Normalize) -> None:
        super().__init__()
        self.model, self._normalize = model, normalize

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(self._normalize(images))
        return logits.softmax(dim=1)


class _TorchProgram:
    """A program as torch.export reads it."""

    def __init__(self, content: bytes) -> None:
        refuse_pickles(content)
        with _quiet():
            self._module = torch.export.load(io.BytesIO(content)).module()

    def __call__(self, inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            probabilities: npt.NDArray[np.float32] = self._module(torch.tensor(inputs)).numpy()
            return probabilities


def refuse_pickles(content: bytes) -> None:
    """Raise IntegrityError unless a torch.export file holds raw tensors and JSON alone."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            files = {info.filename: info.file_size for info in archive.infolist()}
            payloads = [
                payload
                for name in files
                if name.endswith("_config.json")
                for payload in json.loads(archive.read(name))["config"].values()
            ]
    except (zipfile.BadZipFile, ValueError, KeyError, AttributeError, TypeError) as error:
        raise IntegrityError(f"not a readable torch.export file: {error}") from error
    pickled = [name for name, size in files.items() if size and not _RAW.search(name)]
    pickled += [str(payload["path_name"]) for payload in payloads if payload["use_pickle"]]
    if pickled:
        raise IntegrityError(f"the torch.export file holds pickles, which are never loaded: {', '.join(pickled)}")


def _traced(model: ModelSpec, weights: NamedArrays, preprocessing: Preprocessing) -> torch.export.ExportedProgram:
    """The program with a free batch axis, without example inputs and without paths of this machine."""
    assert model.input_shape is not None
    formats = numbers("float32")
    module = build_model(model, formats.master)
    load_weights(module, model, weights)
    whole = _Probabilities(module, Normalize(preprocessing, formats, torch.device("cpu"))).requires_grad_(False).eval()
    example = torch.zeros((2, *model.input_shape), dtype=torch.uint8)  # one image would fix the axis
    free = ({0: torch.export.Dim(BATCH, min=1)},)
    program = torch.export.export(whole, (example,), dynamic_shapes=free, strict=False)
    for node in program.graph.nodes:
        for trace in _TRACES:
            node.meta.pop(trace, None)
    program.example_inputs = None
    return program


def _onnx(program: torch.export.ExportedProgram) -> bytes:
    made: Any = torch.onnx.export(
        program, dynamo=True, opset_version=OPSET, input_names=[INPUT], output_names=[OUTPUT], verbose=False
    )
    assert made is not None
    return cleaned(made.model_proto)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' remarks on libraries that nobody asked for."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
