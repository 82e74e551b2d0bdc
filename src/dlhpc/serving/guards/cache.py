"""The response cache: what was asked before is not computed again, and what many ask at once is computed once."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from typing import Final, Literal

from cachetools import LRUCache

from dlhpc.serving.exchange import Guard, Handler, Headers, Refusal, Reply, Request
from dlhpc.spec.oip import JSON_LENGTH

Result = Literal["hit", "miss", "joined", "bypassed"]
Observe = Callable[[Result], None]
"""Told how each request fared."""
Read = Callable[[Request], Awaitable[bytes]]

REPLY_OVERHEAD: Final = 600
"""About what Python needs beside the bytes of a reply."""
INLINE_HASH_BYTES: Final = 256 * 1024
"""Up to here a body is hashed on the event loop (0.3 ms at worst); longer ones on another thread."""

HIT: Final[Headers] = ((b"cache-status", b"dlhpc; hit"),)
STORED: Final[Headers] = ((b"cache-status", b"dlhpc; fwd=miss; stored"),)
NOT_STORED: Final[Headers] = ((b"cache-status", b"dlhpc; fwd=miss"),)
JOINED: Final[Headers] = ((b"cache-status", b"dlhpc; fwd=miss; collapsed"),)
BYPASSED: Final[Headers] = ((b"cache-status", b"dlhpc; fwd=request"),)
"""What is told of it, in the words of RFC 9211."""

_TELLING: Final = (b"content-type", JSON_LENGTH.encode())
"""Headers that tell what a body means."""
_OF_THE_INPUT: Final = frozenset({400, 413, 415, 422, 500})
"""Status of refusals that everybody gets for an input; others depend on who asked and when."""


class Replies(LRUCache[bytes, Reply]):
    """Replies up to a total size in bytes; the one that was asked for least recently goes first."""

    def __init__(self, max_bytes: int, evicted: Callable[[], None] = lambda: None) -> None:
        """`evicted` is called for every reply that makes room."""
        super().__init__(max_bytes, getsizeof=lambda reply: len(reply.body) + REPLY_OVERHEAD)
        self._evicted = evicted

    def keep(self, key: bytes, reply: Reply) -> bool:
        """Keep a reply; gives whether it was worth keeping: no errors, and nothing larger than the whole cache."""
        if reply.status != 200 or reply.has_failures or self.getsizeof(reply) > self.maxsize:
            return False
        self[key] = reply
        return True

    def popitem(self) -> tuple[bytes, Reply]:
        """Make room."""
        self._evicted()
        return super().popitem()


def reply_key(digest: str, request: Request, body: bytes, *, is_shared: bool) -> bytes:
    """What replies are found by: the version that answers, what it is asked, and unless shared whose key asked."""
    holder = request.key.id if request.key is not None and not is_shared else ""
    told = [(request.header(name) or b"").decode("latin-1") for name in _TELLING]
    head = "\0".join([digest, holder, request.path, *told, ""])
    hashed = hashlib.sha256(head.encode())
    hashed.update(body)
    return hashed.digest()


def cached(
    replies: Replies, digest: str, read: Read, readers: Executor, observe: Observe, *, is_shared: bool = False
) -> Guard:
    """The guard that answers from `replies`, for the version with this digest; `read` gives a request's body."""
    flights: dict[bytes, asyncio.Future[Reply | Refusal | None]] = {}

    async def key_of(request: Request) -> bytes:
        body = await read(request)
        if len(body) <= INLINE_HASH_BYTES:
            return reply_key(digest, request, body, is_shared=is_shared)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(readers, lambda: reply_key(digest, request, body, is_shared=is_shared))

    async def compute(key: bytes, handler: Handler, request: Request) -> Reply:
        """Answer for all who ask the same meanwhile. Whatever ends this without an answer leaves it to one of them."""
        flight = flights[key] = asyncio.get_running_loop().create_future()
        outcome: Reply | Refusal | None = None
        try:
            outcome = reply = await handler(request)
        except Refusal as refusal:
            outcome = refusal.again() if refusal.status in _OF_THE_INPUT else None
            raise
        finally:
            del flights[key]
            flight.set_result(outcome)
        observe("miss")
        return reply.plus(STORED if replies.keep(key, reply) else NOT_STORED)

    def wrap(handler: Handler) -> Handler:
        async def answered(request: Request) -> Reply:
            if _declines(request):
                observe("bypassed")
                return (await handler(request)).plus(BYPASSED)
            key = await key_of(request)
            while True:
                reply = replies.get(key)
                if reply is not None:
                    observe("hit")
                    return reply.for_request(request.id).plus(HIT)
                flight = flights.get(key)
                if flight is None:
                    return await compute(key, handler, request)
                outcome = await asyncio.shield(flight)  # who leaves must not take the answer from the others
                if isinstance(outcome, Refusal):
                    raise outcome.again()
                if outcome is not None:
                    observe("joined")
                    return outcome.for_request(request.id).plus(JOINED)

        return answered

    return wrap


def _declines(request: Request) -> bool:
    """Whether a client wants nothing of a cache."""
    control = request.header(b"cache-control")
    return control is not None and (b"no-cache" in control.lower() or b"no-store" in control.lower())
