"""The fault table, clients: those that are slow, and those that leave."""

from __future__ import annotations

import socket
import struct
import time
from contextlib import suppress

import pytest

from tests.faults.raw import connected, one_reply, replies_on, request
from tests.faults.server import GOOD, Running

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(600)]

MANY = 150


def left(connection: socket.socket) -> None:
    """Leave without a word: the connection is reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def test_150_slow_headers_hold_nobody_up_and_are_not_waited_for(server: Running) -> None:
    with server.unharmed({("/predict", 200): 1}):
        slow = [connected(server.port) for _ in range(MANY)]
        for connection in slow:
            connection.sendall(b"POST /predict HTTP/1.1\r\nhost: ")
        assert server.predict().status_code == 200
        assert {one_reply(connection).status for connection in slow} == {408}
        for connection in slow:
            connection.close()


def test_a_slow_body_is_waited_for_until_its_deadline(server: Running) -> None:
    with server.unharmed({("/predict", 408): 1}), connected(server.port) as connection:
        connection.sendall(request(GOOD, "x-deadline-ms: 300")[:-1])
        told = one_reply(connection)
        assert (told.status, told.code) == (408, "request_timeout")
        assert told.header("connection") == "close"


def test_clients_that_leave_within_their_body(server: Running) -> None:
    before = server.counts().get(("/predict", "499"), 0)
    with server.unharmed({("/predict", 499): 20}):
        leaving = [connected(server.port) for _ in range(20)]
        for connection in leaving:
            connection.sendall(request(GOOD)[:-1])
        while server.health()["in_flight"] < 21:
            time.sleep(0.02)
        for connection in leaving:
            left(connection)
        server.until_counted("/predict", 499, int(before) + 20)


def test_clients_that_leave_before_their_answer(server: Running) -> None:
    before = sum(server.counts().values())
    with server.unharmed(None):
        for connection in [connected(server.port) for _ in range(20)]:
            connection.sendall(request(GOOD))
            left(connection)
        assert server.predict().status_code == 200
    assert sum(server.counts().values()) - before <= 23


def test_a_client_that_ends_its_side_counts_as_one_that_left(server: Running) -> None:
    with server.unharmed(None), connected(server.port) as connection:
        connection.sendall(request(GOOD))
        connection.shutdown(socket.SHUT_WR)
        assert {told.status for told in replies_on(connection)} <= {200, 400}


def test_a_client_that_does_not_read_holds_nobody_up(server: Running) -> None:
    with server.unharmed(None), connected(server.port) as connection:
        connection.setblocking(False)
        with suppress(BlockingIOError):
            while True:  # until no buffer on the way takes any more
                connection.send(request(GOOD) * 20)
        assert server.predict().status_code == 200
        left(connection)
