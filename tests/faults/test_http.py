"""The fault table, HTTP: headers that come twice, path tricks, and what is hardly HTTP any more."""

from __future__ import annotations

import re

import pytest

from tests.faults.raw import Told, asked, chunked, connected, exchange, final_reply, one_reply, request
from tests.faults.server import GOOD, Running

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(600)]

SANE = re.compile(r"[!-~]{1,128}")
CHUNKED = chunked(GOOD[:10], GOOD[10:])
LONG = "x" * 8_000


def answered_once(server: Running, sent: bytes, status: int) -> Told:
    """The only reply to what is sent, although the connection stays open for more."""
    (told,) = exchange(server.port, sent)
    assert told.status == status, told
    return told


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        (("content-type: application/json", "content-type: image/png"), "invalid_request"),
        (("content-type: application/json", "content-type: application/json"), "invalid_request"),
        (("x-deadline-ms: 5000", "x-deadline-ms: 9000"), "invalid_request"),
        (("x-deadline-ms: 5000, 9000",), "invalid_request"),
        (("x-deadline-ms: -1",), "invalid_request"),
        (("x-deadline-ms: 1e3",), "invalid_request"),
        (("x-deadline-ms: " + "9" * 4_000,), "invalid_request"),
        (("x-priority: low", "x-priority: normal"), "invalid_request"),
        (("x-priority: high",), "invalid_request"),
        (("content-encoding: identity", "content-encoding: gzip"), "invalid_request"),
    ],
)
def test_a_header_that_comes_twice_or_makes_no_sense(server: Running, headers: tuple[str, ...], code: str) -> None:
    with server.unharmed({("/predict", 422): 1}):
        told = asked(server.port, request(GOOD, *headers))
        assert (told.status, told.code) == (422, code), told


@pytest.mark.parametrize(
    "headers",
    [
        ("x-api-key: a", "x-api-key: b"),
        ("authorization: Bearer a", "x-api-key: a"),
        ("authorization: Bearer a", "authorization: Bearer b"),
        ("authorization: Basic YTpi",),
        ("authorization: Bearer \xff\xfe",),
    ],
)
def test_two_keys_or_a_wrong_one(server: Running, headers: tuple[str, ...]) -> None:
    with server.unharmed({("/predict", 401): 1}):
        told = asked(server.port, request(GOOD, *headers))
        assert (told.status, told.code) == (401, "unauthenticated"), told


@pytest.mark.parametrize(
    "headers",
    [
        (f"content-length: {len(GOOD)}", f"content-length: {len(GOOD) + 1}"),
        (f"content-length: {len(GOOD)}, {len(GOOD) + 1}",),
        ("content-length: -1",),
        (f"content-length: +{len(GOOD)}",),
        ("content-length: 1e2",),
        ("content-length: " + "9" * 30,),
        ("transfer-encoding: gzip",),
        ("transfer-encoding: chunked, identity",),
        ("transfer-encoding: chunked", "transfer-encoding: chunked"),
        ("transfer-encoding : chunked",),
        ("transfer-encoding:\x0bchunked",),
        ("a\x00b: 1",),
        ("a: \x00",),
        ("a b: 1",),
        ("no colon",),
        (": empty",),
        ("a: " + "x" * 20_000,),
        tuple(f"a{number}: 1" for number in range(200)),
    ],
)
def test_what_is_ambiguous_or_no_header_ends_the_connection(server: Running, headers: tuple[str, ...]) -> None:
    with server.unharmed({}):
        answered_once(server, request(GOOD, *headers) + request(GOOD), 400)


def test_two_equal_lengths_are_one(server: Running) -> None:
    with server.unharmed({("/predict", 200): 1}):
        length = f"content-length: {len(GOOD)}"
        answered_once(server, request(GOOD, length, length), 200)


