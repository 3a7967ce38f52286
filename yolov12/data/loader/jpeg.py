# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a JPEG file says about itself before its pixels, and whether a GPU decoder may be asked for them.

A decoder on the GPU knows fewer kinds of files than OpenCV, and refuses a whole batch for one of them. So the header is read first: a few
hundred bytes, by ITU-T T.81 annex B, and the orientation from the EXIF block.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

_STANDALONE = frozenset({0x01, *range(0xD0, 0xD8)})
"""Markers without a length: TEM and the restart markers."""
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Start of frame: SOF0 to SOF15, without DHT, JPG and DAC."""
_DECODED_ON_GPU = frozenset({0xC0, 0xC1, 0xC2})
"""Baseline, extended sequential and progressive, all with Huffman codes."""
MOST_PIXELS = 2**26
"""Decoded on the GPU: 200 MB. Larger pictures may take more memory than training leaves."""
_ORIENTATION = 0x0112
_SHORT = 3


@dataclass(frozen=True)
class Header:
    """The first frame of a JPEG file."""

    frame: int
    """The marker of its kind, 0xC0 for baseline."""
    bits: int
    """Per component."""
    height: int
    width: int
    components: int
    orientation: int
    """By EXIF, 1 to 8; 1 is upright."""
    is_rgb: bool
    """Whether Adobe's block says that the components are red, green and blue instead of luma and chroma."""


def read(data: bytes) -> Header | None:
    """The header of a JPEG file; None if `data` is no JPEG file or is cut off before its first frame."""
    if not data.startswith(b"\xff\xd8"):
        return None
    orientation, is_rgb, at = 1, False, 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF or marker in _STANDALONE:  # 0xFF may be repeated as a filler
            at += 1 if marker == 0xFF else 2
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        block = data[at + 4 : at + 2 + length]
        if length < 2 or len(block) < length - 2:
            return None
        if marker in _FRAMES and len(block) >= 6:
            bits, height, width, components = struct.unpack(">BHHB", block[:6])
            return Header(marker, bits, height, width, components, orientation, is_rgb)
        if marker == 0xDA or marker in _FRAMES:  # pixels before any frame
            return None
        if marker == 0xE1 and block.startswith(b"Exif\0\0"):
            orientation = _orientation(block[6:])
        elif marker == 0xEE and block.startswith(b"Adobe") and len(block) >= 12:
            is_rgb = block[11] == 0
        at += 2 + length
    return None


def why_not_on_gpu(header: Header | None) -> str:
    """Why a file with this header is decoded by OpenCV; "" if a GPU may do it."""
    if header is None:
        return "not a JPEG"
    if header.frame not in _DECODED_ON_GPU:
        return "a rare kind of JPEG (lossless, hierarchical or arithmetic codes)"
    if header.bits != 8:
        return f"{header.bits} bits a sample"
    if header.components != 3:
        return {1: "grayscale JPEG", 4: "CMYK JPEG"}.get(header.components, f"{header.components} components")
    if header.is_rgb:
        return "RGB JPEG"
    if not header.height or not header.width:  # the height may be given behind the pixels
        return "no size in the header"
    if header.height * header.width > MOST_PIXELS:
        return f"more than {MOST_PIXELS:,} pixels"
    return ""


def _orientation(tiff: bytes) -> int:
    """The EXIF orientation in a TIFF block; 1 where there is none, or none that can be read."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None or len(tiff) < 8:
        return 1
    (start,) = struct.unpack(f"{order}I", tiff[4:8])
    if start + 2 > len(tiff):
        return 1
    (count,) = struct.unpack(f"{order}H", tiff[start : start + 2])
    for entry in range(start + 2, min(start + 2 + 12 * count, len(tiff) - 11), 12):
        tag, kind, _, value = struct.unpack(f"{order}HHIH", tiff[entry : entry + 10])
        if tag == _ORIENTATION:
            return value if kind == _SHORT and 1 <= value <= 8 else 1
    return 1
