"""HTTP by hand: bytes to a socket as they are, and what came back. HTTP clients would tidy such requests up."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, BinaryIO

PATIENCE_S = 60.0


@dataclass(frozen=True)
class Told:
    """A reply."""

    status: int
    headers: Sequence[tuple[str, str]]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The problem's code; empty where the body is no problem document."""
        return self.json["code"] if self.header("content-type") == "application/problem+json" else ""

    def header(self, name: str) -> str | None:
        """The only value of a header; None without it."""
        values = [value for each, value in self.headers if each == name]
        assert len(values) <= 1, f"{name} came {len(values)} times"
        return values[0] if values else None


def request(
    body: bytes = b"", *headers: str, line: str = "POST /predict HTTP/1.1", kind: str | None = "application/json"
) -> bytes:
    """A request's bytes, with the length of its body unless `headers` say it."""
    named = {header.partition(":")[0].lower() for header in headers}
    lines = [line, "host: dlhpc.test", *headers]
    if kind is not None and "content-type" not in named:
        lines.append(f"content-type: {kind}")
    if not named & {"content-length", "transfer-encoding"}:
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def chunked(*parts: bytes, trailer: bytes = b"") -> bytes:
    """A body in chunks."""
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n" + trailer + b"\r\n"


def connected(port: int) -> socket.socket:
    """A connection to the server."""
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)


def exchange(port: int, sent: bytes) -> list[Told]:
    """Send, then ask for something harmless as the connection's last request; gives every reply but the one to that.

    Where the connection is closed before, whatever was taken for a request shows.
    """
    with connected(port) as connection:
        with suppress(OSError):  # it was answered, and closed, before it was whole
            connection.sendall(sent + request(b"", "connection: close", line="GET /livez HTTP/1.1", kind=None))
        told = replies_on(connection)
    return told[:-1] if told and told[-1].body == b'{"status":"alive"}' else told


def asked(port: int, sent: bytes) -> Told:
    """Send a request and give its reply; the connection is left open until it is there."""
    with connected(port) as connection:
        try:
            connection.sendall(sent)
        except OSError:  # as above
            return one_reply(connection)
        return one_reply(connection)


def one_reply(connection: socket.socket) -> Told:
    """The next reply on a connection."""
    told = _reply(connection.makefile("rb"))
    assert told is not None, "the connection was closed without a reply"
    return told


def final_reply(connection: socket.socket) -> Told:
    """The next reply on a connection that is no 1xx, which only announces one."""
    stream = connection.makefile("rb")
    while (told := _reply(stream)) is not None:
        if told.status >= 200:
            return told
    raise AssertionError("the connection was closed without a final reply")


def replies_on(connection: socket.socket) -> list[Told]:
    """All replies until the connection is closed."""
    stream = connection.makefile("rb")
    found = []
    while (told := _reply(stream)) is not None:
        found.append(told)
    return found


def _reply(stream: BinaryIO) -> Told | None:
    try:
        first = stream.readline()
    except ConnectionResetError:
        return None
    if not first:
        return None
    status = int(first.split()[1])
    headers = []
    while (line := stream.readline()) not in (b"\r\n", b""):
        name, _, value = line.decode("latin-1").partition(":")
        headers.append((name.strip().lower(), value.strip()))
    sizes = [int(value) for name, value in headers if name == "content-length"]
    has_body = status >= 200 and status not in (204, 304)
    return Told(status, headers, (stream.read(sizes[0]) if sizes else stream.read()) if has_body else b"")
