"""The supervisor's own port: Prometheus metrics of all replicas, and health that answers when no replica does."""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence

import uvicorn
from prometheus_client.core import Metric

from dlhpc.errors import ConflictError
from dlhpc.holders import holder_of_port
from dlhpc.monitoring.metrics import TEXT_TYPE, exposition
from dlhpc.serving.app import App
from dlhpc.serving.exchange import Guard, Reply, Request, guarded
from dlhpc.serving.health import Snapshot, health_routes
from dlhpc.spec.wire import HealthReply

Look = Callable[[bool], Awaitable[tuple[HealthReply, Sequence[Snapshot]]]]
"""Gives the server's health and its replicas' snapshots, these with metrics when asked for."""


def exporter_app(look: Look, guards: Sequence[Guard] = (), own: Callable[[], Sequence[Metric]] = lambda: ()) -> App:
    """/metrics, behind these guards and with the supervisor's `own`, /livez, /readyz and /health in ASGI."""

    async def metrics(request: Request) -> Reply:
        state, snapshots = await look(True)
        families = [(each.replica, list(each.families)) for each in snapshots]
        return Reply(200, exposition(families, is_ready=state.status == "ready", own=own()), TEXT_TYPE)

    async def state() -> HealthReply:
        return (await look(False))[0]

    routes = {"/metrics": {"GET": guarded(metrics, guards)}, **health_routes(state)}
    return App(routes, lambda route, status, seconds: None)


class Exporter:
    """An ASGI application on a thread of its own."""

    def __init__(self, app: App, listener: socket.socket) -> None:
        config = uvicorn.Config(app, lifespan="off", log_level="warning", access_log=False, timeout_keep_alive=30)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, args=(listener,), name="exporter", daemon=True)
        self._thread.start()

    def _run(self, listener: socket.socket) -> None:
        asyncio.run(self._server.serve([listener]))

    def stop(self) -> None:
        """Close the port; returns when that is done."""
        self._server.should_exit = True
        self._thread.join(10)


def listen(host: str, port: int, setting: str) -> socket.socket:
    """A listening socket. Raises ConflictError, which names `setting`, when the port is taken or forbidden."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise ConflictError(_taken(host, port, setting, error)) from error
    return listener


def _taken(host: str, port: int, setting: str, error: OSError) -> str:
    where = f"{setting}: cannot listen on {host}:{port} ({error.strerror})"
    if error.errno in (errno.EADDRINUSE, errno.EACCES):
        holder = holder_of_port(port)
        who = f"{holder} does; stop it, or " if holder else ""
        return f"{where}: {who}choose another port: --set {setting}=<port>"
    return f"{where}: 'host' must be an address of this machine, such as 127.0.0.1, or 0.0.0.0 for all of them"
