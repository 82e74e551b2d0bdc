"""What errors tell of answers."""

from __future__ import annotations

import httpx
import pytest

from dlhpc.client.replies import RequestError, parsed, refusal
from dlhpc.spec.wire import PredictReply
from tests.client.answers import REPLY, ok
from tests.client.answers import refusal as refused

REQUEST = httpx.Request("POST", "http://server/predict")


def with_request(response: httpx.Response) -> httpx.Response:
    response.request = REQUEST
    return response


def test_a_reply_is_typed_and_readable() -> None:
    reply = parsed(PredictReply, with_request(ok()))
    assert reply == REPLY
    assert reply.probability == 0.75
    assert repr(reply) == "PredictReply(label='cat', probability=0.75, model='m:1', request_id='r')"


def test_an_error_carries_what_a_program_acts_upon() -> None:
    error = refusal(with_request(refused("bad_image")), "the-id", 3)
    assert str(error) == "http://server/predict: 422 bad_image: because"
    assert error.problem is not None
    assert (error.problem.code, error.status, error.request_id, error.tries) == ("bad_image", 422, "the-id", 3)


def test_another_programs_answer_is_shown_in_part() -> None:
    with pytest.raises(RequestError, match=r"not a dlhpc server's answer: x{200}$") as caught:
        parsed(PredictReply, with_request(httpx.Response(200, text="x" * 1000)))
    assert caught.value.status == 200
    error = refusal(with_request(httpx.Response(502, text="<html>")), "", 1)
    assert (error.problem, error.status) == (None, 502)
