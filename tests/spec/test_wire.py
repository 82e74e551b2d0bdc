"""Bodies mean the same on both sides."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlhpc.spec.wire import PROBLEMS, FieldError, PredictReply, Problem, decode_image_text, encode_image, problem


@given(st.binary(max_size=200))
def test_an_image_comes_out_as_it_went_in(content: bytes) -> None:
    text = encode_image(content)
    assert decode_image_text(text) == content
    assert decode_image_text(f"data:image/png;base64,{text}") == content
    assert decode_image_text(base64.encodebytes(content).decode()) == content


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("base64_encoded_image_data", "character '_' at position 6"),
        ("AAAA\n!AAA", "character '!' at position 5"),
        ("abc", "padding"),
        ("ab=c", "not base64"),
        ("data:image/png,abc", "data URL"),
        ("data:image/png;base64", "data URL"),
    ],
)
def test_what_is_no_base64_is_told_with_its_fault_and_the_remedy(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        decode_image_text(text)
    assert "base64 -w0 FILE" in str(caught.value)


@pytest.mark.parametrize("code", PROBLEMS)
def test_every_problem_is_a_problem_document(code: str) -> None:
    made = problem(code, "because", "the-id", (FieldError(field="image", message="no"),))
    again = Problem.model_validate_json(made.model_dump_json())
    assert again == made
    assert again.type == f"urn:dlhpc:problem:{code}"
    assert 400 <= again.status < 600
    assert again.title == PROBLEMS[code].title


def test_a_reply_says_class_where_python_cannot() -> None:
    reply = PredictReply(
        index=1, label="b", probabilities={"a": 0.25, "b": 0.75}, model="m:1", digest="sha256:0", request_id="r"
    )
    text = reply.model_dump_json(by_alias=True)
    assert text.startswith('{"class":1,')
    assert PredictReply.model_validate_json(text) == reply
