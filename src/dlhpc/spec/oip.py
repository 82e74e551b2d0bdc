"""The bodies of the Open Inference Protocol, version 2, over HTTP, with its extensions for binary tensors and
classification (https://github.com/kserve/open-inference-protocol).

What a client adds beyond these is ignored, as the protocol wants it.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field

INPUT: Final = "image"
OUTPUT: Final = "probabilities"
JSON_LENGTH: Final = "inference-header-content-length"
"""Header: the bytes of JSON before the binary tensors."""
PLATFORM: Final = "dlhpc"
EXTENSIONS: Final = ("binary_tensor_data", "classification")

Datatype = Literal[
    "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES"
]


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True, extra="ignore")


class InputParameters(_Body):
    """What may be said of an input."""

    binary_data_size: Annotated[int, Field(ge=0, strict=True)] | None = None
    """Bytes that it has behind the JSON, when it is not in `data`."""


Size = Annotated[int, Field(ge=0, strict=True)]


class InferInput(_Body):
    """Images: a tensor of pixels, or files."""

    name: Literal["image"]
    """The model's input."""
    datatype: Datatype
    """Whole numbers are pixels in 0..255, floating point ones in 0..1; BYTES are files (as base64 within JSON)."""
    shape: Annotated[tuple[Size, ...], Field(min_length=1, max_length=8), FailFast()]
    """[images, height, width, channels]; [images] for files."""
    parameters: InputParameters | None = None
    data: list[Any] | None = None
    """Row by row, flat or nested."""


class OutputParameters(_Body):
    """How an output is wanted."""

    binary_data: Annotated[bool, Field(strict=True)] | None = None
    """Behind the JSON instead of in `data`."""
    classification: Annotated[int, Field(ge=1, strict=True)] | None = None
    """So many of the most probable classes as texts `probability:index:label`."""


class RequestedOutput(_Body):
    """An output that is wanted."""

    name: Literal["probabilities"]
    """The model's output."""
    parameters: OutputParameters | None = None


class RequestParameters(_Body):
    """What may be said of a request."""

    binary_data_output: Annotated[bool, Field(strict=True)] = False
    """Outputs behind the JSON, where they do not say otherwise."""


class InferRequest(_Body):
    """Images to classify."""

    id: str | None = Field(default=None, max_length=1024)
    """Comes back in the reply."""
    parameters: RequestParameters | None = None
    inputs: Annotated[tuple[InferInput, ...], Field(min_length=1, max_length=1)]
    """One, the images."""
    outputs: Annotated[tuple[RequestedOutput, ...], Field(max_length=1)] = ()
    """What is wanted: all there is when it is empty."""


class InferOutput(_Body):
    """The probabilities of all classes for every image, or the most probable classes."""

    name: str
    datatype: Literal["FP32", "BYTES"]
    shape: tuple[int, ...]
    """[images, classes]."""
    parameters: dict[str, int] | None = None
    """`binary_data_size`, when it is behind the JSON."""
    data: list[float] | list[str] | None = None
    """Row by row."""


class ReplyParameters(_Body):
    """What else there is to say."""

    digest: str
    """The version that answered as `sha256:<hex>`, which names its every bit."""


class InferReply(_Body):
    """What the model makes of the images."""

    model_name: str
    model_version: str
    id: str | None = None
    """The request's."""
    parameters: ReplyParameters
    outputs: tuple[InferOutput, ...]


class TensorMetadata(_Body):
    """What a tensor must be, or is."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    """-1 is any number of images."""


class ModelMetadata(_Body):
    """A model that is served."""

    name: str
    versions: tuple[str, ...]
    """Those that are served, as their numbers in the registry, or digests."""
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]


class ServerMetadata(_Body):
    """The server."""

    name: str
    version: str
    extensions: tuple[str, ...]


class Ready(_Body):
    """Whether predictions are answered."""

    ready: bool
    name: str | None = None


class Live(_Body):
    """That the server answers."""

    live: bool


class OipError(_Body):
    """Why a request was not answered as asked."""

    error: str
    """What happened, and what to do."""
    code: str
    """For programs: one of those of problem documents."""
    request_id: str
    """The request's x-request-id, or one made for it."""
