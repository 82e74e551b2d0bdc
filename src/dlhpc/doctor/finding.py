"""What a check finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    subject: str
    """What was looked at."""
    status: Status
    """`ok`; `warn`: some verbs will not work, or slowly; `fail`: the main road is blocked."""
    found: str
    """What is there, or what is wrong."""
    mend: str = ""
    """What to do about it; empty when there is nothing to do."""
