"""Replicas lend each other the tokens of rate limits, so that a client gets its whole limit whichever replica it asks.

Without it each replica grants its share, and nothing more: when the supervisor is away, slow, or loses a message,
clients get less for a while and never more. Nothing on a request's path waits for it.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from dlhpc.serving.guards.buckets import BucketId, Loan, Report

EVERY_S: Final = 0.25
"""Seconds between exchanges. A token travels for two of them and is then good for as long as LOAN_S leaves."""
MOST_WANTED: Final = 1000
"""Buckets for which tokens are collected at a time: those that refused most."""
REMEMBERED: Final = 4
"""Exchanges for which tokens are collected after a bucket refused."""
Exchange = Callable[[Sequence[BucketId], Mapping[str, Sequence[Loan]]], Sequence[Report]]
"""Tells every replica what is wanted and what is lent to it, and gives their reports; what is lost is lost."""
_log = logging.getLogger(__name__)


class Ledger:
    """Who wants tokens, and who gets those that were given. Pure: told reports, it says what comes next."""

    def __init__(self) -> None:
        self._hungry: dict[BucketId, tuple[int, Mapping[str, int]]] = {}

    def step(self, reports: Sequence[Report]) -> tuple[Sequence[BucketId], Mapping[str, Sequence[Loan]]]:
        """The buckets for which tokens are wanted, and what is lent to whom."""
        refused: dict[BucketId, dict[str, int]] = defaultdict(dict)
        for report in reports:
            for bucket, count in report.refused.items():
                refused[bucket][report.replica] = count
        older = {bucket: (left - 1, who) for bucket, (left, who) in self._hungry.items() if left > 1}
        self._hungry = older | {bucket: (REMEMBERED, who) for bucket, who in refused.items()}
        loans: dict[str, list[Loan]] = defaultdict(list)
        for loan in (loan for report in reports for loan in report.given):
            if loan.bucket in self._hungry:
                for replica, tokens in _split(loan.tokens, self._hungry[loan.bucket][1]).items():
                    loans[replica].append(loan._replace(tokens=tokens))
        wanted = sorted(self._hungry, key=lambda bucket: -sum(self._hungry[bucket][1].values()))
        return wanted[:MOST_WANTED], loans


def _split(tokens: int, shares: Mapping[str, int]) -> dict[str, int]:
    """Tokens in proportion to the shares, as whole numbers."""
    whole, split, given, so_far = sum(shares.values()), {}, 0, 0
    for name, share in shares.items():
        so_far += share
        until = tokens * so_far // whole
        if until > given:
            split[name] = until - given
        given = until
    return split


class Leasing:
    """Exchanges on a thread of its own until it is stopped."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="leases", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        ledger = Ledger()
        wanted, loans = ledger.step(())
        while not self._stop.wait(EVERY_S):
            try:
                wanted, loans = ledger.step(self._exchange(wanted, loans))
            except Exception:
                _log.exception("an exchange of rate limits failed; each replica grants its share")
                wanted, loans = ledger.step(())

    def stop(self) -> None:
        """End it."""
        self._stop.set()
        self._thread.join(10)
