"""The client for programs with an event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Final, Self

import httpx

from dlhpc.client.attempts import Attempts
from dlhpc.client.client import AHEAD, Outcome
from dlhpc.client.images import ImageLike, predict_body
from dlhpc.client.replies import RequestError, parsed
from dlhpc.client.target import READY_S, Target, Verify, check_concurrency, timeouts
from dlhpc.errors import NotFoundError
from dlhpc.spec.wire import HealthReply, PredictReply

INLINE_BYTES: Final = 32 * 1024
"""Up to here bytes are encoded on the event loop (some 20 microseconds): another thread costs more."""


class AsyncClient:
    """Asks one server, from one event loop. Files are read and images encoded on other threads.

    async with dlhpc.AsyncClient("http://127.0.0.1:8000") as client:
        print((await client.predict("digit.png")).label)
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
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """As Client's."""
        self._target = Target(url, model, deadline_s, repeat_lost, api_key, verify, proxy)
        self._sleep, self._now = sleep, now
        self._http: httpx.AsyncClient = self._target.connected(httpx.AsyncClient, transport)

    @property
    def url(self) -> str:
        """The server's address, without a slash at its end."""
        return self._target.url

    async def predict(
        self,
        image: ImageLike,
        *,
        model: str | None = None,
        deadline_s: float | None = None,
        request_id: str | None = None,
    ) -> PredictReply:
        """Classify one image; see Client.predict. May be cancelled: the server then takes it out of its batch."""
        path = self._target.path(model)
        attempts = self._target.attempts(path, deadline_s, self._now(), request_id)
        return parsed(PredictReply, await self._send(attempts, path, await _body(image)))

    async def predict_many(
        self,
        images: Iterable[ImageLike] | AsyncIterable[ImageLike],
        *,
        concurrency: int = 8,
        model: str | None = None,
        deadline_s: float | None = None,
    ) -> AsyncGenerator[Outcome]:
        """Classify many, `concurrency` at a time: a reply or the error of each, in order, as soon as it is known.

        `images` may be an async iterable; it is read as replies are taken, at most 2 x `concurrency` ahead, so it may
        be endless. An iterable that is no sequence is asked for its next image on another thread. Whoever stops early
        closes the iterator (contextlib.aclosing), which cancels what is in flight.

        async for reply in client.predict_many(frames()):
            print(reply)
        """
        room = asyncio.Semaphore(AHEAD * check_concurrency(concurrency))
        free = asyncio.Semaphore(concurrency)
        asked: asyncio.Queue[asyncio.Task[Outcome] | None] = asyncio.Queue()
        tasks: set[asyncio.Task[Any]] = set()

        async def one(image: ImageLike) -> Outcome:
            async with free:
                try:
                    return await self.predict(image, model=model, deadline_s=deadline_s)
                except (RequestError, NotFoundError) as error:
                    return error

        async def ask() -> None:
            try:
                await room.acquire()
                async for image in _each(images):
                    task = asyncio.create_task(one(image))
                    tasks.add(task)
                    asked.put_nowait(task)
                    await room.acquire()
            finally:
                asked.put_nowait(None)

        asking = asyncio.create_task(ask())
        try:
            while (task := await asked.get()) is not None:
                reply = await task
                tasks.discard(task)
                room.release()
                yield reply
            await asking  # raises what `images` raised
        finally:
            tasks.add(asking)
            for each in tasks:
                each.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def health(self) -> HealthReply:
        """What the server says of itself, whether or not it is ready."""
        attempts = self._target.attempts("/health", None, self._now())
        headers, left = attempts.begin(self._now())
        try:
            async with asyncio.timeout(left):
                response = await self._http.get("/health", headers=headers, timeout=timeouts(left))
        except (httpx.RequestError, TimeoutError) as error:
            raise attempts.told(error) from error
        return parsed(HealthReply, response)

    async def is_ready(self) -> bool:
        """Whether predictions are answered now."""
        try:
            return (await self._http.get("/readyz", timeout=min(self._target.deadline_s, READY_S))).is_success
        except httpx.TransportError:
            return False

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"AsyncClient{self._target}"

    async def _send(self, attempts: Attempts, path: str, body: bytes) -> httpx.Response:
        """The call's answer."""
        while True:
            headers, left = attempts.begin(self._now())
            try:
                async with asyncio.timeout(left):
                    response = await self._http.post(path, content=body, headers=headers, timeout=timeouts(left))
            except (httpx.RequestError, TimeoutError) as error:
                pause = attempts.failed(error, self._now())
            else:
                again = attempts.answered(response, self._now())
                if again is None:
                    return response
                pause = again
            await self._sleep(pause)


async def _body(image: ImageLike) -> bytes:
    if isinstance(image, bytes) and len(image) <= INLINE_BYTES:
        return predict_body(image)
    return await asyncio.to_thread(predict_body, image)


async def _each(images: Iterable[ImageLike] | AsyncIterable[ImageLike]) -> AsyncIterator[ImageLike]:
    """The images one by one, wherever they come from; the event loop waits for none."""
    if isinstance(images, AsyncIterable):
        async for image in images:
            yield image
    elif isinstance(images, Sequence):
        for image in images:
            yield image
    else:
        iterator = iter(images)

        def following() -> tuple[ImageLike] | None:
            for image in iterator:
                return (image,)
            return None

        while (found := await asyncio.to_thread(following)) is not None:
            yield found[0]