def test_a_length_beside_chunks_smuggles_nothing(server: Running) -> None:
    """The length would end the request early, and what follows would be another request's beginning."""
    hidden = request(b"", line="GET /hidden HTTP/1.1")
    with server.unharmed({("/predict", 200): 1}):
        sent = request(chunked(GOOD), "content-length: 4", "transfer-encoding: chunked") + hidden
        told = exchange(server.port, sent)
        assert [each.status for each in told] in ([200], [200, 404])
    with server.unharmed({("/predict", 400): 1}):
        sent = request(b"0\r\n\r\n" + hidden, "content-length: 100", "transfer-encoding: chunked")
        told = exchange(server.port, sent)
        assert [each.status for each in told] in ([400], [400, 404])


@pytest.mark.parametrize(
    "content",
    [b"zz\r\n", b"-1\r\nx\r\n0\r\n\r\n", b"ffffffffffffffffff\r\nx", b"5\r\nabc\r\n0\r\n\r\n"],
)
def test_chunks_that_are_none(server: Running, content: bytes) -> None:
    with server.unharmed(None), connected(server.port) as connection:
        connection.sendall(request(content, "transfer-encoding: chunked"))
        assert one_reply(connection).status == 400


@pytest.mark.parametrize(
    "sent",
    [
        request(CHUNKED, "transfer-encoding: chunked"),
        request(chunked(GOOD, trailer=b"x-late: 1\r\n"), "transfer-encoding: chunked", "trailer: x-late"),
        request(b"%x;name=value\r\n%s\r\n0\r\n\r\n" % (len(GOOD), GOOD), "transfer-encoding: chunked"),
        request(GOOD, line="POST /predict?x=1&y=%00 HTTP/1.1"),
        request(GOOD, line="POST http://dlhpc.test/predict HTTP/1.1"),
        request(GOOD, line="POST /%70redict HTTP/1.1"),
        request(GOOD, line="POST /predict HTTP/1.0"),
        request(GOOD, "connection: close"),
        request(GOOD, "connection: keep-alive, content-type, x-request-id"),
        request(GOOD, "connection: upgrade", "upgrade: h2c", "http2-settings: AAMAAABkAAQAAP__"),
        request(GOOD, "x-request-timeout-seconds: 0.000001"),
        request(GOOD, "x-request-disconnect-disabled: ?1"),
        request(GOOD, "x-session-id: \xff", "serve_multiplexed_model_id: \xff", "traceparent: \xff"),
        request(GOOD, *(f"a{number}: 1" for number in range(60))),
    ],
    ids=["chunks", "trailer", "extension", "query", "absolute", "encoded letter", "HTTP/1.0", "close", "keep-alive",
         "h2c", "Ray's timeout", "Ray's disconnect", "no UTF-8", "many headers"],
)  # fmt: skip
def test_unusual_but_right(server: Running, sent: bytes) -> None:
    with server.unharmed({("/predict", 200): 1}):
        answered_once(server, sent, 200)


@pytest.mark.parametrize(
    "ids",
    [
        ("a\tb",),
        ("\xff\xfe",),
        ("x" * 5_000,),
        ("",),
        ("a b",),
        ("first", "second"),
        ("{{7*7}}",),
        ("a%0d%0aset-cookie:x",),
    ],
)
def test_a_request_id_that_is_none_is_replaced(server: Running, ids: tuple[str, ...]) -> None:
    with server.unharmed({("/predict", 200): 1}):
        told = answered_once(server, request(GOOD, *(f"x-request-id: {each}" for each in ids)), 200)
        back = told.header("x-request-id")
        assert back is not None
        assert SANE.fullmatch(back)
        assert told.json["request_id"] == back
        assert told.header("set-cookie") is None


@pytest.mark.parametrize(
    "path",
    [
        "/", "//predict", "/predict/", "/./predict", "/x/../predict", "/%2e/predict", "/%2e%2e/predict", "/predict%2f",
        "/%2fpredict", "/predict%00", "/predict%0a", "/predict;x=1", "/PREDICT", "/predict%20", "/predict.json",
        "/models/../predict", "/models/%2e%2e/predict", "/models//predict", "/models/digits/predict/x", "/%ff%fe",
        "/" + LONG, "/-/routes", "/-/healthz", "/-/ROUTES", "/%2d/routes", "/%2D/healthz", "/-/", "/metrics", "/stats",
        "/.env", "/api/serve/applications/",
    ],
)  # fmt: skip
def test_path_tricks(server: Running, path: str) -> None:
    is_ours = not path.lower().replace("%2d", "-").startswith("/-/")
    with server.unharmed({("", 404): 1} if is_ours else {}):
        told = answered_once(server, request(GOOD, line=f"POST {path} HTTP/1.1"), 404)
        assert told.code == "not_found"
        assert len(told.body) < 1_000


