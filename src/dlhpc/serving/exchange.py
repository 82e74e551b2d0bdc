"""Requests, replies and refusals: what handlers and guards speak, whatever server carries it."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dlhpc.serving.trace import Trace
from dlhpc.spec.api_key import ApiKey
from dlhpc.spec.wire import PROBLEM_TYPE, PROBLEMS, FieldError, problem

Receive = Callable[[], Awaitable[dict[str, Any]]]
Hold = Callable[[int], None]
Admit = Callable[["Request", int], None]
Headers = tuple[tuple[bytes, bytes], ...]
_NO_PARAMETERS: Final[Mapping[str, str]] = {}


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

    @property
    def status(self) -> int:
        """The HTTP status."""
        return PROBLEMS[self.code].status

    def again(self) -> Refusal:
        """The same for another request: headers are added to a refusal on its way out."""
        return Refusal(self.code, self.detail, headers=self.headers, errors=self.errors)

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
    id_at: int | None = None
    """Where in a body of JSON its request's id stands, with nothing but a brace behind it; None when it does not."""
    has_failures: bool = False
    """Whether the model failed on a part of what was asked."""

    def for_request(self, request_id: str) -> Reply:
        """The same as an answer to another request."""
        if self.id_at is None:
            return self
        body = self.body[: self.id_at] + id_and_end(request_id)
        return Reply(self.status, body, self.content_type, self.headers, self.id_at, self.has_failures)

    def plus(self, headers: Headers) -> Reply:
        """The same with more headers."""
        return Reply(self.status, self.body, self.content_type, self.headers + headers, self.id_at, self.has_failures)


def id_and_end(request_id: str) -> bytes:
    """A request's id as the last value of a JSON object."""
    return json.dumps(request_id).encode() + b"}"


class Request:
    """One HTTP request; its body is read when a handler asks for it."""

    __slots__ = (
        "_content",
        "_first",
        "_receive",
        "admit",
        "deadline",
        "headers",
        "held",
        "hold",
        "id",
        "is_whole",
        "key",
        "method",
        "parameters",
        "path",
        "peer",
        "trace",
        "weight",
    )

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
        self.parameters: Mapping[str, str] = _NO_PARAMETERS
        """What stood in the path for the parameters of its route."""
        self.peer = peer
        """Address of who opened the connection; empty where the server does not know it."""
        self.key: ApiKey | None = None
        """The API key that it has shown, once that was checked."""
        self.admit: Admit = lambda request, more: None
        """Asked before more than one image of the request is worked on; may raise a Refusal."""
        self.weight = 1
        """Images that are worked on for it, as far as that is known."""
        self.hold: Hold = lambda size: None
        """Asked before more bytes of the body are kept; may raise a Refusal."""
        self.held = 0
        """Bytes of the body that are kept."""
        self.is_whole = False
        """Whether the body has arrived: what comes too late before is the client's fault, and the server's after."""
        self.deadline: float | None = None
        """When, by the event loop's clock, nobody waits for the answer any more; None when somebody always does."""
        self.trace: Trace | None = None
        """Where it stands in a trace; None when its client keeps none."""
        self._receive = receive
        self._first: dict[bytes, bytes] | None = None
        self._content = b""

    def __str__(self) -> str:
        """What logs call it."""
        return f"request {self.id}" if self.trace is None else f"request {self.id} ({self.trace})"

    def header(self, name: bytes) -> bytes | None:
        """The first header of a (lower-case) name."""
        if self._first is None:
            self._first = dict(reversed(self.headers))
        return self._first.get(name)

    def only(self, name: bytes) -> bytes | None:
        """The header of a (lower-case) name which means one thing. Refusal when it comes twice: whoever has looked at
        the request before may have gone by the other."""
        found = None
        for key, value in self.headers:
            if key == name:
                if found is not None:
                    raise Refusal("invalid_request", f"{name.decode('latin-1')} came more than once: send it once")
                found = value
        return found

    async def body(self, limit: int) -> bytes:
        """The whole body; Refusal(413) as soon as it is known to exceed `limit` bytes, ClientGone when cut off.

        It is read once, and given again to who asks again.
        """
        if not self.is_whole:
            self._content = await self._read(limit)
            self.is_whole = True
        return self._content

    async def _read(self, limit: int) -> bytes:
        declared = self.header(b"content-length")
        if declared is not None and declared.isdigit() and int(declared) > limit:
            raise _too_large(f"{int(declared)} bytes", limit)
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body", False):
            content: bytes = message.get("body", b"")
            if len(content) > limit:
                raise _too_large(f"{len(content)} bytes", limit)
            self.keep(len(content))
            return content
        return await self._rest(message, limit)

    async def _rest(self, message: dict[str, Any], limit: int) -> bytes:
        parts = bytearray()
        while True:
            if message["type"] == "http.disconnect":
                raise ClientGone
            part = message.get("body", b"")
            if len(parts) + len(part) > limit:
                raise _too_large(f"more than {limit} bytes", limit)
            self.keep(len(part))
            parts += part
            if not message.get("more_body", False):
                return bytes(parts)
            message = await self._receive()

    def keep(self, size: int) -> None:
        """Count bytes that are kept for this request; Refusal(503) when there is no room for them."""
        self.hold(size)
        self.held += size

    def weigh(self, images: int) -> None:
        """Tell how many images it has; Refusal(503) when there is no room for as many."""
        self.admit(self, images - self.weight)
        self.weight = images


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


def check_plain(request: Request) -> None:
    """Refusal for a body that is compressed."""
    encoding = request.only(b"content-encoding")
    if encoding is not None and encoding.lower() != b"identity":
        raise Refusal(
            "unsupported_media_type", f"content-encoding {encoding.decode('latin-1')!r}: send it plain", close=True
        )


def _too_large(what: str, limit: int) -> Refusal:
    # The rest of the body is never read, so the connection cannot carry another request.
    return Refusal("body_too_large", f"the body has {what}; at most {limit} are taken", close=True)
