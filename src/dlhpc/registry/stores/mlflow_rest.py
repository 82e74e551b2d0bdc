"""What the registry asks of an MLflow server, by MLflow's REST API.

Source: https://mlflow.org/docs/latest/rest-api.html for models, versions, runs and experiments; artifacts go through
the server's own `mlflow-artifacts` routes, as MLflow's clients send them. Credentials are those of MLflow's clients:
MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import httpx

from dlhpc.errors import DlhpcError, IntegrityError, NotFoundError, UsageError

T = TypeVar("T")

_API = "/api/2.0/mlflow/"
_ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts/"
_TIMEOUT = httpx.Timeout(120, connect=10)
_PAGE = 1000
ATTEMPTS = 9
_BUSY = (429, 500, 502, 503, 504)
"""Replies of a server that may do it when asked again: MLflow says 500 when its database is locked, or when several
writers wanted one version number."""


class AbsentError(NotFoundError):
    """MLflow has nothing of that name."""


class TakenError(DlhpcError):
    """MLflow has something of that name already."""


class MlflowServer:
    """An MLflow server. Making one asks nothing of it."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        token = os.environ.get("MLFLOW_TRACKING_TOKEN")
        user = os.environ.get("MLFLOW_TRACKING_USERNAME")
        self._client = httpx.Client(
            timeout=_TIMEOUT,
            limits=httpx.Limits(keepalive_expiry=2),
            headers={"Authorization": f"Bearer {token}"} if token else {},
            auth=(user, os.environ.get("MLFLOW_TRACKING_PASSWORD", "")) if user and not token else None,
        )

    def get(self, action: str, **query: str | int) -> dict[str, Any]:
        """Ask: `get("model-versions/get", name="pets", version="3")`.

        Raises AbsentError when there is none, UsageError when the server wants other credentials, DlhpcError when it
        does not answer as it should.
        """
        return self._json(self._send("GET", _API + action, params=query))

    def post(self, action: str, *, attempts: int = ATTEMPTS, **fields: Any) -> dict[str, Any]:
        """Change something; raises as `get` does, and TakenError when it is there already.

        A busy server is asked again, up to `attempts` times in all.
        """
        return self._json(self._send("POST", _API + action, attempts, json=fields))

    def delete(self, action: str, **fields: Any) -> None:
        """Remove something; raises as `get` does."""
        self._send("DELETE", _API + action, json=fields)

    def pages(self, action: str, found: str, **query: str | int) -> Iterator[dict[str, Any]]:
        """Every item of the list `found` that a search gives, page by page."""
        token = ""
        while True:
            reply = self.get(action, max_results=_PAGE, **query, **({"page_token": token} if token else {}))
            yield from reply.get(found, [])
            token = reply.get("next_page_token", "")
            if not token:
                return

    def upload(self, uri: str, name: str, content: bytes) -> None:
        """Write an artifact into the folder `uri`, over whatever it held."""
        self._send("PUT", self._route(uri, name), content=content)

    def download(self, uri: str, name: str, limit: int, what: str) -> bytes:
        """The bytes of an artifact in the folder `uri`, unverified: at most `limit` + 1, so that too many show.

        Raises IntegrityError, saying `what` it should be, when there is none.
        """
        path = self._route(uri, name)
        try:
            return self._patiently(lambda: self._fetch(path, limit))
        except AbsentError as error:
            raise IntegrityError(f"{self.url}{path}: missing: it holds {what}") from error

    def _fetch(self, path: str, limit: int) -> bytes:
        with self._client.stream("GET", self.url + path) as reply:
            if not reply.is_success:
                reply.read()
                self._check(reply)
            return _at_most(reply, limit)

    def _route(self, uri: str, name: str) -> str:
        """The server's path of an artifact, of a folder as MLflow names it: mlflow-artifacts:/1/<run>/artifacts."""
        parts = urlsplit(uri)
        path = parts.path.lstrip("/")
        if parts.scheme in {"http", "https"}:
            path = parts.path.partition(_ARTIFACTS)[2]
        served = parts.scheme in {"mlflow-artifacts", "http", "https"}
        if not served or not path or parts.netloc not in {"", urlsplit(self.url).netloc} or ".." in path.split("/"):
            raise UsageError(
                f"{self.url}: keeps artifacts at {uri}, where its clients must write themselves; expected a server "
                "that carries them: mlflow server --artifacts-destination WHERE, without --no-serve-artifacts"
            )
        return _ARTIFACTS + quote(f"{path.rstrip('/')}/{name}")

    def _send(self, method: str, path: str, attempts: int = ATTEMPTS, **content: Any) -> httpx.Response:
        for attempt in range(attempts):
            reply = self._patiently(lambda: self._client.request(method, self.url + path, **content))
            if reply.status_code not in _BUSY or attempt == attempts - 1:
                break
            time.sleep(min(0.05 * 2**attempt, 1) * random.uniform(0.5, 1.5))
        self._check(reply)
        return reply

    def _patiently(self, work: Callable[[], T]) -> T:
        """Do it once more where the server closed a connection that it had kept, as it may at any moment."""
        try:
            try:
                return work()
            except httpx.RemoteProtocolError:
                return work()
        except httpx.TransportError as error:
            raise self._silent(error) from error

    def _silent(self, error: httpx.TransportError) -> DlhpcError:
        return DlhpcError(
            f"{self.url}: no answer of an MLflow server ({error or type(error).__name__}): "
            "is it running, and is this its address? To start one: mlflow server --backend-store-uri sqlite:///mlflow.db"
        )

    def _check(self, reply: httpx.Response) -> None:
        if reply.is_success:
            return
        code, said = _complaint(reply)
        where = f"{self.url}: {said}"
        if reply.status_code == httpx.codes.UNAUTHORIZED:
            came = "those that came are refused" if "authorization" in reply.request.headers else "none came"
            raise UsageError(
                f"{self.url}: the server wants credentials, and {came}: set MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
            )
        if reply.status_code == httpx.codes.FORBIDDEN:
            raise UsageError(f"{where} (status 403): ask who runs the server for the permission")
        if code == "RESOURCE_ALREADY_EXISTS":
            raise TakenError(where)
        if code == "RESOURCE_DOES_NOT_EXIST":
            raise AbsentError(where)
        if reply.status_code == httpx.codes.NOT_FOUND and not code:
            raise DlhpcError(f"{reply.request.url}: this is no MLflow server, or not its address: {said}")
        raise DlhpcError(f"{where} (status {reply.status_code} to {reply.request.method} {reply.request.url.path})")

    def _json(self, reply: httpx.Response) -> dict[str, Any]:
        try:
            value = reply.json()
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise DlhpcError(
                f"{reply.request.url}: this is no MLflow server: expected a JSON object, "
                f"{reply.headers.get('content-type', 'something else')} came: {reply.text[:60]!r}"
            )
        return value


def tags_of(item: Mapping[str, Any]) -> dict[str, str]:
    """The tags of a version, as MLflow lists them."""
    return {tag["key"]: tag.get("value", "") for tag in item.get("tags", [])}


def tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Tags as MLflow takes them."""
    return [{"key": key, "value": value} for key, value in tags.items()]


def _at_most(reply: httpx.Response, limit: int) -> bytes:
    content = bytearray()
    for piece in reply.iter_bytes():
        content += piece
        if len(content) > limit:
            break
    return bytes(content[: limit + 1])


def _complaint(reply: httpx.Response) -> tuple[str, str]:
    """MLflow's code of the error, or '', and what it says."""
    try:
        fields = reply.json()
        return str(fields.get("error_code", "")), str(fields.get("message", "")).split("\n")[0][:300]
    except (ValueError, AttributeError):
        return "", f"status {reply.status_code}, {reply.text.strip()[:80]!r}"
