# SPDX-License-Identifier: AGPL-3.0-or-later
"""A small detection data set drawn on the spot: circles, squares and triangles on textured backgrounds, saved as noisy JPEGs.

It exists so that the demo and the tests train on something without a download, and it is made to be learnt in minutes on a CPU: three
classes that differ in outline, a colour that stands out, some objects small, some partly hidden.

The same arguments write the same bytes (with the same OpenCV): every picture has its own random generator, seeded by (seed, split, index),
so a longer set begins with the shorter one.
"""

from __future__ import annotations

import colorsys
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from yolov12.errors import UserError

CLASSES = ("circle", "square", "triangle")
YAML_NAME = "data.yaml"
_VERSION = 1
"""Goes up when the drawing changes, so that a cached set of an older version is not taken for this one."""
_MARK = "# written by yolov12 data synth"
MOST_AT_ONCE = 8
"""Pictures that are drawn at the same time, each in some 11 MB at 640 px: a container may have far less than its share of a large machine's cores."""
_HIDDEN_LIMIT = 0.5
"""An object of which less than this share stays visible is not labelled (and not drawn)."""


@dataclass(frozen=True)
class Shape:
    """One object, in pixels: class index, centre, half of its extent, and rotation in degrees."""

    cls: int
    x: float
    y: float
    half: float
    turn: float

    def polygon(self) -> np.ndarray:
        """Outline as int32 (N, 2) pixel coordinates."""
        corners, first = {0: (48, 0.0), 1: (4, 45.0), 2: (3, -90.0)}[self.cls]
        turn = 0.0 if self.cls == 0 else self.turn
        angles = np.deg2rad(first + turn + np.arange(corners) * 360.0 / corners)
        outline = np.stack([self.x + self.half * np.cos(angles), self.y + self.half * np.sin(angles)], 1)
        return np.rint(outline).astype(np.int32)


