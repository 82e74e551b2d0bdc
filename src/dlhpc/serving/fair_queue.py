"""A queue that is fair over clients: each gets its turn, however many requests another has sent at once."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """First in, first out for each client; the clients take turns."""

    def __init__(self) -> None:
        self._lines: OrderedDict[str, deque[T]] = OrderedDict()
        """The clients that wait for something, in the order of their turns."""
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def push(self, client: str, item: T) -> None:
        """Let an item of a client wait."""
        self._lines.setdefault(client, deque()).append(item)
        self._size += 1

    def pop(self) -> T:
        """Whose turn it is. IndexError when nobody waits."""
        if not self._lines:
            raise IndexError("pop from an empty queue")
        client, line = next(iter(self._lines.items()))
        item = line.popleft()
        self._size -= 1
        if line:
            self._lines.move_to_end(client)
        else:
            del self._lines[client]
        return item

    def ahead(self, client: str) -> int:
        """How many items would go before one that this client sends now."""
        if self._size == len(self._lines) and client not in self._lines:  # one of each, as among polite clients
            return self._size
        own = len(self._lines.get(client, ()))
        return sum(min(len(line), own + (other != client)) for other, line in self._lines.items())
