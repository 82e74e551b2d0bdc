"""The client for programs that wait for each answer."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Final, Self

import httpx

from dlhpc.client.attempts import Attempts
from dlhpc.client.images import ImageLike, predict_body
from dlhpc.client.replies import RequestError, parsed
from dlhpc.client.target import READY_S, Target, Verify, check_concurrency, timeouts
from dlhpc.errors import NotFoundError
from dlhpc.spec.wire import HealthReply, PredictReply

Outcome = PredictReply | RequestError | NotFoundError
"""What comes of one image among many."""
AHEAD: Final = 2
"""Images, in units of `concurrency`, that may be asked for before the first of them is taken."""


class Client:
    """Asks one server. May be shared by threads; close it, or use it as a context manager.

    with dlhpc.Client("http://127.0.0.1:8000") as client:
        print(client.predict("digit.png").label)
    """

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        deadline_s: float = 30.0,
        repeat_lost: bool = True,
        api_key: str | None = None,
        verify: Verify = True,
        proxy: str | None = None,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`model` names one of several that are served there; `deadline_s` bounds each call, retries included;
        `api_key` goes with each request. `repeat_lost` says whether what was sent and lost is sent once more: where one
        image may end the replica that works on it, False keeps it from a second one.

        `verify` says whose certificates are trusted behind https: a file of them (PEM), an ssl.SSLContext, True for the
        usual authorities, False for anybody's. `proxy` is the URL of a proxy (the environment's is not asked).
        `transport`, `sleep` and `now` are httpx's and time's.
        """
        self._target = Target(url, model, deadline_s, repeat_lost, api_key, verify, proxy)
        self._sleep, self._now = sleep, now
        self._http: httpx.Client = self._target.connected(httpx.Client, transport)

    @property
    def url(self) -> str:
        """The server's address, without a slash at its end."""
        return self._target.url

    def predict(
        self,
        image: ImageLike,
        *,
        model: str | None = None,
        deadline_s: float | None = None,
        request_id: str | None = None,
    ) -> PredictReply:
        """Classify one image: a path, a file's bytes, an array of pixels (H, W) or (H, W, C) uint8, or a Pillow image.

        Waits and asks again while the server is overloaded, starting or away, until the deadline. All attempts have the
        same `request_id`, a new one unless it is given. Raises RequestError when the server refuses the image or the
        time is over, NotFoundError when the file does not exist.

        reply = client.predict("digit.png", deadline_s=2.0)
        print(reply.label, reply.probabilities[reply.label])
        """
        path = self._target.path(model)
        attempts = self._target.attempts(path, deadline_s, self._now(), request_id)
        return parsed(PredictReply, self._send(attempts, path, predict_body(image)))

    def predict_many(
        self,
        images: Iterable[ImageLike],
        *,
        concurrency: int = 8,
        model: str | None = None,
        deadline_s: float | None = None,
    ) -> Generator[Outcome]:
        """Classify many, `concurrency` at a time: a reply or the error of each, in order.

        `images` is read as replies are taken, at most 2 x `concurrency` ahead: it may be endless. Whoever stops early
        waits for what is in flight.

        for path, reply in zip(paths, client.predict_many(paths)):
            print(path, reply.label if isinstance(reply, PredictReply) else reply)
        """
        most = AHEAD * check_concurrency(concurrency)

        def one(image: ImageLike) -> Outcome:
            try:
                return self.predict(image, model=model, deadline_s=deadline_s)
            except (RequestError, NotFoundError) as error:
                return error

        return _in_order(one, images, concurrency, most)

    def health(self) -> HealthReply:
        """What the server says of itself, whether or not it is ready."""
        attempts = self._target.attempts("/health", None, self._now())
        headers, left = attempts.begin(self._now())
        try:
            response = self._http.get("/health", headers=headers, timeout=timeouts(left))
        except httpx.RequestError as error:
            raise attempts.told(error) from error
        return parsed(HealthReply, response)

    def is_ready(self) -> bool:
        """Whether predictions are answered now."""
        try:
            return self._http.get("/readyz", timeout=min(self._target.deadline_s, READY_S)).is_success
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

    def __repr__(self) -> str:
        return f"Client{self._target}"

    def _send(self, attempts: Attempts, path: str, body: bytes) -> httpx.Response:
        """The call's answer."""
        while True:
            headers, left = attempts.begin(self._now())
            try:
                response = self._http.post(path, content=body, headers=headers, timeout=timeouts(left))
            except httpx.RequestError as error:
                pause = attempts.failed(error, self._now())
            else:
                again = attempts.answered(response, self._now())
                if again is None:
                    return response
                pause = again
            self._sleep(pause)


def _in_order(
    one: Callable[[ImageLike], Outcome], images: Iterable[ImageLike], concurrency: int, most: int
) -> Generator[Outcome]:
    """`one` of each on so many threads; what is done is given before more is read."""
    waiting: deque[Future[Outcome]] = deque()
    threads = ThreadPoolExecutor(concurrency, "dlhpc-client")
    try:
        for image in images:
            waiting.append(threads.submit(one, image))
            while waiting and (len(waiting) >= most or waiting[0].done()):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        threads.shutdown(cancel_futures=True)