def write(out: Path, n_train: int = 64, n_val: int = 16, imgsz: int = 320, seed: int = 0) -> Path:
    """Write the data set in YOLO format under `out` and return the path of its yaml.

    `out` gets `images/{train,val}`, `labels/{train,val}` and `data.yaml` (paths relative to itself, so that the folder can be moved). The set
    is drawn beside `out` and renamed into place: `out` is either whole or untouched. A folder that this function wrote earlier is replaced.

    Raises:
        UserError: `out` holds something else, can not be written, or a number makes no sense.
    """
    out = Path(out)
    if n_train < 1 or n_val < 1 or imgsz < 64:
        raise UserError(
            f"synth needs n_train >= 1, n_val >= 1 and imgsz >= 64, not n_train={n_train}, n_val={n_val}, imgsz={imgsz}"
        )
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: name a folder for the data set")
    if out.exists() and not _is_ours(out):
        raise UserError(f"{out} is not empty and was not written by `yolov12 data synth`: name a new folder")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise UserError(f"can not write {out}: {error.strerror}: name a folder that you may write") from error
    try:
        for split_index, (split, count) in enumerate((("train", n_train), ("val", n_val))):
            _write_split(aside, split, split_index, count, imgsz, seed)
        (aside / YAML_NAME).write_text(_yaml(n_train, n_val, imgsz, seed), encoding="utf-8")
        aside.chmod(0o755)  # mkdtemp makes it private
        if out.exists():
            shutil.rmtree(out)
        os.rename(aside, out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return out / YAML_NAME


def draw(imgsz: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One picture (imgsz, imgsz, 3) uint8 BGR and its labels (N, 5) float: class, then box centre and size, normalized to 0..1."""
    picture = _background(imgsz, rng)
    owner = np.full(
        (imgsz, imgsz), -1, np.int16
    )  # which shape each pixel shows, to know how much of each stays visible
    shapes: list[Shape] = []
    for _ in range(int(rng.integers(3, 7))):
        shape = _place(imgsz, shapes, rng)
        mask = np.zeros((imgsz, imgsz), np.uint8)
        cv2.fillPoly(mask, [shape.polygon()], 1)
        attempt = np.where(mask > 0, len(shapes), owner)
        if not _all_visible(attempt, [*shapes, shape]):
            continue
        owner = attempt
        _paint(picture, shape, rng)
        shapes.append(shape)
    grain = rng.normal(0.0, 6.0, picture.shape)
    picture = np.clip(picture + grain, 0, 255).astype(np.uint8)
    return picture, np.array([_label(shape, imgsz) for shape in shapes], np.float64).reshape(-1, 5)


def bundled(cache: Path | None = None) -> Path:
    """The yaml of the set that `data=synth` means, written on first use into `cache` (default: the settings' cache directory) and reused."""
    if cache is None:
        from yolov12 import settings

        cache = settings.cache_dir()
    n_train, n_val, imgsz, seed = BUNDLED
    folder = Path(cache) / f"synth-v{_VERSION}-{n_train}-{n_val}-{imgsz}-{seed}"
    ready = folder / YAML_NAME
    return ready if ready.is_file() else write(folder, n_train, n_val, imgsz, seed)


BUNDLED = (64, 16, 320, 0)
"""n_train, n_val, imgsz, seed of `bundled`."""


def _is_ours(folder: Path) -> bool:
    """True for an empty folder and for one that `write` made."""
    if not any(folder.iterdir()):
        return True
    yaml = folder / YAML_NAME
    return yaml.is_file() and yaml.read_text(encoding="utf-8", errors="replace").startswith(_MARK)


def _yaml(n_train: int, n_val: int, imgsz: int, seed: int) -> str:
    names = "".join(f"  {index}: {name}\n" for index, name in enumerate(CLASSES))
    head = f"{_MARK} (v{_VERSION} train={n_train} val={n_val} imgsz={imgsz} seed={seed})\n"
    return f"{head}# Paths are relative to this file.\ntrain: images/train\nval: images/val\nnames:\n{names}"


def _write_split(root: Path, split: str, split_index: int, count: int, imgsz: int, seed: int) -> None:
    images, labels = root / "images" / split, root / "labels" / split
    images.mkdir(parents=True)
    labels.mkdir(parents=True)

    def write_one(index: int) -> None:
        rng = np.random.default_rng([seed, split_index, index])
        picture, boxes = draw(imgsz, rng)
        quality = int(rng.integers(45, 91))
        encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        (images / f"{index:05d}.jpg").write_bytes(encoded.tobytes())
        lines = (f"{int(row[0])} " + " ".join(f"{value:.6f}" for value in row[1:]) + "\n" for row in boxes)
        (labels / f"{index:05d}.txt").write_text("".join(lines), encoding="utf-8")

    # numpy and OpenCV let go of the interpreter's lock in nearly all that a picture takes.
    with ThreadPoolExecutor(min(len(os.sched_getaffinity(0)), MOST_AT_ONCE)) as pool:
        list(pool.map(write_one, range(count)))  # for what they raise


def _background(imgsz: int, rng: np.random.Generator) -> np.ndarray:
    """Muted texture on two scales, float64 (imgsz, imgsz, 3)."""
    base = rng.uniform(70, 170)
    coarse = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
    fine = rng.integers(0, 256, (max(imgsz // 6, 2), max(imgsz // 6, 2)), dtype=np.uint8)
    return base + (_stretch(coarse, imgsz) - 127.5) * 0.25 + (_stretch(fine, imgsz)[..., None] - 127.5) * 0.15


def _stretch(picture: np.ndarray, imgsz: int) -> np.ndarray:
    # The exact variant: plain INTER_LINEAR may round differently from CPU to CPU.
    return cv2.resize(picture, (imgsz, imgsz), interpolation=cv2.INTER_LINEAR_EXACT).astype(np.float64)


def _place(imgsz: int, earlier: list[Shape], rng: np.random.Generator) -> Shape:
    """A random shape; one in three is small, and one in four is put so that it may cover part of an earlier one."""
    cls = int(rng.integers(len(CLASSES)))
    half = imgsz * (rng.uniform(0.035, 0.06) if rng.random() < 0.3 else rng.uniform(0.09, 0.18))
    turn = rng.uniform(-20.0, 20.0)
    x, y = rng.uniform(half, imgsz - 1 - half, 2)
    if earlier and rng.random() < 0.25:
        near = earlier[int(rng.integers(len(earlier)))]
        angle = rng.uniform(0.0, 2.0 * np.pi)
        reach = 0.9 * (near.half + half)
        x = float(np.clip(near.x + reach * np.cos(angle), half, imgsz - 1 - half))
        y = float(np.clip(near.y + reach * np.sin(angle), half, imgsz - 1 - half))
    return Shape(cls, float(x), float(y), float(half), float(turn))


def _all_visible(owner: np.ndarray, shapes: list[Shape]) -> bool:
    """Whether each shape keeps at least half of its pixels."""
    for index, shape in enumerate(shapes):
        full = np.zeros(owner.shape, np.uint8)
        cv2.fillPoly(full, [shape.polygon()], 1)
        if (owner == index).sum() < (1.0 - _HIDDEN_LIMIT) * full.sum():
            return False
    return True


def _paint(picture: np.ndarray, shape: Shape, rng: np.random.Generator) -> None:
    """Fill the outline with a saturated colour and edge it dark, in place."""
    red, green, blue = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.75, 1.0), rng.uniform(0.8, 1.0))
    fill = (blue * 255.0, green * 255.0, red * 255.0)
    outline = [shape.polygon()]
    cv2.fillPoly(picture, outline, fill)
    cv2.polylines(picture, outline, True, (20.0, 20.0, 20.0), max(round(shape.half / 12), 1))


def _label(shape: Shape, imgsz: int) -> tuple[float, float, float, float, float]:
    outline = shape.polygon()
    (left, top), (right, bottom) = outline.min(0), outline.max(0) + 1  # a pixel is a unit square
    left, top, right, bottom = (float(np.clip(edge, 0, imgsz)) / imgsz for edge in (left, top, right, bottom))
    return shape.cls, (left + right) / 2, (top + bottom) / 2, right - left, bottom - top
