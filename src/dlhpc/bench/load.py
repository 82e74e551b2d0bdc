"""A load generator: so many clients that ask again as soon as they are answered, or requests at a given rate.

It is of our own because those that are kept well do not fit: wrk and hey know no open loop, vegeta and k6 come by no
Python package and no Debian package, and Locust takes more CPU per request than the servers that it asks. This one is
plain sockets and one epoll loop: about 30 microseconds of CPU a request, which is told with every result, since it
works on the same cores as the server.

At a given rate the latency counts from the moment when a request was due, not from when it could be sent: a server that
stops for a second has kept all those waiting who would have come meanwhile (no coordinated omission).

It runs in a process of its own, `python -m dlhpc.bench.load`: a job per line of JSON comes in, and for each go out
`begin` and `end`, when the measured time does, and the result.
"""

from __future__ import annotations

import json
import random
import select
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from dlhpc.bench.requests import bodies, body, http

SETTLE_S: Final = 0.3
"""Time before the measured time: connections are opened, batches find their rhythm."""
LAST_S: Final = 5.0
"""Longest that is waited, at the end, for what is under way."""
MOST_CONNECTIONS: Final = 1024


@dataclass(frozen=True)
class Job:
    """What is to be sent."""

    port: int
    clients: int
    """Connections; with a rate, those that are open at first."""
    seconds: float
    first: int
    """Number of the first body: jobs with other numbers send other bodies."""
    size: tuple[int, int]
    """Height and width of the images."""
    expected: int = 1000
    """About how many requests it will be: so many bodies are made beforehand."""
    repeated: bool = False
    """Whether every second body has been sent before."""
    rate: float | None = None
    """Requests a second; without it each client asks again when it was answered."""
    poisson: bool = True
    """Whether requests at a rate come independently of each other, or evenly spaced."""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Load:
    """What came back; times in seconds."""

    latencies: list[float]
    """Of the answers with status 200 whose request was due in the measured time."""
    statuses: dict[str, int]
    """How many answers had each status; `none` are those that did not come in time."""
    refused: list[float]
    """Latencies of the answers with other statuses."""
    seconds: float
    cpu_s: float
    """That this process used meanwhile."""
    retry_after: int = 0
    """Answers that had a Retry-After header."""
    sent: int = 0
    """Bodies that were used: the next job begins behind them."""


