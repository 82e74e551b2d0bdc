"""Token buckets, each kept as one number: the time at which it is full again (the generic cell rate algorithm of ATM
networks, ITU-T I.371). `limits` and its like count in windows, read the clock themselves and bring threads along.

Buckets of the same client in several replicas lend each other tokens. What is lent leaves one bucket at once and may be
used in another until its time is over, so that no token is used twice.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple

MOST_KEYS: Final = 100_000
"""Clients remembered at a time, in about 20 MB. The one that asked least recently is forgotten first."""
LOAN_S: Final = 1.0
"""Seconds for which a token that was lent is good. By the system's monotonic clock, which all processes share."""
Name = Literal["client", "total"]


class BucketId(NamedTuple):
    """A bucket, in every replica the same: which limit's, and whose."""

    name: Name
    per_second: float
    burst: int
    key: str


class Loan(NamedTuple):
    """Tokens that left a bucket in one replica, to be used in another's."""

    bucket: BucketId
    tokens: int
    until: float


class Report(NamedTuple):
    """What a replica tells the others, since it last did."""

    replica: str
    refused: Mapping[BucketId, int]
    """Requests that found no token."""
    given: Sequence[Loan]


class Buckets:
    """Token buckets of one size, by key; the bucket of a key that was not seen lately is full."""

    def __init__(
        self, per_second: float, burst: float, most_keys: int = MOST_KEYS, *, whole: float | None = None
    ) -> None:
        """`per_second` tokens come into a bucket until there are `burst`, of which there must be room for one.

        Buckets that are to lend and borrow may have up to `whole` tokens with what they borrow, and are to be asked for
        told_refused now and then.
        """
        self._interval = 1 / per_second
        self._depth = max(burst, 1.0) * self._interval
        self._whole = whole
        self._most_keys = most_keys
        self._full_at: OrderedDict[str, float] = OrderedDict()
        self._lent: dict[str, list[tuple[float, int]]] = {}
        self._taken = Counter[str]()
        self._refused = Counter[str]()

    def __len__(self) -> int:
        return len(self._full_at)

    def wait(self, key: str, now: float) -> float:
        """Seconds until there is a token; 0 when there is one."""
        missing = self._missing(key, now)
        return missing if missing and not self._borrowed(key, now) else 0.0

    def take(self, key: str, now: float) -> None:
        """Take a token, which must be there."""
        self._count(self._taken, key)
        if self._missing(key, now):
            (until, tokens), *rest = self._lent[key]
            self._lent[key] = [(until, tokens - 1), *rest] if tokens > 1 else rest
            return
        self._debit(key, 1, now)
        self._forget(now)

    def refuse(self, key: str) -> None:
        """Count a request that found no token."""
        self._count(self._refused, key)

    def left(self, key: str, now: float) -> tuple[int, float]:
        """Whole tokens that are there, and seconds until the bucket is as full as it can be."""
        until_full = max(self._full_at.get(key, now) - now, 0.0)
        return self._own(key, now) + self._borrowed(key, now), until_full

    def give(self, key: str, now: float) -> int:
        """Tokens that are taken out to be lent: all but as many as were asked for here since told_refused."""
        tokens = 0 if self._refused[key] else self._own(key, now) - self._taken[key]
        if tokens <= 0:
            return 0
        self._debit(key, tokens, now)
        return tokens

    def borrow(self, key: str, tokens: int, until: float, now: float) -> None:
        """Put in tokens of others, good until then; what there is no room for is lost."""
        room = int(self._whole or 0) - self.left(key, now)[0]
        if min(tokens, room) > 0:
            self._lent.setdefault(key, []).append((until, min(tokens, room)))

    def told_refused(self, now: float) -> Mapping[str, int]:
        """How many requests for each key found no token since this was last asked."""
        refused = self._refused
        self._taken, self._refused = Counter[str](), Counter[str]()
        for key in [key for key in self._lent if not self._borrowed(key, now)]:
            del self._lent[key]
        return refused

    def _count(self, counts: Counter[str], key: str) -> None:
        if self._whole is None:
            return
        if len(counts) > self._most_keys:  # nobody asks for them any more
            counts.clear()
        counts[key] += 1

    def _missing(self, key: str, now: float) -> float:
        """Seconds until the bucket has a token of its own."""
        missing = max(self._full_at.get(key, now) - now, 0.0) + self._interval - self._depth
        return missing if missing > 1e-9 * self._depth else 0.0

    def _own(self, key: str, now: float) -> int:
        until_full = max(self._full_at.get(key, now) - now, 0.0)
        return int((self._depth - until_full) / self._interval + 1e-6)

    def _borrowed(self, key: str, now: float) -> int:
        """Tokens of others that are still good."""
        if key not in self._lent:
            return 0
        self._lent[key] = [(until, tokens) for until, tokens in self._lent[key] if now < until]
        return sum(tokens for _, tokens in self._lent[key])

    def _debit(self, key: str, tokens: int, now: float) -> None:
        self._full_at[key] = max(self._full_at.get(key, now), now) + tokens * self._interval
        self._full_at.move_to_end(key)

    def _forget(self, now: float) -> None:
        """Let go of buckets that are full, a few at a time, and of the oldest when there are too many."""
        for _ in range(2):
            oldest = next(iter(self._full_at))
            if self._full_at[oldest] > now and len(self._full_at) <= self._most_keys:
                return
            del self._full_at[oldest]
            if not self._full_at:
                return
