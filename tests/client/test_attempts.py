"""The plan of a call's attempts, as a pure function of answers and of time."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import UTC, datetime

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlhpc.client.attempts import CONNECT_S, FIRST_WAIT_S, LONGEST_WAIT_S, Attempts
from dlhpc.client.replies import RequestError, UnreachableError
from dlhpc.spec.wire import PROBLEMS
from tests.client.answers import ok, refusal

NOW = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)


def longest(low: float, high: float) -> float:
    return high


def attempts(deadline_s: float = 1000.0, draw: Callable[[float, float], float] = longest) -> Attempts:
    return Attempts("http://server", "/predict", deadline_s, 0.0, draw=draw, date=lambda: NOW)


def asked(response: httpx.Response) -> httpx.Response:
    response.request = httpx.Request("POST", "http://server/predict")
    return response


def test_pauses_double_up_to_a_limit_and_are_drawn_between_zero_and_that() -> None:
    call, drawn = attempts(), []
    for _ in range(8):
        call.begin(0.0)
        drawn.append(call.failed(httpx.ConnectError("refused"), 0.0))
    assert drawn == [FIRST_WAIT_S * 2**power for power in range(6)] + [LONGEST_WAIT_S] * 2
    assert attempts(draw=lambda low, high: low).failed(httpx.ConnectError("refused"), 0.0) == 0.0


@pytest.mark.parametrize(
    ("text", "date", "seconds"),
    [
        ("7", None, 7.0),
        ("Tue, 24 Nov 2026 12:00:09 GMT", None, 9.0),
        ("Tue, 24 Nov 2026 12:00:09 GMT", "Tue, 24 Nov 2026 12:00:06 GMT", 3.0),  # the server's clock is what it means
        ("Tue, 24 Nov 2026 11:00:00 GMT", None, 0.0),
        ("soon", None, 0.0),
        ("-3", None, 0.0),
        ("", None, 0.0),
        ("Tue, 99 Nov 2026 12:00:09 GMT", None, 0.0),
    ],
)
def test_retry_after_is_kept_as_seconds_and_as_a_date(text: str, date: str | None, seconds: float) -> None:
    headers = {} if date is None else {"date": date}
    pause = attempts().answered(asked(refusal("overloaded", text, **headers)), 0.0)
    assert pause == pytest.approx(seconds + FIRST_WAIT_S)


@pytest.mark.parametrize("code", PROBLEMS)
def test_only_what_was_not_worked_on_is_asked_again(code: str) -> None:
    if PROBLEMS[code].status in {429, 503}:
        assert attempts().answered(asked(refusal(code)), 0.0) == FIRST_WAIT_S
    else:
        with pytest.raises(RequestError) as caught:
            attempts().answered(asked(refusal(code)), 0.0)
        assert (caught.value.status, caught.value.tries) == (PROBLEMS[code].status, 0)


def test_an_answer_is_an_answer() -> None:
    assert attempts().answered(asked(ok()), 0.0) is None


@pytest.mark.parametrize(
    "lost",
    [
        httpx.RemoteProtocolError("closed"),
        httpx.ReadError("reset"),
        httpx.WriteError("reset"),
        refusal("replica_lost"),
        httpx.Response(502),
    ],
)
def test_what_was_sent_and_lost_is_sent_once_more_and_no_oftener(lost: Exception | httpx.Response) -> None:
    """A request that kills who works on it must not go from one to the next."""
    call = attempts()

    def tell() -> float | None:
        call.begin(0.0)
        if isinstance(lost, httpx.Response):
            return call.answered(asked(lost), 0.0)
        assert isinstance(lost, httpx.TransportError)
        return call.failed(lost, 0.0)

    assert tell() == FIRST_WAIT_S
    call.answered(asked(refusal("overloaded")), 0.0)  # what was not worked on is not counted
    call.failed(httpx.ConnectError("refused"), 0.0)
    with pytest.raises(RequestError) as caught:
        tell()
    assert caught.value.tries == 2


def test_each_attempt_is_told_what_is_left() -> None:
    call = attempts(deadline_s=3.0)
    headers, left = call.begin(1.0)
    assert (headers["x-deadline-ms"], left, call.tries) == ("2000", 2.0, 1)
    headers, left = call.begin(5.0)
    assert headers["x-deadline-ms"] == "1"
    assert left > 0
    assert headers["x-request-id"] == call.request_id


@given(
    st.floats(0.001, 100.0),
    st.lists(st.tuples(st.sampled_from(["overloaded", "rate_limited", "refused"]), st.integers(0, 20)), max_size=50),
    st.floats(0.0, 1.0),
)
def test_no_pause_leads_past_the_deadline(deadline_s: float, answers: list[tuple[str, int]], share: float) -> None:
    call, now = attempts(deadline_s, lambda low, high: low + share * (high - low)), 0.0
    for code, retry_after in answers:
        call.begin(now)
        try:
            if code == "refused":
                pause: float | None = call.failed(httpx.ConnectError("refused"), now)
            else:
                pause = call.answered(asked(refusal(code, str(retry_after))), now)
        except RequestError:
            return
        assert pause is not None
        assert pause >= (0 if code == "refused" else retry_after)
        now += pause
        assert now < deadline_s


def untrusted() -> httpx.ConnectError:
    error = httpx.ConnectError("certificate verify failed")
    error.__cause__ = ssl.SSLCertVerificationError("certificate verify failed")
    return error


@pytest.mark.parametrize(
    "error", [untrusted(), httpx.UnsupportedProtocol("ftp"), httpx.LocalProtocolError("illegal header")]
)
def test_what_would_fail_again_is_not_tried_again(error: httpx.TransportError) -> None:
    with pytest.raises(RequestError):
        attempts().failed(error, 0.0)


def test_errors_tell_what_happened() -> None:
    call = attempts(deadline_s=2.0)
    call.begin(0.0)
    absent = call.told(httpx.ConnectError("refused"))
    assert isinstance(absent, UnreachableError)
    assert "http://server: cannot be reached: refused; is `dlhpc serve` running there?" in str(absent)
    assert "no answer within 2 s: see deadline_s" in str(call.told(TimeoutError()))
    call.begin(0.0)
    assert "ended before the answer: gone (2 attempts)" in str(call.told(httpx.ReadError("gone")))
    assert CONNECT_S < 30
