"""The attempts of one call: when to send again, after which pause, and when to give up. Pure: it never waits or sends.

What makes it safe to send a prediction twice: it changes nothing on the server. Its answer depends on the image and the
version alone, and every attempt has the same x-request-id. What is not repeated: an answer that would be the same again
(4xx, and 500: the model failed on this input), and one that came too late (504: the time is over for the next as well).
"""

from __future__ import annotations

import random
import secrets
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final

import httpx

from dlhpc.client.replies import RequestError, UnreachableError, refusal
from dlhpc.spec.wire import DEADLINE_MS, REQUEST_ID

FIRST_WAIT_S: Final = 0.1
LONGEST_WAIT_S: Final = 5.0
CONNECT_S: Final = 5.0
"""Longest that one attempt waits for a connection: a packet that was lost is not worth the whole deadline."""
_NOT_REACHED: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError, httpx.UnsupportedProtocol)
REFUSED: Final = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE})
"""Whoever answers so has not worked on the request."""
LOST_CODE: Final = "replica_lost"
MOST_LOST: Final = 2
"""Attempts that may get lost after they were sent. Should the request be what kills replicas, it kills no third one."""


class Attempts:
    """The attempts of one call, from `now` until `deadline_s` later.

    Call `begin` before each attempt, and after it `answered` or `failed`: these give the seconds to wait before the
    next one, or raise the call's error. Pauses double and are drawn between zero and that ("full jitter"), on top of
    what the server asks for in Retry-After.
    """

    def __init__(
        self,
        url: str,
        path: str,
        deadline_s: float,
        now: float,
        *,
        request_id: str | None = None,
        repeat_lost: bool = True,
        draw: Callable[[float, float], float] = random.uniform,
        date: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.request_id = request_id or secrets.token_hex(16)
        self.tries = 0
        self._url, self._path = url, path
        self._deadline_s, self._end = deadline_s, now + deadline_s
        self._draw, self._date = draw, date
        self._wait = FIRST_WAIT_S
        self._lost, self._most_lost = 0, MOST_LOST if repeat_lost else 1

    def begin(self, now: float) -> tuple[dict[str, str], float]:
        """Headers of the next attempt, which is counted, and the seconds that it may take."""
        self.tries += 1
        left = max(self._end - now, 0.001)
        return {REQUEST_ID: self.request_id, DEADLINE_MS: str(max(int(left * 1000), 1))}, left

    def answered(self, response: httpx.Response, now: float) -> float | None:
        """None when this is the call's answer; otherwise the pause. Raises RequestError when the refusal is final."""
        if response.is_success:
            return None
        error = refusal(response, self.request_id, self.tries)
        if response.status_code not in REFUSED:
            raise error
        if response.status_code == HTTPStatus.BAD_GATEWAY or (error.problem and error.problem.code == LOST_CODE):
            self._count_lost(error)
        return self._pause(error, self._retry_after(response), now)

    def failed(self, error: httpx.RequestError | TimeoutError, now: float) -> float:
        """The pause after an attempt without an answer. Raises RequestError when it was the last one."""
        told = self.told(error)
        if _is_final(error):
            raise told
        if not isinstance(told, UnreachableError):
            self._count_lost(told)
        return self._pause(told, 0.0, now)

    def told(self, error: httpx.RequestError | TimeoutError) -> RequestError:
        """What a user is told of an attempt without an answer."""
        tries = f" ({self.tries} attempts)" if self.tries > 1 else ""
        what = str(error) or type(error).__name__
        kind: type[RequestError] = RequestError
        if isinstance(error, _NOT_REACHED):
            kind = UnreachableError
            message = f"{self._url}: cannot be reached: {what}{tries}; is `dlhpc serve` running there?"
        elif isinstance(error, (httpx.TimeoutException, TimeoutError)):
            message = f"{self._url}{self._path}: no answer within {self._deadline_s:.3g} s{tries}: see deadline_s"
        else:
            message = f"{self._url}{self._path}: the connection ended before the answer: {what}{tries}"
        return kind(message, request_id=self.request_id, tries=self.tries)

    def _count_lost(self, error: RequestError) -> None:
        self._lost += 1
        if self._lost >= self._most_lost:
            raise error

    def _pause(self, error: RequestError, least: float, now: float) -> float:
        pause = least + self._draw(0.0, self._wait)
        if now + pause >= self._end:
            raise error
        self._wait = min(2 * self._wait, LONGEST_WAIT_S)
        return pause

    def _retry_after(self, response: httpx.Response) -> float:
        """Seconds that the server wants to be left alone: said as such, or as a date by the server's own clock."""
        text = response.headers.get("retry-after", "").strip()
        if text.isdecimal() and text.isascii():
            return float(text)
        until, since = _date(text), _date(response.headers.get("date", "")) or self._date()
        return max((until - since).total_seconds(), 0.0) if until is not None else 0.0


def _is_final(error: BaseException) -> bool:
    """Whether the next attempt would fail in the same way: the certificate is not trusted, the request is malformed."""
    if isinstance(error, (httpx.UnsupportedProtocol, httpx.LocalProtocolError, httpx.DecodingError)):
        return True
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _date(text: str) -> datetime | None:
    """An HTTP date; None for anything else."""
    try:
        found = parsedate_to_datetime(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
