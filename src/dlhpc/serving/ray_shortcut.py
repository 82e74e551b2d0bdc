"""The short way through Ray Serve's replica: from its HTTP server straight to our application.

Ray's own way costs as much per request as decoding, batching and computing together: it copies headers, makes a record,
two tasks, a queue and two contexts, and counts for metrics that are off. Nothing of that is needed here but the number
of requests that are being worked on, which autoscaling and an orderly end go by. Paths under /-/ stay Ray's: HAProxy
asks there for the replica's health.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dlhpc.errors import ServingError
from dlhpc.serving.exchange import Receive
from dlhpc.serving.leaving import Asgi, Send

_NEEDED = ("start_asgi_http_server", "RequestMetadata", "RequestProtocol")


def shorten(internals: Any, app: Asgi) -> None:
    """Let the replica of this process, whose module is ray.serve._private.replica, serve `app` itself.

    It must be called before Ray starts the replica's HTTP server. Raises ServingError when this is another Ray than
    the one that it was written for.
    """
    missing = [name for name in _NEEDED if not hasattr(internals, name)]
    if missing:
        raise ServingError(f"Ray Serve is not the one that was expected: {internals.__name__} has no {missing[0]}")
    start = internals.start_asgi_http_server
    asked = internals.RequestMetadata(
        request_id="", internal_request_id="", is_direct_ingress=True, _request_protocol=internals.RequestProtocol.HTTP
    )

    async def started(entry: Any, *options: Any, **more: Any) -> Any:
        task, server = await start(entry, *options, **more)  # the server begins when its task does, after this
        metrics, rays = entry.__self__._metrics_manager, server.config.app()
        server.config.app = lambda: direct(
            app, rays, lambda: metrics.inc_num_ongoing_requests(asked), lambda: metrics.dec_num_ongoing_requests(asked)
        )
        server.config.ws = "none"  # an upgrade to WebSocket is ignored, as HTTP allows
        return task, server

    internals.start_asgi_http_server = started


def direct(app: Asgi, rays: Asgi, entered: Callable[[], None], left: Callable[[], None]) -> Asgi:
    """Asks `app`, or for paths under /-/ Ray's; each request to `app` is told as it comes and goes."""

    async def either(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith("/-/"):
            await rays(scope, receive, send)
            return
        entered()
        try:
            await app(scope, receive, send)
        finally:
            left()

    return either
