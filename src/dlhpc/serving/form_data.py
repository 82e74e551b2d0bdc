"""The parts of a multipart/form-data body (RFC 7578)."""

from __future__ import annotations

from dlhpc.errors import MissingExtraError
from dlhpc.serving.exchange import Refusal

try:
    from multipart import MultipartError, PushMultipartParser, parse_options_header
except ModuleNotFoundError as error:
    raise MissingExtraError("serving", "multipart", "serve") from error

HOW_TO_POST = "curl -F image=@FILE URL, or -F images=@FILE1 -F images=@FILE2 for several"


def boundary_of(content_type: str) -> str:
    """What stands between the parts, by the header; Refusal when it does not say."""
    boundary: str = parse_options_header(content_type)[1].get("boundary", "")
    if not boundary:
        raise Refusal(
            "unsupported_media_type",
            f"content-type {content_type[:200]!r} names no boundary: let the client make this header; {HOW_TO_POST}",
            close=True,
        )
    return boundary


def form_parts(body: bytes, boundary: str, most: int) -> list[tuple[str, bytes]]:
    """Name and content of each part, of which `most` are taken.

    Raises Refusal: bad_form when the body is no whole form, too_many_images.
    """
    parts: list[tuple[str, bytes]] = []
    pieces: list[bytes] = []
    try:
        with PushMultipartParser(boundary, content_length=len(body), strict=True) as parser:
            for event in parser.parse(body):
                if event is None:
                    parts[-1] = parts[-1][0], b"".join(pieces)
                elif isinstance(event, (bytes, bytearray)):
                    pieces.append(bytes(event))
                else:
                    if len(parts) == most:
                        raise Refusal("too_many_images", f"the form has more than {most} parts; {most} are taken")
                    parts.append((event.name or "", b""))
                    pieces = []
    except MultipartError as error:
        raise Refusal("bad_form", f"multipart/form-data: {error}; {HOW_TO_POST}") from error
    return parts
