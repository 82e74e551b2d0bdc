"""The ASGI application: finds the handler of a path, turns refusals and faults into problem documents, counts all."""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from dlhpc.serving.exchange import PEER, ClientGone, Handler, Receive, Refusal, Reply, Request
from dlhpc.serving.guards.admission import RETRY_AFTER
from dlhpc.serving.routes import Route, Routes
from dlhpc.serving.trace import PARENT, trace_of
from dlhpc.spec.wire import REQUEST_ID

Send = Callable[[dict[str, Any]], Awaitable[None]]
Observe = Callable[[str, int, float], None]
"""Told of every answer: route (its pattern, empty for unknown paths), status, seconds."""
Refuse = Callable[[Refusal, Request], Reply]
"""Makes the reply to a request that is refused."""

_REQUEST_ID: Final = REQUEST_ID.encode()
_SANE_ID: Final = re.compile(rb"[!-~]{1,128}")
_CLIENT_GONE: Final = 499
_TOLD: Final = 100
"""Characters of an unknown path that are sent back."""
_log = logging.getLogger(__name__)


def problem_reply(refusal: Refusal, request: Request) -> Reply:
    """A refusal as a problem document."""
    return refusal.reply(request.id)


class App:
    """Routes as an ASGI application.

    `routes` maps path -> method -> handler; a path may have parameters, `/models/{name}`, whose values a handler finds
    in `request.parameters`. `refuse` words what is refused. `behind_proxy` says that our
    HAProxy stands before it, which names the client in a header.
    """

    def __init__(
        self,
        routes: Mapping[str, Mapping[str, Handler]],
        observe: Observe,
        *,
        refuse: Refuse = problem_reply,
        behind_proxy: bool = False,
    ) -> None:
        self.routes = routes
        self._routes = Routes(routes)
        self._observe = observe
        self._refuse = refuse
        self._behind_proxy = behind_proxy

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """One ASGI connection: an HTTP request, or the server's lifespan."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        started = time.perf_counter()
        request = Request(scope["method"], scope["path"], scope["headers"], receive, "")
        request.id = _request_id(request)
        request.peer = self._peer(scope, request)
        if request.header(PARENT) is not None:
            request.trace = trace_of(request.headers)
        route = self._routes.find(request.path, scope.get("raw_path") or b"")
        if route is not None:
            request.parameters = route.parameters
        status = _CLIENT_GONE
        try:
            with suppress(ClientGone):
                reply = await self._answer(request, route)
                await self._send(request, reply, send)
                status = reply.status
        finally:  # a server that cancels the call of a client who left is told of as well
            self._observe("" if route is None else route.pattern, status, time.perf_counter() - started)

    async def _answer(self, request: Request, route: Route | None) -> Reply:
        try:
            return await self._handler(request, route)(request)
        except Refusal as refusal:
            return self._refuse(refusal, request)
        except ClientGone:
            raise
        except MemoryError:
            _log.error("request %s: %s %s: not enough memory", request.id, request.method, request.path)
            detail = "there was not enough memory for this request: try again when less is going on"
            return Refusal("overloaded", detail, headers=RETRY_AFTER).reply(request.id)
        except Exception:
            _log.exception("%s: %s %s failed", request, request.method, request.path)
            fault = Refusal("internal_error", "this is a fault of the server; its log has the request's id")
            return self._refuse(fault, request)

    def _handler(self, request: Request, route: Route | None) -> Handler:
        if route is None:
            told = repr(request.path[:_TOLD]) + ("..." if len(request.path) > _TOLD else "")
            raise Refusal("not_found", f"{told} is not served; there are: {', '.join(self._routes.paths)}")
        methods = route.methods
        handler = methods.get("GET" if request.method == "HEAD" else request.method)
        if handler is None:
            allowed = ", ".join(methods)
            raise Refusal(
                "method_not_allowed",
                f"{request.path} takes {allowed}, not {request.method}",
                headers=((b"allow", allowed.encode()),),
            )
        return handler

    def _peer(self, scope: dict[str, Any], request: Request) -> str:
        named = request.header(PEER) if self._behind_proxy else None
        if named is not None:
            return named.decode("latin-1")
        client = scope.get("client")
        return client[0] if client else ""

    async def _send(self, request: Request, reply: Reply, send: Send) -> None:
        headers = [
            (b"content-type", reply.content_type),
            (b"content-length", b"%d" % len(reply.body)),
            *reply.headers,
            (_REQUEST_ID, request.id.encode()),
        ]
        if request.trace is not None:
            headers += request.trace.headers
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if request.method == "HEAD" else reply.body})


def _request_id(request: Request) -> str:
    """The client's x-request-id when it is sane enough to be logged and sent back, or a new one."""
    given = request.header(_REQUEST_ID)
    return given.decode("ascii") if given is not None and _SANE_ID.fullmatch(given) else secrets.token_hex(16)


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
