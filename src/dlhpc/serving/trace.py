"""Traces (W3C Trace Context, level 2): a request that belongs to one is logged and answered as a span of it."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from typing import Final, NamedTuple

PARENT: Final = b"traceparent"
STATE: Final = b"tracestate"
RESPONSE: Final = b"traceresponse"
LONGEST_STATE: Final = 512
"""The standard wants no more to be passed on."""
_PARENT: Final = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_STATE: Final = re.compile(rb"[\t -~]+")
_KNOWN_FLAGS: Final = 0x03
"""Sampled, and random; others are to be cleared."""


class Trace(NamedTuple):
    """Where a request stands in a trace."""

    trace_id: str
    """32 hex digits."""
    span_id: str
    """16 hex digits: the work on this request."""
    flags: int
    state: bytes = b""
    """What others said in `tracestate`, as it came."""

    def __str__(self) -> str:
        return f"trace {self.trace_id}, span {self.span_id}"

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """What the client is told: the trace and this span, and the state that it sent."""
        response = f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}".encode()
        return ((RESPONSE, response), *(((STATE, self.state),) if self.state else ()))


def trace_of(headers: Sequence[tuple[bytes, bytes]]) -> Trace:
    """The trace that a request's headers name, with a new span in it; a new trace when they name none as they should.

    What came with a `traceparent` that is not valid is not believed, as the standard has it.
    """
    span_id = secrets.token_hex(8)
    parents = [value for name, value in headers if name == PARENT]
    match = _PARENT.fullmatch(parents[0]) if len(parents) == 1 else None
    if match is None or not _is_valid(match):
        return Trace(secrets.token_hex(16), span_id, 0)
    state = b",".join(value for name, value in headers if name == STATE)
    if len(state) > LONGEST_STATE or not _STATE.fullmatch(state):
        state = b""
    return Trace(match[2].decode(), span_id, int(match[4], 16) & _KNOWN_FLAGS, state)


def _is_valid(match: re.Match[bytes]) -> bool:
    version, trace_id, parent_id = match[1], match[2], match[3]
    if version == b"ff" or (version == b"00" and match[5] is not None):
        return False
    return trace_id.strip(b"0") != b"" and parent_id.strip(b"0") != b""
