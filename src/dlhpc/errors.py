"""Every error a user can meet, and the exit status the command gives it.

    DlhpcError                      1  the work failed
    ├── UsageError                  2  the call cannot work as written
    │   ├── ConfigError             2  a configuration has problems (all of them, each with its place)
    │   └── MissingExtraError       2  an optional dependency is not installed
    ├── DataError                   1  the data cannot be used
    ├── TrainingError               1  a run cannot go on
    ├── ServingError                1  a server cannot start or answer
    ├── IntegrityError              3  bytes are not what they were when they were hashed
    ├── NotFoundError               4  a name, version, file or folder does not exist
    ├── ConflictError               4  something else already holds the name, port or lock
    └── Interrupted               130  the user stopped the work; it can go on

A message says where, what came, what was expected, and what to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar


class DlhpcError(Exception):
    """Base of all errors that dlhpc raises on purpose."""

    exit_code: ClassVar[int] = 1


class UsageError(DlhpcError):
    """The call cannot work as written."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration has one or more problems.

    `problems` holds one printable text per problem, in file order.
    """

    def __init__(self, problems: Sequence[str] | str) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class MissingExtraError(UsageError):
    """An optional dependency is not installed."""

    def __init__(self, what: str, package: str, extra: str) -> None:
        super().__init__(f"{what} needs '{package}': pip install 'deep-learning-hpc-demo[{extra}]'")


class DataError(DlhpcError):
    """The data cannot be used."""


class TrainingError(DlhpcError):
    """A run cannot go on."""


class ServingError(DlhpcError):
    """A server cannot start, or did not answer as it should."""


class IntegrityError(DlhpcError):
    """Bytes are not what they were when they were hashed."""

    exit_code = 3


class NotFoundError(DlhpcError):
    """A name, version, file or folder does not exist."""

    exit_code = 4


class ConflictError(DlhpcError):
    """Something else already holds the name, port or lock."""

    exit_code = 4


class Interrupted(DlhpcError):  # noqa: N818 - it is no error, only an end
    """The user stopped the work; the message says how to go on."""

    exit_code = 130
