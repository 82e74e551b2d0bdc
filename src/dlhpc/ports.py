"""The protocols between what trains or predicts (engines) and what uses them (training, registry, serving)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from dlhpc.data.batch import HostBatch
from dlhpc.spec.model import ModelSpec
from dlhpc.spec.precision import ComputePrecision
from dlhpc.spec.run import RunSpec

S = TypeVar("S")
NamedArrays = Mapping[str, npt.NDArray[Any]]
"""Canonical names -> arrays: a model (`dense_0/kernel`) or a training state (`param/...`, `slot/...`)."""

Metrics = Mapping[str, Any]
"""Arrays [K] that stay on the device until float() or numpy asks for them: loss, correct, count (training);
0-d sums loss_sum, correct, count (evaluation). All of them over ALL processes, so that every process sees the same.
Where `training.non_finite_gradients` is skip or zero, training also gives `non_finite`: 1 where a step's gradients (or
its Hessian estimate) were not finite, else 0."""


@dataclass(frozen=True)
class Controls:
    """What changes from step to step, as arrays [K]: values never recompile anything."""

    learning_rate: npt.NDArray[np.float64]
    step: npt.NDArray[np.int64]
    """Number of each step in the run, from 0: with the seed it determines dropout."""
    dropout_rate: npt.NDArray[np.float64]


class Learner(Protocol[S]):
    """A model that learns. Constant; S is all that changes. Every method is collective over the processes."""

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""
        ...

    @property
    def world_size(self) -> int:
        """Number of processes that train together."""
        ...

    def init(self, seed: int) -> S:
        """A fresh state: weights from the seed, zero slots."""
        ...

    def place(self, batch: HostBatch) -> Any:
        """Copy a batch to the device. The result never aliases the host's arrays."""
        ...

    def steps(self, state: S, batch: Any, controls: Controls) -> tuple[S, Metrics]:
        """K updates in one dispatch. Spends `state`: use the returned one."""
        ...

    def evaluate(self, state: S, batch: Any) -> Metrics:
        """Sums over the batch's real rows for the weights of a `model` snapshot, without dropout, added up over all
        processes."""
        ...

    def snapshot(self, state: S, what: Literal["model", "training"]) -> NamedArrays:
        """Owned host copies under canonical names: the weights (their average, where the run keeps one), or everything
        needed to go on."""
        ...

    def restore(self, source: NamedArrays) -> S:
        """A state from a training snapshot of EITHER framework; IntegrityError on a missing or misshapen row."""
        ...

    def agree(self, value: int) -> int:
        """The greatest value that any process passed. The loop calls it between dispatches when world_size > 1."""
        ...

    def close(self) -> None:
        """Give back processes and memory."""
        ...


class Predictor(Protocol):
    """A model that answers."""

    def __call__(self, inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Class probabilities (N, classes) float32 for inputs (N, H, W, C) uint8, or float32 in 0..1."""
        ...


@dataclass(frozen=True)
class Preprocessing:
    """The constants between pixels and the model: (x / 255 - mean) / std, per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Device:
    """Where a framework computes."""

    kind: str
    """`cpu`, or the name of the accelerator."""
    threads: int
    """Threads of the host that one operation may use."""


ExportFormat = Literal["onnx", "stablehlo", "torch-export"]
"""Formats in which a model is a program of its own, that runs without dlhpc."""


@dataclass(frozen=True)
class Exported:
    """A model as a program: pixels in, class probabilities out, preprocessing inside, any number of images."""

    content: bytes
    facts: Mapping[str, str]
    """What a user of the file has to know: names and types of input and output, opset, and the like."""


class Exporter(Protocol):
    """What makes programs of models, and runs them as their users will."""

    @property
    def formats(self) -> tuple[ExportFormat, ...]:
        """What it can write."""
        ...

    def packages(self, form: ExportFormat) -> tuple[str, ...]:
        """What writes and runs a format, by the names under which they are installed. UsageError for another format."""
        ...

    def export(
        self, form: ExportFormat, model: ModelSpec, weights: NamedArrays, preprocessing: Preprocessing
    ) -> Exported:
        """The program of canonical weights. Raises MissingExtraError where a format's library is not installed."""
        ...

    def program(self, form: ExportFormat, content: bytes, model: ModelSpec) -> Predictor:
        """A predictor that runs a program as it is. For bytes of one's own only: a program may do anything."""
        ...


class Backend(Protocol):
    """One framework's engines."""

    @property
    def name(self) -> str:
        """`flax` or `torch`."""
        ...

    def device(self) -> Device:
        """Where predictors compute."""
        ...

    def learner(self, run: RunSpec) -> Learner[Any]:
        """A learner for a resolved run."""
        ...

    def predictor(
        self,
        model: ModelSpec,
        weights: NamedArrays,
        preprocessing: Preprocessing,
        precision: ComputePrecision = "float32",
    ) -> Predictor:
        """A predictor over canonical weights. Raises IntegrityError when they do not fit the model's table."""
        ...

    def exporter(self) -> Exporter:
        """What makes programs of models."""
        ...


BackendLoader = Callable[[str], Backend]
"""`load_backend`, handed down to the layers that may not import it."""
