"""The parts of a form, and what is no form."""

from __future__ import annotations

import pytest

from dlhpc.serving.exchange import Refusal
from dlhpc.serving.form_data import boundary_of, form_parts


def part(name: str, content: bytes, more: str = "") -> bytes:
    return (
        f'--b\r\nContent-Disposition: form-data; name="{name}"; filename="f"{more}\r\n\r\n'.encode() + content + b"\r\n"
    )


END = b"--b--\r\n"


def test_parts_are_names_and_bytes() -> None:
    content = bytes(range(256)) * 3
    assert form_parts(part("a", content) + part("b", b"") + part("c", b"\r\n--x") + END, "b", 3) == [
        ("a", content),
        ("b", b""),
        ("c", b"\r\n--x"),
    ]
    assert form_parts(b'--b\r\nContent-Disposition: form-data; name="t"\r\n\r\ntext\r\n' + END, "b", 3) == [
        ("t", b"text")
    ]


@pytest.mark.parametrize(
    ("header", "boundary"),
    [
        ("multipart/form-data; boundary=abc", "abc"),
        ('multipart/form-data; charset=utf-8; boundary="a b"', "a b"),
        ("multipart/form-data;Boundary=abc", "abc"),
    ],
)
def test_the_boundary_is_the_headers(header: str, boundary: str) -> None:
    assert boundary_of(header) == boundary


@pytest.mark.parametrize(
    "header", ["multipart/form-data", "multipart/form-data; boundary=", 'multipart/form-data; boundary=""']
)
def test_without_a_boundary_it_is_refused(header: str) -> None:
    with pytest.raises(Refusal, match="names no boundary") as caught:
        boundary_of(header)
    assert caught.value.status == 415


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no form",
        part("a", b"1"),  # it never ends
        (part("a", b"1") + END)[:-6],
        b"--b\r\nno header\r\n\r\n1\r\n" + END,
        b"--b\r\nContent-Disposition: form-data\r\n\r\n1\r\n" + END,
        b"--b\r\nContent-Disposition: form-data; name=\xff\xfe\r\n\r\n1\r\n" + END,
        b"--b\r\n\r\n1\r\n" + END,
        part("a", b"1", "\r\nX-Long: " + "x" * 10_000) + END,
        part("a", b"1", "".join(f"\r\nX-{number}: 1" for number in range(20))) + END,
        part("a", b"1", "\r\nContent-Length: 5") + END,
        b"x" * 1_000_000 + part("a", b"1") + END,
    ],
)
def test_what_is_no_whole_form_is_refused(body: bytes) -> None:
    with pytest.raises(Refusal, match="curl -F image=@FILE") as caught:
        form_parts(body, "b", 3)
    assert (caught.value.code, caught.value.status) == ("bad_form", 400)


def test_a_boundary_beyond_reason_is_refused() -> None:
    for boundary in ("x" * 2000, "a\nb"):
        with pytest.raises(Refusal):
            form_parts(b"--" + boundary.encode(), boundary, 3)


def test_too_many_parts_are_refused_as_they_come() -> None:
    with pytest.raises(Refusal) as caught:
        form_parts(part("a", b"1") * 4 + b"and no end", "b", 3)
    assert caught.value.code == "too_many_images"
