"""What travels between client and server: request, reply and error bodies, one definition for both sides.

Errors are problem documents (RFC 9457) with two members more: `code`, a stable word to act upon, and `request_id`,
which the server's log names too.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, FailFast, Field

PROBLEM_TYPE: Final = "application/problem+json"
REQUEST_ID: Final = "x-request-id"
DEADLINE_MS: Final = "x-deadline-ms"
"""Header: for how many milliseconds the client will wait."""
CANARY: Final = "x-canary"
"""Header: `always` or `never` lets a model's canary answer, whatever its weight."""
PRIORITY: Final = "x-priority"
"""Header: `low` lets others go first when the server is busy."""
HOW_TO_SEND: Final = (
    "send the bytes of a PNG, JPEG, GIF, BMP or WebP file as base64, as `base64 -w0 FILE` prints them: "
    "echo '{\"image\": \"'$(base64 -w0 FILE)'\"}' | curl -H 'Content-Type: application/json' -d @- URL"
)


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True, populate_by_name=True)


class PredictRequest(_Body):
    """One image to classify."""

    model_config = ConfigDict(extra="forbid")

    image: str = Field(min_length=1)
    """Bytes of an image file as base64, or a data URL of them (`data:image/png;base64,...`)."""


MOST_IMAGES: Final = 1024
"""No server takes more images in one request than this."""
Base64 = Annotated[str, Field(min_length=1)]


class ImagesRequest(_Body):
    """Several images to classify."""

    model_config = ConfigDict(extra="forbid")

    images: Annotated[tuple[Base64, ...], Field(min_length=1, max_length=MOST_IMAGES), FailFast()]
    """Each as PredictRequest.image."""


class PixelsRequest(_Body):
    """One image or several as arrays of pixels, of exactly the size that the model computes on."""

    model_config = ConfigDict(extra="forbid")

    pixels: list[Any]
    """[height][width][channels] of numbers, or [height][width] where there is one channel; with a dimension more in
    front, several images."""
    range: tuple[float, float] = (0.0, 255.0)
    """The values that are black and white."""


class Prediction(_Body):
    """What the model makes of one image."""

    index: int = Field(alias="class")
    """Number of the most probable class."""
    label: str
    """Its name."""
    probabilities: dict[str, float]
    """Probability of each class by its name, in the classes' order, rounded to seven decimals."""


class PredictReply(Prediction):
    """The answer to one image."""

    model: str
    """The version that answered, as `name:number`."""
    digest: str
    """The same as `sha256:<hex>`, which names its every bit."""
    request_id: str
    """The request's x-request-id, or one made for it."""

    @property
    def probability(self) -> float:
        """Probability of the most probable class."""
        return self.probabilities[self.label]

    def __repr_args__(self) -> Iterator[tuple[str, object]]:
        """What a person looks for; the probabilities of a thousand classes are not among it."""
        yield from (("label", self.label), ("probability", self.probability))
        yield from (("model", self.model), ("request_id", self.request_id))


class ItemProblem(_Body):
    """Why one image of several was not classified."""

    code: str
    """One of PROBLEMS, for programs."""
    status: int
    """The HTTP status that the image alone would have been answered with."""
    detail: str
    """What happened to this image, and what to do."""


class Failure(_Body):
    """In the place of a prediction."""

    error: ItemProblem
    """Why."""


class PredictionsReply(_Body):
    """The answer to several images, in their order. There is at least one prediction among it."""

    predictions: tuple[Prediction | Failure, ...]
    """For each image its prediction, or `error`: the others are unharmed by it."""
    model: str
    """The version that answered, as `name:number`."""
    digest: str
    """The same as `sha256:<hex>`, which names its every bit."""
    request_id: str
    """The request's x-request-id, or one made for it."""


class ModelInfo(_Body):
    """A model that is being served."""

    name: str
    """`name:number`."""
    digest: str
    """`sha256:<hex>`."""
    backend: str
    """Framework that computes."""
    backend_reason: str = ""
    """Why that one: as configured, or what was measured."""
    classes: tuple[str, ...]
    """Name of each class, in order."""
    input_shape: tuple[int, int, int]
    """[height, width, channels] that images are resized to."""
    precision: str = "float32"
    """Number format in which it answers: `float32`, `bfloat16` or `int8`."""
    deviation: float | None = None
    """How far its answers are from those that were stored with the version, over the largest of these, measured when it
    was loaded; null before that, and for a version that has none."""
    weight_bytes: int = 0
    """Size of its weights, as they are published."""
    verification: str = "full"
    """How its bytes were looked at: `full`, `cached` or, with sizes alone, `fast`."""


class LaneHealth(_Body):
    """How one version is doing in one replica."""

    model: str
    """`name:number`."""
    digest: str
    """`sha256:<hex>`."""
    in_flight: int
    """Requests that are being answered."""
    queued: int
    """Images that wait for a forward pass."""
    breaker: Literal["closed", "half_open", "open"]
    """State of its circuit breaker."""


class ReplicaHealth(_Body):
    """How one replica is doing."""

    replica: str
    """Its name, which the metrics carry too."""
    pid: int
    """Its process."""
    in_flight: int
    """Predictions being worked on."""
    is_full: bool
    """Whether the next one would be refused."""
    is_draining: bool
    """Whether it lets nothing in any more."""
    lanes: tuple[LaneHealth, ...]
    """The versions that it holds."""


