"""Image files of every kind, whole and broken."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from dlhpc.data.decode import EXIF_ORIENTATION, ImageTooLargeError, decode_image
from dlhpc.errors import DataError, UsageError
from tests.data.images import encode

BLOCKS = np.random.default_rng(1).integers(0, 256, (3, 4, 3), dtype=np.uint8)
PIXELS = BLOCKS.repeat(16, axis=0).repeat(16, axis=1)
SHAPE = PIXELS.shape
SUFFIXES = ["png", "jpg", "gif", "bmp", "webp"]


def png_chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_header(width, height):
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", b"") + png_chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("suffix", "options", "tolerance"),
    [
        ("png", {}, 0),
        ("bmp", {}, 0),
        ("gif", {}, 0),
        ("webp", {"lossless": True}, 0),
        ("jpg", {"quality": 98, "subsampling": 0}, 6),
        ("jpg", {"quality": 98, "subsampling": 0, "progressive": True}, 6),
    ],
)
def test_every_format(suffix, options, tolerance):
    decoded = decode_image(encode(PIXELS, suffix, **options), SHAPE)
    assert decoded.dtype == np.uint8
    assert decoded.shape == SHAPE
    assert decoded.flags.writeable
    assert np.abs(decoded.astype(int) - PIXELS).max() <= tolerance


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode(mode, channels):
    image = Image.fromarray(PIXELS).convert(mode)
    content = encode(image, "jpg", quality=100) if mode == "CMYK" else encode(image, "png")
    expected = np.asarray(image.convert("RGB").convert({1: "L", 3: "RGB"}[channels])).reshape(48, 64, channels)
    decoded = decode_image(content, (48, 64, channels))
    assert np.abs(decoded.astype(int) - expected).max() <= (4 if mode == "CMYK" else 1)


def test_sixteen_bit_grey_is_scaled_not_cut():
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    decoded = decode_image(encode(ramp, "png"), (256, 256, 1))[..., 0]
    assert np.abs(decoded - ramp / 257.0).max() <= 0.5
    assert (decode_image(encode(ramp, "png"), (256, 256, 3)) == decoded[..., None]).all()


@pytest.mark.parametrize(("suffix", "palette"), [("png", False), ("png", True), ("gif", False), ("webp", False)])
def test_transparency_is_laid_over_white(suffix, palette):
    image = Image.new("RGBA", (8, 4), (200, 0, 0, 0))
    image.paste((0, 0, 250, 255), (0, 0, 4, 4))
    content = encode(image.quantize() if palette else image, suffix, **({"lossless": True} if suffix == "webp" else {}))
    decoded = decode_image(content, (4, 8, 3))
    assert (decoded[:, :4] == [0, 0, 250]).all()
    assert (decoded[:, 4:] == 255).all()


def test_half_transparency_is_mixed():
    decoded = decode_image(encode(Image.new("LA", (2, 2), (0, 128)), "png"), (2, 2, 1))
    assert (decoded == 127).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_exif_orientation_is_applied(orientation, suffix):
    image = Image.fromarray(PIXELS)
    exif = image.getexif()
    exif[EXIF_ORIENTATION] = orientation
    lossless = {"png": {}, "jpg": {"quality": 98, "subsampling": 0}, "webp": {"lossless": True}}[suffix]
    content = encode(image, suffix, exif=exif, **lossless)
    image.getexif()[EXIF_ORIENTATION] = orientation
    upright = np.asarray(ImageOps.exif_transpose(image))
    decoded = decode_image(content, upright.shape)
    assert np.abs(decoded.astype(int) - upright).max() <= (6 if suffix == "jpg" else 0)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("exif", [b"Exif\x00\x00garbage", b"Exif\x00\x00MM\x00\x2a\xff\xff\xff\xff"])
def test_a_broken_exif_block_leaves_the_pixels(exif):
    decoded = decode_image(encode(PIXELS, "jpg", exif=exif, quality=98, subsampling=0), SHAPE)
    assert np.abs(decoded.astype(int) - PIXELS).max() <= 6


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_the_first_frame_of_an_animation_counts(suffix):
    first, second = (Image.new("RGB", (6, 6), colour) for colour in ((10, 200, 30), (250, 0, 0)))
    content = encode(
        first, suffix, save_all=True, append_images=[second], **({"lossless": True} if suffix == "webp" else {})
    )
    assert (decode_image(content, (6, 6, 3)) == [10, 200, 30]).all()


def test_resizing_averages_and_ignores_proportions():
    left_black = np.zeros((40, 40), np.uint8)
    left_black[:, 20:] = 255
    small = decode_image(encode(left_black, "png"), (2, 8, 1))[..., 0]
    assert (small[:, :3] == 0).all()
    assert (small[:, 5:] == 255).all()
    assert decode_image(encode(left_black, "png"), (1, 1, 1))[0, 0, 0] == pytest.approx(128, abs=2)


def test_a_lossy_webp_is_near():
    smooth = np.asarray(Image.fromarray(BLOCKS).resize((64, 48), Image.Resampling.BICUBIC))
    assert np.abs(decode_image(encode(smooth, "webp", quality=95), SHAPE).astype(int) - smooth).mean() < 4


def test_a_large_jpeg_decodes_to_nearly_the_same_at_a_smaller_scale():
    smooth = np.asarray(Image.fromarray(BLOCKS).resize((1024, 768), Image.Resampling.BICUBIC))
    jpeg, png = (
        decode_image(encode(smooth, suffix, **options), (24, 32, 3)).astype(int)
        for suffix, options in (("jpg", {"quality": 98}), ("png", {}))
    )
    assert np.abs(jpeg - png).max() <= 6


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [8200, 13000, 20000])
def test_too_many_pixels_are_refused_from_the_header_alone(side):
    with pytest.raises(ImageTooLargeError, match="too large"):
        decode_image(png_header(side, side), (8, 8, 1))


def test_the_limit_is_the_callers():
    content = encode(PIXELS, "png")
    decode_image(content, SHAPE, max_pixels=48 * 64)
    with pytest.raises(ImageTooLargeError, match="64 x 48 pixels; at most 3071"):
        decode_image(content, SHAPE, max_pixels=48 * 64 - 1)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_truncated_files_are_refused(suffix):
    content = encode(PIXELS, suffix)
    for share in (0.02, 0.1, 0.5, 0.9, 0.99):
        with pytest.raises(DataError):
            decode_image(content[: int(len(content) * share)], SHAPE)


def test_a_png_without_its_end_is_refused():
    with pytest.raises(DataError, match="IEND"):
        decode_image(encode(PIXELS, "png")[:-12], SHAPE)


def test_a_flipped_byte_in_a_png_is_refused():
    content = bytearray(encode(np.random.default_rng(0).integers(0, 256, (20, 20), dtype=np.uint8), "png"))
    content[len(content) // 2] ^= 1
    with pytest.raises(DataError, match="checksum of its IDAT chunk"):
        decode_image(bytes(content), (20, 20, 1))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes"),
        (b"hello, this is text", "not a PNG, JPEG, GIF, BMP or WebP image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a PNG"),
        (png_header(0, 5), "image"),
        (png_header(5, 5), "damaged"),
    ],
)
def test_what_is_no_image_is_refused(content, message):
    with pytest.raises(DataError, match=message):
        decode_image(content, (8, 8, 1))


def test_other_formats_that_pillow_knows_are_refused():
    with pytest.raises(DataError, match="not a PNG"):
        decode_image(encode(PIXELS, "tiff"), SHAPE)


def test_only_grey_and_colour_are_made():
    with pytest.raises(UsageError, match="model wants 4"):
        decode_image(encode(PIXELS, "png"), (8, 8, 4))


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(SUFFIXES), st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8)
)
def test_damage_raises_nothing_but_data_errors(suffix, damage):
    content = bytearray(encode(PIXELS, suffix))
    for place, byte in damage:
        content[int(place * len(content))] = byte
    try:
        decoded = decode_image(bytes(content), (16, 16, 3), max_pixels=1 << 20)
    except DataError:
        return
    assert decoded.shape == (16, 16, 3)
