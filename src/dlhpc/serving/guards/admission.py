"""Admission: how many images a replica works on at a time, and none when it is stopping."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

from dlhpc.serving.exchange import Guard, Handler, Refusal, Reply, Request
from dlhpc.spec.wire import PRIORITY

RETRY_AFTER = ((b"retry-after", b"1"),)
Observe = Callable[[Literal["full", "low_priority", "bytes"]], None]
"""Told of every refusal for lack of room."""
_HEADER: Final = PRIORITY.encode()


class Admission:
    """Counts what is in flight; refuses above `limit`, and everything once closed.

    Requests of low priority are refused as soon as `low_share` of the limit is in flight, so that the rest is left for
    others. Without a limit nothing is refused but what comes after the end. The bodies of all requests together may
    have `max_bytes`; the request that would bring one more byte is refused.
    """

    def __init__(
        self,
        limit: int | None,
        low_share: float = 1.0,
        observe: Observe = lambda reason: None,
        *,
        max_bytes: int | None = None,
    ) -> None:
        self.limit = limit
        self.max_bytes = max_bytes
        self.held_bytes = 0
        self.in_flight = 0
        self.is_closed = False
        self._low_limit = None if limit is None else max(int(low_share * limit), 1)
        self._observe = observe

    def close(self) -> None:
        """From now on admit nothing: what is in flight completes."""
        self.is_closed = True

    @property
    def is_full(self) -> bool:
        """Whether the next request would be refused for lack of room."""
        return self.limit is not None and self.in_flight >= self.limit

    def enter(self, *, is_low: bool = False) -> None:
        """Count a request in, or raise the Refusal that tells it when to come again."""
        if self.is_closed:
            # The connection is closed too, so that the client's next request finds another server.
            raise Refusal(
                "draining", "the server is stopping: ask another, or this one later", headers=RETRY_AFTER, close=True
            )
        if self.is_full:
            self._observe("full")
            detail = f"{self.in_flight} predictions are being worked on, which is the limit: try again in a second"
            raise Refusal("overloaded", detail, headers=RETRY_AFTER)
        if is_low and self._low_limit is not None and self.in_flight >= self._low_limit:
            self._observe("low_priority")
            detail = f"{self.in_flight} predictions are being worked on, and this one may wait: try again in a second"
            raise Refusal("overloaded", detail, headers=RETRY_AFTER)
        self.in_flight += 1

    def more(self, request: Request, count: int) -> None:
        """Count in more images of a request that is in, or raise the Refusal that tells it when to come again."""
        limit = self._low_limit if _is_low(request) else self.limit
        if count and limit is not None and self.in_flight + count > limit:
            self._observe("full" if limit == self.limit else "low_priority")
            detail = f"{self.in_flight} images are being worked on, and {limit} may be: send fewer, or try again later"
            raise Refusal("overloaded", detail, headers=RETRY_AFTER)
        self.in_flight += count

    def leave(self, held_bytes: int = 0, images: int = 1) -> None:
        """Count a request out, with the bytes of its body and its images."""
        self.in_flight -= images
        self.held_bytes -= held_bytes

    def hold(self, size: int) -> None:
        """Count bytes of a body in, or raise the Refusal of its request."""
        if self.max_bytes is not None and self.held_bytes + size > self.max_bytes:
            self._observe("bytes")
            detail = f"bodies take {self.held_bytes} of {self.max_bytes} bytes already: try again in a second"
            raise Refusal("overloaded", detail, headers=RETRY_AFTER, close=True)  # the rest is not read
        self.held_bytes += size

    def guard(self) -> Guard:
        """The guard that keeps these counts."""

        def wrap(handler: Handler) -> Handler:
            async def admitted(request: Request) -> Reply:
                self.enter(is_low=_is_low(request))
                request.hold = self.hold
                request.admit = self.more
                try:
                    return await handler(request)
                finally:
                    self.leave(request.held, request.weight)

            return admitted

        return wrap


def _is_low(request: Request) -> bool:
    """Whether a request may be refused first: its key says so, or it does. It cannot say the contrary."""
    if request.key is not None and request.key.priority == "low":
        return True
    given = request.only(_HEADER)
    if given is None or given == b"normal":
        return False
    if given != b"low":
        raise Refusal("invalid_request", f"{PRIORITY}: {given.decode('latin-1')!r} came, expected low or normal")
    return True
