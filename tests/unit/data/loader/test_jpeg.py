# SPDX-License-Identifier: AGPL-3.0-or-later
"""Headers of JPEG files, against what Pillow and OpenCV wrote and read."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from yolov12.data.loader import jpeg


def encoded(mode: str = "RGB", size: tuple[int, int] = (40, 30), **options: object) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size).save(stream, "JPEG", **options)
    return stream.getvalue()


def with_orientation(value: int) -> bytes:
    exif = Image.Exif()
    exif[0x010E] = "a description before it"
    exif[0x0112] = value
    return encoded(exif=exif)


def test_an_ordinary_photo_is_decoded_on_the_gpu():
    header = jpeg.read(encoded())
    assert header == jpeg.Header(0xC0, 8, height=30, width=40, components=3, orientation=1, is_rgb=False)
    assert jpeg.why_not_on_gpu(header) == ""


def test_a_progressive_one_too():
    header = jpeg.read(encoded(progressive=True))
    assert header is not None
    assert header.frame == 0xC2
    assert jpeg.why_not_on_gpu(header) == ""


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encoded("CMYK"), "CMYK JPEG"),
        (encoded("L"), "grayscale JPEG"),
        (encoded(keep_rgb=True), "RGB JPEG"),
        (cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes(), "not a JPEG"),
        (b"", "not a JPEG"),
        (encoded()[:100], "not a JPEG"),
    ],
)
def test_what_a_gpu_decoder_may_not_be_asked_for_has_a_reason(data: bytes, reason: str):
    assert jpeg.why_not_on_gpu(jpeg.read(data)) == reason


@pytest.mark.parametrize("marker", [0xC3, 0xC9, 0xCB])
def test_rare_kinds_are_left_to_opencv(marker: int):
    data = bytearray(encoded())
    data[data.index(b"\xff\xc0") + 1] = marker
    assert jpeg.why_not_on_gpu(jpeg.read(bytes(data))).startswith("a rare kind")


def test_twelve_bits_a_sample_are_left_to_opencv():
    data = bytearray(encoded())
    data[data.index(b"\xff\xc0") + 4] = 12
    assert jpeg.why_not_on_gpu(jpeg.read(bytes(data))) == "12 bits a sample"


def test_a_picture_that_would_fill_the_gpu_is_left_to_opencv():
    data = bytearray(encoded())
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = (20_000).to_bytes(2, "big") * 2
    assert jpeg.why_not_on_gpu(jpeg.read(bytes(data))) == "more than 67,108,864 pixels"


@pytest.mark.parametrize("value", range(1, 9))
def test_the_orientation_is_read_from_exif(value: int):
    header = jpeg.read(with_orientation(value))
    assert header is not None
    assert header.orientation == value


def test_a_big_endian_exif_block_is_read_too():
    entry = b"\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00"
    assert jpeg._orientation(b"MM\x00\x2a\x00\x00\x00\x08\x00\x01" + entry) == 6


@given(st.binary(max_size=64), st.integers(0, 700))
def test_no_bytes_make_the_reader_raise(noise: bytes, at: int):
    data = with_orientation(6)
    for damaged in (noise, data[:at], data[:at] + noise, data[:at] + noise + data[at + len(noise) :]):
        header = jpeg.read(damaged)
        assert header is None or 1 <= header.orientation <= 8
