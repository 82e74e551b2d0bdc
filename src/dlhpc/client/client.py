"""A typed client with retries and deadlines."""

from __future__ import annotations

import io
import random
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self, TypeVar

import httpx
from pydantic import ValidationError

from dlhpc.errors import NotFoundError, ServingError
from dlhpc.spec.wire import DEADLINE_MS, HealthReply, PredictReply, PredictRequest, Problem, encode_image

Reply = TypeVar("Reply", PredictReply, HealthReply)

FIRST_WAIT_S: Final = 0.1
LONGEST_WAIT_S: Final = 5.0
RETRIED: Final = frozenset({429, 502, 503})
"""The server did not work on the request, or may be asked again: a prediction changes nothing."""


class ArrayLike(Protocol):
    """A numpy array, or what converts to one: pixels (H, W) or (H, W, C) uint8."""

    def __array__(self, *args: Any, **kwargs: Any) -> Any: ...


ImageLike = Path | str | bytes | ArrayLike
"""A file's path, a file's bytes, or pixels; a Pillow image counts as pixels."""


class RequestError(ServingError):
    """The server refused a request, or could not be asked in time. `problem` is its answer, when it was one."""

    def __init__(self, message: str, problem: Problem | None = None) -> None:
        super().__init__(message)
        self.problem = problem


class Client:
    """Asks one server. May be shared by threads; close it, or use it as a context manager.

    with dlhpc.Client("http://127.0.0.1:8000") as client:
        print(client.predict("digit.png").label)
    """

    def __init__(
        self,
        url: str,
        *,
        deadline_s: float = 30.0,
        api_key: str | None = None,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`deadline_s` bounds each call, retries included; `api_key` goes with each. `transport`, `sleep` and `now` are
        httpx's and time's."""
        self.url = url.rstrip("/")
        self._deadline_s = deadline_s
        self._sleep, self._now = sleep, now
        limits = httpx.Limits(max_connections=None)
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        try:
            self._http = httpx.Client(
                base_url=self.url, headers=headers, transport=transport, limits=limits, trust_env=False
            )
        except UnicodeEncodeError as error:
            raise RequestError("the API key has characters that no key has: copy it again") from error
        except (httpx.InvalidURL, ValueError) as error:
            raise RequestError(f"{url}: not a URL like http://127.0.0.1:8000: {error}") from error

    def predict(self, image: ImageLike, *, deadline_s: float | None = None) -> PredictReply:
        """Classify one image.

        Waits and asks again while the server is overloaded, starting or away, until the deadline. Raises RequestError
        when it refuses the image or the time is over, NotFoundError when the file does not exist.
        """
        body = PredictRequest(image=encode_image(image_bytes(image))).model_dump_json()
        response = self._send("POST", "/predict", deadline_s, content=body)
        return self._parsed(PredictReply, response)

    def predict_many(
        self, images: Iterable[ImageLike], *, concurrency: int = 8, deadline_s: float | None = None
    ) -> Iterator[PredictReply | RequestError | NotFoundError]:
        """Classify many, `concurrency` at a time: a reply or the error of each, in order."""

        def one(image: ImageLike) -> PredictReply | RequestError | NotFoundError:
            try:
                return self.predict(image, deadline_s=deadline_s)
            except (RequestError, NotFoundError) as error:
                return error

        with ThreadPoolExecutor(concurrency, "dlhpc-client") as threads:
            yield from threads.map(one, images)

    def health(self) -> HealthReply:
        """What the server says of itself, whether or not it is ready."""
        return self._parsed(HealthReply, self._ask("GET", "/health", self._deadline_s))

    def is_ready(self) -> bool:
        """Whether predictions are answered now."""
        try:
            return self._http.get("/readyz", timeout=min(self._deadline_s, 5.0)).is_success
        except httpx.TransportError:
            return False

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, method: str, path: str, deadline_s: float | None, **content: Any) -> httpx.Response:
        """The first answer that is final. Waits double, jittered (full jitter), and are never below Retry-After."""
        end = self._now() + (self._deadline_s if deadline_s is None else deadline_s)
        wait = FIRST_WAIT_S
        while True:
            left = max(end - self._now(), 0.001)
            try:
                response = self._ask(method, path, left, **content)
            except RequestError as error:
                refusal, least = error, 0.0
            else:
                if response.is_success:
                    return response
                refusal, least = self._refusal(response), _retry_after(response)
                if response.status_code not in RETRIED:
                    raise refusal
            pause = least + random.uniform(0, wait)
            if self._now() + pause >= end:
                raise refusal
            self._sleep(pause)
            wait = min(2 * wait, LONGEST_WAIT_S)

    def _ask(self, method: str, path: str, timeout_s: float, **content: Any) -> httpx.Response:
        headers = {"Content-Type": "application/json", DEADLINE_MS: str(int(timeout_s * 1000))}
        try:
            return self._http.request(method, path, timeout=timeout_s, headers=headers, **content)
        except httpx.TimeoutException as error:
            raise RequestError(f"{self.url}{path}: no answer within {timeout_s:.3g} s") from error
        except httpx.TransportError as error:
            raise RequestError(f"{self.url}: cannot be reached: {error}; is `dlhpc serve` running there?") from error

    def _refusal(self, response: httpx.Response) -> RequestError:
        where = f"{response.request.url}: {response.status_code}"
        try:
            problem = Problem.model_validate_json(response.content)
        except ValidationError:
            return RequestError(f"{where}: {response.text[:200]}")
        return RequestError(f"{where} {problem.code}: {problem.detail}", problem)

    def _parsed(self, kind: type[Reply], response: httpx.Response) -> Reply:
        try:
            return kind.model_validate_json(response.content)
        except ValidationError as error:
            raise RequestError(f"{response.request.url}: not a dlhpc server's answer: {response.text[:200]}") from error


def image_bytes(image: ImageLike) -> bytes:
    """The bytes of an image file: as given, read from a path, or pixels as PNG."""
    if isinstance(image, bytes):
        return image
    if isinstance(image, (str, Path)):
        try:
            return Path(image).read_bytes()
        except OSError as error:
            raise NotFoundError(f"{image}: {error.strerror or error}") from error
    import numpy as np
    from PIL import Image

    pixels = np.asarray(image)
    if pixels.dtype != np.uint8:
        raise RequestError(f"pixels must be uint8 in 0..255, but {pixels.dtype} came: convert them first")
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    buffer = io.BytesIO()
    try:
        Image.fromarray(pixels).save(buffer, "PNG")
    except TypeError as error:
        raise RequestError(f"pixels must be (H, W), (H, W, 1) or (H, W, 3), but {pixels.shape} came") from error
    return buffer.getvalue()


def _retry_after(response: httpx.Response) -> float:
    """Seconds that the server wants to be left alone; dates are not used by dlhpc."""
    text = response.headers.get("retry-after", "0")
    return float(text) if text.isdigit() else 0.0
