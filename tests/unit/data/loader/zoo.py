# SPDX-License-Identifier: AGPL-3.0-or-later
"""Pictures as they turn up in data sets: every usual kind, and the odd ones."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor


def smooth(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A picture (height, width, 3) uint8 that survives JPEG almost unchanged."""
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def _pillow(mode: str, kind: str = "JPEG", height: int = 40, width: int = 64, **options: object) -> Callable[[], bytes]:
    def make() -> bytes:
        stream = io.BytesIO()
        Image.fromarray(smooth(height, width)).convert(mode).save(stream, kind, **options)
        return stream.getvalue()

    return make


def _opencv(extension: str, picture: np.ndarray) -> Callable[[], bytes]:
    return lambda: cv2.imencode(extension, picture)[1].tobytes()


def _turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return _pillow("RGB", exif=exif)()


USABLE: dict[str, Callable[[], bytes]] = {
    "photo.jpg": _pillow("RGB"),
    "progressive.jpg": _pillow("RGB", progressive=True),
    "turned.jpg": _turned,
    "grayscale.jpg": _pillow("L"),
    "cmyk.jpg": _pillow("CMYK"),
    "palette.png": _pillow("P", "PNG"),
    "transparent.png": _pillow("RGBA", "PNG"),
    "sixteen_bits.png": _opencv(".png", smooth(40, 64).astype(np.uint16) * 257),
    "sixteen_bits_gray.png": _opencv(".png", smooth(40, 64)[..., 0].astype(np.uint16) * 257),
    "one_pixel.jpg": _pillow("RGB", height=1, width=1),
    "one_pixel.png": _pillow("RGB", "PNG", height=1, width=1),
    "thin.jpg": _pillow("RGB", height=3, width=20_000),
    "photo.webp": _pillow("RGB", "WEBP"),
    "photo.tif": _pillow("RGB", "TIFF"),
    "photo.bmp": _pillow("RGB", "BMP"),
    "png_called.jpg": _pillow("RGB", "PNG"),
}
UNUSABLE: dict[str, Callable[[], bytes]] = {
    "empty.jpg": lambda: b"",
    "garbage.jpg": lambda: bytes(range(256)) * 4,
    "text.png": lambda: b"no picture\n" * 9,
    "cut_off.png": lambda: _pillow("RGB", "PNG")()[:60],
}


def write(folder: Path, kinds: dict[str, Callable[[], bytes]]) -> list[str]:
    """Write them; their paths in order."""
    for name, make in kinds.items():
        (folder / name).write_bytes(make())
    return [str(folder / name) for name in kinds]


def decoder(files: Sequence[bytes]) -> list[Tensor]:
    """As a decoder on the GPU behaves, on the CPU: torchvision's, which does not turn by EXIF and raises for the whole list."""
    from torchvision.io import ImageReadMode, decode_jpeg

    encoded = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in files]
    return [image.flip(0).permute(1, 2, 0) for image in decode_jpeg(encoded, mode=ImageReadMode.RGB)]
