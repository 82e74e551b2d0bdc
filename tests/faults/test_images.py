"""The fault table, images: what is no image, what would be too much of one, and what is rare but in order."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults import images
from tests.faults.images import grey, saved
from tests.faults.raw import asked, request
from tests.faults.server import Running
from tests.serving.asgi import body

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(600)]

NONE: dict[str, Callable[[], bytes]] = {
    "text": lambda: b"this is text",
    "nothing but a signature": lambda: b"\x89PNG\r\n\x1a\n",
    "TIFF": lambda: saved(grey(), "TIFF"),
    "PostScript": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "SVG": lambda: b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    **{f"truncated {kind}": lambda kind=kind: images.truncated(kind) for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP")},
    **{f"{kind} bomb": lambda kind=kind: images.bomb_of(kind.encode()) for kind in ("zTXt", "iTXt", "iCCP")},
    "BMP of run lengths": images.run_length_bmp,
    "JPEG of many scans": images.many_scans,
    "JPEG of many segments": images.many_segments,
    "PNG of many chunks": images.many_chunks,
    "GIF of many blocks": images.many_comments,
}  # type: ignore[misc]
TOO_LARGE: dict[str, Callable[[], bytes]] = {
    "PNG": images.huge_png,
    "JPEG": images.huge_jpeg,
    "GIF": lambda: images.huge_gif(in_frame=False),
    "GIF frame": lambda: images.huge_gif(in_frame=True),
    "WebP": images.huge_webp,
    "BMP": images.huge_bmp,
}
FINE: dict[str, Callable[[], bytes]] = {
    "animated GIF": lambda: images.animation("GIF"),
    "animated WebP": lambda: images.animation("WEBP"),
    "animated PNG": lambda: images.animation("PNG"),
    "EXIF orientation": images.turned,
    "CMYK JPEG": lambda: saved(grey().convert("CMYK"), "JPEG"),
    "16 bits": images.sixteen_bit,
    "palette with transparency": images.see_through,
    "one pixel": lambda: saved(grey((1, 1)), "PNG"),
    "progressive JPEG": lambda: saved(grey((640, 480)), "JPEG", progressive=True),
}


@pytest.mark.parametrize("name", NONE)
def test_what_is_no_image_is_refused(server: Running, name: str) -> None:
    with server.unharmed({("/predict", 422): 1}):
        told = asked(server.port, request(body(NONE[name]())))
        assert (told.status, told.code) == (422, "bad_image"), told


@pytest.mark.parametrize("name", TOO_LARGE)
def test_a_decompression_bomb_is_refused_by_its_header(server: Running, name: str) -> None:
    with server.unharmed({("/predict", 413): 1}):
        told = asked(server.port, request(body(TOO_LARGE[name]())))
        assert (told.status, told.code) == (413, "image_too_large"), told


@pytest.mark.parametrize("name", FINE)
def test_a_rare_image_is_answered_like_a_plain_one(server: Running, name: str) -> None:
    plain = server.predict(body(saved(grey(), "PNG"))).json()
    with server.unharmed({("/predict", 200): 1}):
        told = asked(server.port, request(body(FINE[name]())))
        assert told.status == 200, told
        assert told.json["probabilities"] == pytest.approx(plain["probabilities"], abs=2e-2)


def test_a_bomb_among_several_images_harms_none_of_them(server: Running) -> None:
    form = [("images", ("a", content)) for content in (saved(grey(), "PNG"), images.huge_png(), saved(grey(), "GIF"))]
    with server.unharmed({("/predict", 200): 1}):
        first, second, third = server.http.post("/predict", files=form).json()["predictions"]
        assert second["error"]["code"] == "image_too_large"
        assert first["probabilities"] == third["probabilities"]