class LimitsInfo(_Body):
    """What one replica lets in; null is no limit."""

    max_concurrent: int | None
    """Predictions at a time."""
    max_batch_size: int
    """Images in a forward pass."""
    max_body_bytes: int
    """Bytes of a body."""
    max_image_pixels: int
    """Pixels of an image."""
    deadline_s: float | None
    """Seconds that a prediction may take."""


class HealthReply(_Body):
    """How a server, or one replica of it, is doing."""

    status: str
    """`ready`, `starting`, `draining`, `overloaded` or `unavailable`."""
    replicas: int
    """Replicas that answer."""
    in_flight: int
    """Predictions being worked on."""
    uptime_s: float
    """Seconds since the start."""
    models: tuple[ModelInfo, ...]
    """What is served."""
    faults: tuple[str, ...] = ()
    """What the server could not follow: a version that an alias stands for and that cannot be loaded. What it served
    before answers on. Only the supervisor knows."""
    version: str = ""
    """Of dlhpc."""
    limits: LimitsInfo | None = None
    """Of each replica."""
    details: tuple[ReplicaHealth, ...] = ()
    """Each replica that answers."""


class FieldError(_Body):
    """One thing that is wrong with a request's body."""

    field: str
    """Where, as a dotted path; empty for the whole body."""
    message: str
    """What."""


class Problem(_Body):
    """Why a request was not answered as asked (RFC 9457)."""

    type: str
    """`urn:dlhpc:problem:<code>`."""
    title: str
    """The code in words, always the same for a code."""
    status: int
    """The HTTP status."""
    detail: str
    """What happened to this request, and what to do."""
    code: str
    """One of PROBLEMS, for programs."""
    request_id: str
    """The request's x-request-id, or one made for it."""
    errors: tuple[FieldError, ...] = ()
    """Every fault of the body, where there may be several."""


class Kind(NamedTuple):
    """What all problems of one code share."""

    status: int
    title: str


PROBLEMS: Final[dict[str, Kind]] = {
    "bad_json": Kind(400, "The body is not JSON"),
    "bad_form": Kind(400, "The body is not a form"),
    "unauthenticated": Kind(401, "A valid API key is needed"),
    "forbidden": Kind(403, "The API key does not admit to this"),
    "not_found": Kind(404, "There is nothing at this path"),
    "unknown_model": Kind(404, "There is no such model"),
    "method_not_allowed": Kind(405, "This path does not take this method"),
    "request_timeout": Kind(408, "The request took too long to arrive"),
    "body_too_large": Kind(413, "The body is too large"),
    "image_too_large": Kind(413, "The image has too many pixels"),
    "too_many_images": Kind(413, "There are too many images in the request"),
    "unsupported_media_type": Kind(415, "The body's type is not understood"),
    "invalid_request": Kind(422, "The body is not a prediction request"),
    "bad_base64": Kind(422, "The image is not base64"),
    "bad_image": Kind(422, "The image cannot be read"),
    "bad_pixels": Kind(422, "The array is no image of the model's"),
    "rate_limited": Kind(429, "There were too many requests"),
    "internal_error": Kind(500, "The server failed"),
    "prediction_failed": Kind(500, "The model failed on this input"),
    "replica_lost": Kind(503, "The replica that had the request went away"),
    "overloaded": Kind(503, "The server has too much to do"),
    "draining": Kind(503, "The server is stopping"),
    "breaker_open": Kind(503, "The model is failing"),
    "unavailable": Kind(503, "The server cannot answer now"),
    "deadline_exceeded": Kind(504, "The answer took too long"),
}
"""Every code, with its HTTP status and title."""


def problem(code: str, detail: str, request_id: str, errors: tuple[FieldError, ...] = ()) -> Problem:
    """The problem document of a code in PROBLEMS."""
    kind = PROBLEMS[code]
    return Problem(
        type=f"urn:dlhpc:problem:{code}",
        title=kind.title,
        status=kind.status,
        detail=detail,
        code=code,
        request_id=request_id,
        errors=errors,
    )


_SPACE: Final = b" \t\n\r\x0b\x0c"
_WRONG: Final = re.compile(r"[^A-Za-z0-9+/= \t\n\r\x0b\x0c]")


def encode_image(content: bytes) -> str:
    """An image file's bytes as PredictRequest.image."""
    return base64.b64encode(content).decode("ascii")


def decode_image_text(text: str) -> bytes:
    """The bytes of PredictRequest.image: base64, bare or as a data URL; line breaks are fine.

    Raises ValueError, which says what is wrong and what to send.
    """
    if text[:5].lower() == "data:":
        head, comma, text = text.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise ValueError(f"a data URL must be 'data:image/...;base64,<base64>'; {HOW_TO_SEND}")
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:  # line breaks, or worse
        fault = _WRONG.search(text)
        if fault is not None:
            raise ValueError(
                f"not base64 (character {fault[0]!r} at position {fault.start()}); {HOW_TO_SEND}"
            ) from error
    try:
        return binascii.a2b_base64(text.encode().translate(None, delete=_SPACE), strict_mode=True)
    except ValueError as error:
        raise ValueError(f"not base64 ({str(error).lower()}); {HOW_TO_SEND}") from error
