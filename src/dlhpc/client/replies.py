"""What servers answer, as typed replies and as errors."""

from __future__ import annotations

from typing import TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from dlhpc.errors import ServingError
from dlhpc.spec.wire import Problem

Body = TypeVar("Body", bound=BaseModel)
SHOWN: int = 200
"""Characters of a foreign answer that an error shows."""


class RequestError(ServingError):
    """A request was not answered as asked: the server refused it, could not be asked in time, or it was never sent.

    `status` is the HTTP status, None without an answer; `problem` the server's problem document, where it sent one;
    `request_id` what the server's log calls the request; `tries` how often it was sent.
    """

    def __init__(
        self,
        message: str,
        problem: Problem | None = None,
        *,
        status: int | None = None,
        request_id: str = "",
        tries: int = 0,
    ) -> None:
        super().__init__(message)
        self.problem = problem
        self.status = status
        self.request_id = request_id
        self.tries = tries


class UnreachableError(RequestError):
    """Nothing answers at the server's address: no request reached it."""


def parsed(kind: type[Body], response: httpx.Response) -> Body:
    """The body of an answer. Raises RequestError when it is another program's."""
    try:
        return kind.model_validate_json(response.content)
    except ValidationError as error:
        text = response.text[:SHOWN]
        raise RequestError(
            f"{response.request.url}: not a dlhpc server's answer: {text}", status=response.status_code
        ) from error


def problem_of(response: httpx.Response) -> Problem | None:
    """The problem document of an answer, when it is one."""
    try:
        return Problem.model_validate_json(response.content)
    except ValidationError:
        return None


def refusal(response: httpx.Response, request_id: str, tries: int) -> RequestError:
    """The error that an answer other than success stands for."""
    where, problem = f"{response.request.url}: {response.status_code}", problem_of(response)
    told = f"{where}: {response.text[:SHOWN]}" if problem is None else f"{where} {problem.code}: {problem.detail}"
    return RequestError(told, problem, status=response.status_code, request_id=request_id, tries=tries)
