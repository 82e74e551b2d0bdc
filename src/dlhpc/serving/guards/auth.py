"""Authentication: who asks, and whether they may."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, Literal

from dlhpc.serving.api_keys import KeyFile, Keys, is_valid
from dlhpc.serving.exchange import Guard, Handler, Refusal, Reply, Request
from dlhpc.spec.api_key import ApiKey, Scope

Reason = Literal["missing", "wrong", "expired", "scope"]
Observe = Callable[[Reason], None]
"""Told of every refusal."""
HOW: Final = "send one as `Authorization: Bearer <key>`; `dlhpc key add NAME` makes one"


class Denied(Refusal):
    """A request without the key that it needs. `reason` says why."""

    def __init__(self, reason: Reason, detail: str, challenge: str = "") -> None:
        code = "forbidden" if reason == "scope" else "unauthenticated"
        value = 'Bearer realm="dlhpc"' + (f", {challenge}" if challenge else "")
        super().__init__(code, detail, headers=((b"www-authenticate", value.encode()),))
        self.reason = reason


def identify(keys: Keys, request: Request, scope: Scope, now: datetime, *, is_open: bool) -> ApiKey | None:
    """The key of a request; None where it has none and is_open says that it needs none.

    Raises Denied: 401 without a valid key, 403 when the key lacks the scope. A key that is given must be right even
    where none is needed.
    """
    presented = _presented(request)
    if not presented:
        if is_open:
            return None
        raise Denied("missing", f"an API key is needed: {HOW}")
    key = keys.find(presented[0]) if len(presented) == 1 else None
    if key is None:
        many = "" if len(presented) == 1 else f"{len(presented)} keys came; "
        raise Denied("wrong", f"{many}this API key is not known here: {HOW}", 'error="invalid_token"')
    if not is_valid(key, now):
        raise Denied("expired", "this API key has expired: ask for another", 'error="invalid_token"')
    if not is_open and scope not in key.scopes:
        raise Denied(
            "scope",
            f"this API key admits to {', '.join(key.scopes) or 'nothing'}; {request.path} needs {scope}",
            f'error="insufficient_scope", scope="{scope}"',
        )
    return key


def authenticate(
    file: KeyFile,
    scope: Scope,
    observe: Observe,
    *,
    is_open: bool = False,
    now: Callable[[], float] = time.monotonic,
    date: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Guard:
    """The guard that lets a request pass with a key of this scope; with is_open also one without a key."""

    def wrap(handler: Handler) -> Handler:
        async def authenticated(request: Request) -> Reply:
            try:
                request.key = identify(file.keys(now()), request, scope, date(), is_open=is_open)
            except Denied as denied:
                observe(denied.reason)
                raise
            return await handler(request)

        return authenticated

    return wrap


def _presented(request: Request) -> list[bytes]:
    """Every key that a request has in its headers."""
    found = []
    for name, value in request.headers:
        if name == b"x-api-key":
            found.append(value.strip())
        elif name == b"authorization":
            scheme, _, rest = value.partition(b" ")
            found.append(rest.strip() if scheme.lower() == b"bearer" else b"")
    return found
