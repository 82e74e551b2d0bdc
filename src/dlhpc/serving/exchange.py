"""Requests, replies and refusals: what handlers and guards speak, whatever server carries it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from dlhpc.spec.api_key import ApiKey
from dlhpc.spec.wire import PROBLEM_TYPE, FieldError, problem

Receive = Callable[[], Awaitable[dict[str, Any]]]
Headers = tuple[tuple[bytes, bytes], ...]


class ClientGone(Exception):  # noqa: N818 - it is no error of ours
    """The client closed the connection before its request was whole: nobody waits for a reply."""


class Refusal(Exception):  # noqa: N818 - it is an answer
    """A request will not be answered as asked. `code` is one of wire.PROBLEMS."""

    def __init__(
        self, code: str, detail: str, *, headers: Headers = (), errors: Sequence[FieldError] = (), close: bool = False
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.headers = headers + (CLOSE if close else ())
        self.errors = tuple(errors)

    def reply(self, request_id: str) -> Reply:
        """The problem document."""
        document = problem(self.code, self.detail, request_id, self.errors)
        body = document.model_dump_json(exclude_defaults=True).encode()
        return Reply(document.status, body, PROBLEM_TYPE.encode(), self.headers)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer."""

    status: int
    body: bytes
    content_type: bytes = b"application/json"
    headers: Headers = ()

    def plus(self, headers: Headers) -> Reply:
        """The same with more headers."""
        return replace(self, headers=self.headers + headers)


class Request:
    """One HTTP request; its body is read when a handler asks for it."""

    __slots__ = ("_receive", "headers", "id", "is_whole", "key", "method", "path", "peer")

    def __init__(
        self,
        method: str,
        path: str,
        headers: Sequence[tuple[bytes, bytes]],
        receive: Receive,
        request_id: str,
        peer: str = "",
    ) -> None:
        self.method = method
        self.path = path
        self.headers = headers
        self.id = request_id
        self.peer = peer
        """Address of who opened the connection; empty where the server does not know it."""
        self.key: ApiKey | None = None
        """The API key that it has shown, once that was checked."""
        self.is_whole = False
        """Whether the body has arrived: what comes too late before is the client's fault, and the server's after."""
        self._receive = receive

    def header(self, name: bytes) -> bytes | None:
        """The first header of a (lower-case) name."""
        for key, value in self.headers:
            if key == name:
                return value
        return None

    async def body(self, limit: int) -> bytes:
        """The whole body; Refusal(413) as soon as it is known to exceed `limit` bytes, ClientGone when cut off."""
        declared = self.header(b"content-length")
        if declared is not None and int(declared) > limit:
            raise _too_large(f"{int(declared)} bytes", limit)
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body", False):
            self.is_whole = True
            content: bytes = message.get("body", b"")
            if len(content) > limit:
                raise _too_large(f"{len(content)} bytes", limit)
            return content
        return await self._rest(message, limit)

    async def _rest(self, message: dict[str, Any], limit: int) -> bytes:
        parts = bytearray()
        while True:
            if message["type"] == "http.disconnect":
                raise ClientGone
            parts += message.get("body", b"")
            if len(parts) > limit:
                raise _too_large(f"more than {limit} bytes", limit)
            if not message.get("more_body", False):
                self.is_whole = True
                return bytes(parts)
            message = await self._receive()


Handler = Callable[[Request], Awaitable[Reply]]
Guard = Callable[[Handler], Handler]
"""Wraps a handler: answers in its place, or lets it answer."""

CLOSE_MARK: Final = b"x-close"
"""Asks a proxy in front to close the client's connection: `connection: close` itself ends at the proxy."""
PEER: Final = b"x-dlhpc-peer"
"""Where a proxy in front names its client: it replaces what the client says there."""
CLOSE: Final[Headers] = ((b"connection", b"close"), (CLOSE_MARK, b"1"))


def guarded(handler: Handler, guards: Sequence[Guard]) -> Handler:
    """The handler behind its guards; the first guard sees a request first."""
    for guard in reversed(guards):
        handler = guard(handler)
    return handler


def _too_large(what: str, limit: int) -> Refusal:
    # The rest of the body is never read, so the connection cannot carry another request.
    return Refusal("body_too_large", f"the body has {what}; at most {limit} are taken", close=True)
