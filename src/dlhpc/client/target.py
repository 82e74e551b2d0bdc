"""What a client asks, and how: the part that both clients share."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import httpx

from dlhpc.client.attempts import CONNECT_S, Attempts
from dlhpc.client.replies import RequestError
from dlhpc.errors import NotFoundError, UsageError

Verify = bool | Path | str | ssl.SSLContext
"""Whose certificates are trusted: the usual authorities' (True), a PEM file's, an SSL context's, anybody's (False)."""
READY_S: Final = 5.0
_JSON: Final = {"Content-Type": "application/json"}


class Target:
    """A server's address, the model that is asked there, the deadline of each call, and how connections are made."""

    def __init__(
        self,
        url: str,
        model: str | None,
        deadline_s: float,
        repeat_lost: bool,
        api_key: str | None,
        verify: Verify,
        proxy: str | None,
    ) -> None:
        self.url = url.rstrip("/")
        self.model = model
        self.deadline_s = _positive(deadline_s)
        self._repeat_lost = repeat_lost
        self._headers = _JSON if api_key is None else {**_JSON, "Authorization": f"Bearer {api_key}"}
        self._verify, self._proxy = _trusted(verify, self.url), proxy

    def __repr__(self) -> str:
        model = "" if self.model is None else f", model={self.model!r}"
        return f"({self.url!r}{model}, deadline_s={self.deadline_s:g})"

    def connected(self, kind: type[Any], transport: Any) -> Any:
        """An httpx.Client or httpx.AsyncClient, as `kind` says. Raises RequestError when URL or key cannot be used."""
        try:
            return kind(
                base_url=self.url,
                headers=self._headers,
                verify=self._verify,
                proxy=self._proxy,
                transport=transport,
                limits=httpx.Limits(max_connections=None),
                trust_env=False,
            )
        except UnicodeEncodeError as error:
            raise RequestError("the API key has characters that no key has: copy it again") from error
        except (httpx.InvalidURL, ValueError) as error:
            raise RequestError(f"{self.url}: not a URL like http://127.0.0.1:8000: {error}") from error

    def path(self, model: str | None) -> str:
        """Where predictions of a model are asked for: this call's, or else the client's."""
        model = model or self.model
        return "/predict" if model is None else f"/models/{quote(model, safe='@:')}/predict"

    def attempts(self, path: str, deadline_s: float | None, now: float, request_id: str | None = None) -> Attempts:
        """The attempts of a call that begins now."""
        seconds = self.deadline_s if deadline_s is None else _positive(deadline_s)
        return Attempts(self.url, path, seconds, now, request_id=request_id, repeat_lost=self._repeat_lost)


def timeouts(left_s: float) -> httpx.Timeout:
    """httpx's timeouts for an attempt that may take so long."""
    return httpx.Timeout(left_s, connect=min(left_s, CONNECT_S))


def check_concurrency(concurrency: int) -> int:
    """The number, when so many can be asked at a time."""
    if concurrency < 1:
        raise UsageError(f"concurrency is {concurrency}: at least one image must be asked for at a time")
    return concurrency


def _positive(deadline_s: float) -> float:
    if not deadline_s > 0:
        raise UsageError(f"deadline_s is {deadline_s:g}: give the seconds that a call may take")
    return deadline_s


def _trusted(verify: Verify, url: str) -> ssl.SSLContext | bool:
    if verify is True and url.startswith("http://"):
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts nobody; to read all authorities takes 50 ms
    if not isinstance(verify, (str, Path)):
        return verify
    try:
        return ssl.create_default_context(cafile=verify)
    except OSError as error:
        raise NotFoundError(f"verify: {verify}: not a file of certificates (PEM): {error.strerror or error}") from error
