"""Admission: how many predictions a replica works on at a time, and none when it is stopping."""

from __future__ import annotations

from dlhpc.serving.exchange import Guard, Handler, Refusal, Reply, Request

RETRY_AFTER = ((b"retry-after", b"1"),)


class Admission:
    """Counts what is in flight; refuses above `limit`, and everything once closed."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.in_flight = 0
        self.is_closed = False

    def close(self) -> None:
        """From now on admit nothing: what is in flight completes."""
        self.is_closed = True

    @property
    def is_full(self) -> bool:
        """Whether the next request would be refused for lack of room."""
        return self.in_flight >= self.limit

    def enter(self) -> None:
        """Count a request in, or raise the Refusal that tells it when to come again."""
        if self.is_closed:
            # The connection is closed too, so that the client's next request finds another server.
            raise Refusal(
                "draining", "the server is stopping: ask another, or this one later", headers=RETRY_AFTER, close=True
            )
        if self.is_full:
            detail = f"{self.in_flight} predictions are being worked on, which is the limit: try again in a second"
            raise Refusal("overloaded", detail, headers=RETRY_AFTER)
        self.in_flight += 1

    def leave(self) -> None:
        """Count a request out."""
        self.in_flight -= 1

    def guard(self) -> Guard:
        """The guard that keeps these counts."""

        def wrap(handler: Handler) -> Handler:
            async def admitted(request: Request) -> Reply:
                self.enter()
                try:
                    return await handler(request)
                finally:
                    self.leave()

            return admitted

        return wrap