@pytest.mark.parametrize("path", ["/models/nobody/predict", "/models/digits%20/predict", "/models/digits:7/predict"])
def test_an_unknown_model(server: Running, path: str) -> None:
    told = asked(server.port, request(GOOD, line=f"POST {path} HTTP/1.1"))
    assert (told.status, told.code) in {(404, "unknown_model"), (404, "not_found")}, told


@pytest.mark.parametrize(
    "line",
    [
        "GET /a b HTTP/1.1", "GET /\xc3\xa4 HTTP/1.1", "GET /\x00 HTTP/1.1", "GET  HTTP/1.1",
        "GET /livez HTTX/1.1", "GET /livez", "GET", "GET http://elsewhere.test/livez HTTP/1.1", "\x16\x03\x01\x02",
    ],
)  # fmt: skip
def test_no_request_line(server: Running, line: str) -> None:
    with server.unharmed({}):
        answered_once(server, request(line=line), 400)


def test_a_greeting_of_tls(server: Running) -> None:
    with server.unharmed({}):
        answered_once(server, bytes.fromhex("16030100850100008103037f") + bytes(120), 400)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"])
def test_other_methods(server: Running, method: str) -> None:
    with server.unharmed({("/predict", 405): 1}):
        told = answered_once(server, request(line=f"{method} /predict HTTP/1.1", kind=None), 405)
        assert told.code == "method_not_allowed"
        assert told.header("allow") == "POST"


@pytest.mark.parametrize(("line", "status"), [("OPTIONS * HTTP/1.1", 404), ("CONNECT dlhpc.test:80 HTTP/1.1", 404)])
def test_requests_without_a_path(server: Running, line: str, status: int) -> None:
    with server.unharmed({}):
        answered_once(server, request(line=line, kind=None), status)


def test_websockets_are_not_spoken(server: Running) -> None:
    headers = [
        "upgrade: websocket",
        "connection: upgrade",
        "sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==",
        "sec-websocket-version: 13",
    ]
    with server.unharmed({("/predict", 405): 1}):
        assert asked(server.port, request(b"", *headers, line="GET /predict HTTP/1.1", kind=None)).status == 405


def test_pipelined_requests_are_answered_in_their_order(server: Running) -> None:
    sent = [request(GOOD, f"x-request-id: {number}") for number in range(5)]
    sent.insert(2, request(b"{}", "x-request-id: bad"))
    with server.unharmed({("/predict", 200): 5, ("/predict", 422): 1}):
        told = exchange(server.port, b"".join(sent))
        assert [each.header("x-request-id") for each in told] == ["0", "1", "bad", "2", "3", "4"]


def test_a_body_that_waits_to_be_asked_for(server: Running) -> None:
    with server.unharmed({("/predict", 200): 1}), connected(server.port) as connection:
        connection.sendall(request(b"", f"content-length: {len(GOOD)}", "expect: 100-continue"))
        assert one_reply(connection).status == 100
        connection.sendall(GOOD)
        assert one_reply(connection).status == 200


def test_a_huge_body_that_waits_to_be_asked_for_is_not(server: Running) -> None:
    with server.unharmed({("/predict", 413): 1}), connected(server.port) as connection:
        connection.sendall(request(b"", "content-length: 999999999", "expect: 100-continue"))
        # HAProxy may have asked for it already, and then waits a while for the body before it closes.
        assert final_reply(connection).status == 413


def test_http_2_with_prior_knowledge(server: Running) -> None:
    with server.unharmed({}), connected(server.port) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
        frame = connection.recv(9)
        assert frame[3] == 4  # its settings: HAProxy speaks it
        connection.sendall(b"\xff\xff\xff\1\0\0\0\0\1")  # headers larger than any frame may be
        while connection.recv(4096):
            continue
