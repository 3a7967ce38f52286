# SPDX-License-Identifier: AGPL-3.0-or-later
"""Data sets with one fault each, for tests of every layer: `CASES[name].build(folder)` writes one and returns what to type after `data=`.

`says` are the words that the error must contain. `DAMAGED` are pictures that are no error: they are skipped, counted and named.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

GOOD_YAML = "train: images/train\nval: images/val\nnames: [circle, square]\n"
GOOD_LABEL = "0 0.5 0.5 0.4 0.4\n1 0.25 0.25 0.2 0.2\n"


@dataclass(frozen=True)
class Case:
    """One faulty data set."""

    build: Callable[[Path], Path]
    says: tuple[str, ...]


def write_good(folder: Path, yaml: str = GOOD_YAML, side: int = 64) -> Path:
    """A sound data set of 4 + 2 small pictures with two boxes each; returns its yaml."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for index in range(count):
            picture = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
            (folder / "images" / split / f"{index}.jpg").write_bytes(cv2.imencode(".jpg", picture)[1].tobytes())
            (folder / "labels" / split / f"{index}.txt").write_text(GOOD_LABEL)
    file = folder / "data.yaml"
    file.write_text(yaml)
    return file


def _with_yaml(text: str) -> Callable[[Path], Path]:
    return lambda folder: write_good(folder, text)


def _with_label(text: str) -> Callable[[Path], Path]:
    """Replace one training picture's labels."""

    def build(folder: Path) -> Path:
        file = write_good(folder)
        (folder / "labels" / "train" / "2.txt").write_text(text)
        return file

    return build


def _missing_yaml(folder: Path) -> Path:
    return folder / "nowhere.yaml"


def _no_images(folder: Path) -> Path:
    file = write_good(folder)
    for picture in (folder / "images" / "train").iterdir():
        picture.unlink()
    return file


def _no_labels(folder: Path) -> Path:
    file = write_good(folder)
    for label in (folder / "labels" / "train").iterdir():
        label.unlink()
    return file


CASES: dict[str, Case] = {
    "missing yaml": Case(_missing_yaml, ("nowhere.yaml", "no such file", "data=synth")),
    "empty yaml": Case(_with_yaml("# nothing\n"), ("data.yaml is empty", "names:")),
    "malformed yaml": Case(
        _with_yaml("train: images/train\nval: [images/val\nnames: [a]\n"), ("not valid YAML", "line 3")
    ),
    "yaml that is a list": Case(_with_yaml("- images/train\n"), ("holds a list",)),
    "yaml without names": Case(_with_yaml("train: images/train\nval: images/val\n"), ("has no `names:`",)),
    "names with a gap": Case(
        _with_yaml("train: images/train\nval: images/val\nnames: {0: a, 2: b}\n"), ("0-1", "[0, 2]")
    ),
    "nc that contradicts names": Case(_with_yaml(f"{GOOD_YAML}nc: 3\n"), ("nc: 3", "2 classes")),
    "yaml without train": Case(_with_yaml("val: images/val\nnames: [a, b]\n"), ("has no `train:`",)),
    "missing folder": Case(
        _with_yaml(GOOD_YAML.replace("images/val", "images/test")), ("`val:`", "images/test", "does not exist")
    ),
    "missing data with an address": Case(
        _with_yaml("path: /nowhere/set\ntrain: t\nval: v\nnames: [a]\ndownload: https://example.org/set.zip\n"),
        ("https://example.org/set.zip", "not fetched", "/nowhere/set"),
    ),
    "missing data with a script": Case(
        _with_yaml("path: /nowhere/set\ntrain: t\nval: v\nnames: [a]\ndownload: |\n  open('ran', 'w')\n"),
        ("is a script, which is never run",),
    ),
    "no images": Case(_no_images, ("no images for `train:`", "images/train")),
    "no label files": Case(_no_labels, ("none of the 4 training images has a label file", "labels/train/0.txt")),
    "class beyond names": Case(
        _with_label("0 .5 .5 .1 .1\n7 .5 .5 .1 .1\n"), ("labels/train/2.txt:2", "class 7", "2 classes (0-1)")
    ),
    "class that is no whole number": Case(_with_label("0.5 .5 .5 .1 .1\n"), ("2.txt:1", "class 0.5")),
    "NaN box": Case(_with_label("0 nan .5 .1 .1\n"), ("2.txt:1", "x_center is nan")),
    "infinite box": Case(_with_label("0 .5 inf .1 .1\n"), ("2.txt:1", "y_center is inf")),
    "box in pixels": Case(_with_label("0 .5 .5 .1 .1\n0 32 32 8 8\n"), ("2.txt:2", "x_center 32", "fractions")),
    "negative width": Case(_with_label("0 .5 .5 -.1 .1\n"), ("2.txt:1", "width -0.1")),
    "too few columns": Case(_with_label("0 .5 .5 .1\n"), ("2.txt:1", "4 columns")),
    "too many columns": Case(_with_label("0 .5 .5 .1 .1 .9\n"), ("2.txt:1", "6 columns")),
    "word in a label": Case(_with_label("cat .5 .5 .1 .1\n"), ("2.txt:1", "'cat' is not a number")),
    "label that is no text": Case(lambda folder: _binary_label(folder), ("2.txt:1", "can not be read as text")),
    "many faults": Case(_with_label("9 .5 .5 .1 .1\n" * 12), ("12 label lines at fault", "2.txt:10", "and 2 more")),
}


def _binary_label(folder: Path) -> Path:
    file = write_good(folder)
    (folder / "labels" / "train" / "2.txt").write_bytes(b"\xff\xfe\x00\x01")
    return file


DAMAGED: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda jpeg: b"",
    "truncated": lambda jpeg: jpeg[: len(jpeg) // 2],
    "garbage": lambda jpeg: bytes(range(256)) * 4,
    "zeros": lambda jpeg: bytes(len(jpeg)),
}
"""How to damage a JPEG so that it can not be used."""


def write_damaged(folder: Path, how: str) -> tuple[Path, Path]:
    """A good data set of which one training picture is damaged; returns the yaml and that picture."""
    file = write_good(folder)
    picture = folder / "images" / "train" / "1.jpg"
    picture.write_bytes(DAMAGED[how](picture.read_bytes()))
    return file, picture