class _Connection:
    """One connection, with one request under way at most."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=LAST_S)
        self.socket.settimeout(None)  # it is read when there is something; with a timeout each call would be two
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.due = 0.0
        self.is_busy = False
        self.received = b""

    def send(self, request: bytes, due: float) -> None:
        """Send a request that was due at this time."""
        self.due, self.is_busy = due, True
        self.socket.sendall(request)

    def receive(self) -> tuple[int, bytes, bool] | None:
        """(status, head, whether the server closes) of an answer that has become whole; None before.

        Raises ConnectionError when the connection is at its end.
        """
        part = self.socket.recv(1 << 16)
        if not part:
            raise ConnectionResetError("closed by the server")
        self.received += part
        end = self.received.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = self.received[:end].lower()
        if not _is_whole(head, self.received, end + 4):
            return None
        self.received, self.is_busy = b"", False
        return int(head[9:12]), head, b"connection: close" in head


def _is_whole(head: bytes, received: bytes, start: int) -> bool:
    """Whether the body, which begins at `start`, has come to its end."""
    place = head.find(b"content-length:")
    if place >= 0:
        return len(received) >= start + int(head[place + 15 :].split(b"\r\n", 1)[0])
    if b"transfer-encoding: chunked" not in head:
        raise ValueError(f"an answer without a length is not understood here: {head[:200]!r}")
    return received.endswith(b"0\r\n\r\n")  # the last chunk; nothing follows, since nothing else was asked


class Generator:
    """Sends one job's requests."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._made = bodies(job.first, job.expected, job.size, repeated=job.repeated)
        self._number = 0
        self._poll = select.epoll()
        self._connections: dict[int, _Connection] = {}
        self._free: deque[_Connection] = deque()
        self._waiting: deque[float] = deque()
        """When requests were due for which there is no connection yet."""
        self._latencies: list[float] = []
        self._refused: list[float] = []
        self._statuses: Counter[str] = Counter()
        self._retry_after = 0
        self._window = (0.0, float("inf"))

    def run(self) -> Iterator[str | Load]:
        """Gives "begin" and "end" at these moments, then what came back."""
        for _ in range(self._job.clients):
            self._open()
        begin = time.perf_counter() + SETTLE_S
        end = begin + self._job.seconds
        self._window = (begin, end)
        dues = self._dues(begin - SETTLE_S, end)
        self._go(dues, begin)
        cpu = time.process_time()
        yield "begin"
        self._go(dues, end)
        cpu = time.process_time() - cpu
        yield "end"
        self._finish()
        yield Load(
            self._latencies,
            dict(self._statuses),
            self._refused,
            self._job.seconds,
            cpu,
            self._retry_after,
            self._number,
        )

    def _dues(self, start: float, end: float) -> Iterator[float]:
        """When requests are due, at a rate."""
        rate = self._job.rate
        if rate is None:
            return
        draw = random.Random(self._job.first)
        due = start
        while due < end:
            yield due
            due += draw.expovariate(rate) if self._job.poisson else 1 / rate

    def _go(self, dues: Iterator[float], until: float) -> None:
        """Send what is due and take what comes, until then."""
        is_open_loop = self._job.rate is not None
        due = next(dues, float("inf")) if is_open_loop else float("inf")
        while (now := time.perf_counter()) < until:
            while due <= now:
                self._waiting.append(due)
                due = next(dues, float("inf"))
            if not is_open_loop:
                while self._free:
                    self._ask(self._free.popleft(), now)
            self._ask_what_waits()
            # epoll's own patience counts in milliseconds, rounded up: below one it is asked again and again.
            patience = min(due, until) - now
            for descriptor, _ in self._poll.poll(patience if patience > 0.001 else 0):
                self._take(self._connections[descriptor])
            if 0 < patience <= 0.001:
                time.sleep(0.0001)
        if due < float("inf"):
            self._waiting.append(due)  # of the next part, or too late to count

    def _ask_what_waits(self) -> None:
        while self._waiting and self._waiting[0] <= time.perf_counter():
            if not self._free:
                if len(self._connections) >= MOST_CONNECTIONS:
                    return
                self._open()
            self._ask(self._free.popleft(), self._waiting.popleft())

    def _finish(self) -> None:
        """Wait for what is under way; what is due and was never sent did not come in time either."""
        end = time.perf_counter() + LAST_S
        while time.perf_counter() < end:
            self._ask_what_waits()
            if not any(each.is_busy for each in self._connections.values()):
                break
            for descriptor, _ in self._poll.poll(0.05):
                self._take(self._connections[descriptor])
        lost = [each.due for each in self._connections.values() if each.is_busy]
        self._statuses["none"] += sum(self._counts(due) for due in [*lost, *self._waiting])
        for each in self._connections.values():
            each.socket.close()
        self._poll.close()

    def _counts(self, due: float) -> bool:
        return self._window[0] <= due < self._window[1]

    def _open(self) -> None:
        connection = _Connection(self._job.port)
        self._connections[connection.socket.fileno()] = connection
        self._poll.register(connection.socket, select.EPOLLIN)
        self._free.append(connection)

    def _ask(self, connection: _Connection, due: float) -> None:
        number, self._number = self._number, self._number + 1
        content = self._made[number] if number < len(self._made) else self._later(number)
        connection.send(http(content, self._job.port, self._job.headers), due)

    def _later(self, number: int) -> bytes:
        """A body that nobody expected."""
        return body(self._job.first + number, self._job.size)

    def _take(self, connection: _Connection) -> None:
        try:
            answer = connection.receive()
        except ConnectionError:
            if connection.is_busy and self._counts(connection.due):
                self._statuses["closed"] += 1
            self._replace(connection)
            return
        if answer is None:
            return
        status, head, closes = answer
        if self._counts(connection.due):
            self._statuses[str(status)] += 1
            (self._latencies if status == 200 else self._refused).append(time.perf_counter() - connection.due)
            self._retry_after += b"\nretry-after:" in head
        if closes:
            self._replace(connection)
        else:
            self._free.append(connection)

    def _replace(self, connection: _Connection) -> None:
        del self._connections[connection.socket.fileno()]
        self._poll.unregister(connection.socket)
        connection.socket.close()
        if time.perf_counter() < self._window[1]:
            self._open()


def job_of(content: dict[str, Any]) -> Job:
    """A job from JSON."""
    return Job(**{**content, "size": tuple(content["size"])})


def main() -> None:
    """Do the jobs that come, a line each."""
    for line in sys.stdin:
        for told in Generator(job_of(json.loads(line))).run():
            print(json.dumps(asdict(told) if isinstance(told, Load) else told), flush=True)


if __name__ == "__main__":
    main()
