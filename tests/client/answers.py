"""A server's answers, written out, and a clock that only sleeping moves."""

from __future__ import annotations

from collections.abc import Callable

import httpx

from dlhpc.spec.wire import PredictReply, problem

REPLY = PredictReply(
    index=1, label="cat", probabilities={"dog": 0.25, "cat": 0.75}, model="m:1", digest="sha256:00", request_id="r"
)


def ok() -> httpx.Response:
    """REPLY as a server sends it."""
    return httpx.Response(200, content=REPLY.model_dump_json(by_alias=True))


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.time = 0.0
        self.slept: list[float] = []

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds

    async def async_sleep(self, seconds: float) -> None:
        self.sleep(seconds)


def in_turn(*responses: httpx.Response | Exception) -> Callable[[httpx.Request], httpx.Response]:
    queue = list(responses)

    def answer(request: httpx.Request) -> httpx.Response:
        response = queue.pop(0)
        if isinstance(response, Exception):
            raise response
        return response

    return answer


def refusal(code: str, retry_after: str | None = None, **headers: str) -> httpx.Response:
    body = problem(code, "because", "r")
    if retry_after is not None:
        headers["retry-after"] = retry_after
    return httpx.Response(body.status, content=body.model_dump_json(), headers=headers)
