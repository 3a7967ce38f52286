# SPDX-License-Identifier: AGPL-3.0-or-later
"""The arguments of a verb with their defaults and meanings, for `yolov12 VERB --help`: from the comments in ultralytics' default.yaml."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

from yolov12 import arguments

COMMON = ("imgsz", "batch", "project", "name", "exist_ok", "verbose")
# Of each verb: the sections of default.yaml that are about it, and keys from other sections.
SHOWN: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "train": (("Train", "Hyperparameters", "Segmentation", "Classification"), ("val", "plots")),
    "val": (("Val/Test",), ("data", *COMMON, "workers", "single_cls", "rect")),
    "predict": (("Predict", "Visualize"), (*COMMON, "save", "conf", "iou", "max_det", "quantize")),
    "export": (("Export",), ("imgsz", "batch", "data", "quantize", "nms")),
}
TRAINED_SIZE = "pixels, one number or height,width; default: what the model was trained with, else 640"
OTHERWISE: dict[str, dict[str, tuple[str, str]]] = {
    "val": {
        "batch": ("16", "pictures for each call"),
        "imgsz": ("", "pixels; default: what the model was trained with, else 640"),
        "rect": ("True", "batches of pictures of one shape, padded no more than they need; False: squares"),
    },
    "predict": {"batch": ("1", "pictures for each call"), "imgsz": ("", TRAINED_SIZE)},
    "export": {
        "batch": ("1", "pictures for each call; the most of them where the size is open"),
        "imgsz": ("", TRAINED_SIZE),
        "dynamic": ("False", "open batch, height and width; for an engine True"),
        "quantize": (
            "",
            "8, 16 or 32: bits of the numbers inside; default 32, for an engine 16; half=True is 16",
        ),
        "opset": ("", "of ONNX, also on the way to an engine; default 18"),
    },
}
"""Of each verb: the arguments whose default or meaning is not that of default.yaml (engine/model.py:540, :639 and :788; export/request.py)."""
HIDDEN = ("model", "source", "format", "device", "resume", "amp", "compile")
"""Told above the list, or settings."""
WIDTH = 118


@dataclass(frozen=True)
class Line:
    """One line of default.yaml."""

    section: str
    key: str
    default: str
    meaning: str


def lines(verb: str) -> Iterator[str]:
    """One line for each argument that is about `verb`."""
    sections, keys = SHOWN[verb]
    for line in read():
        if (line.section in sections or line.key in keys) and line.key not in HIDDEN:
            default, meaning = OTHERWISE.get(verb, {}).get(line.key, (line.default, line.meaning))
            words = f"{line.key}={default}" if default else line.key
            yield f"{words:24} {textwrap.shorten(meaning, WIDTH - 25, placeholder=' ...')}"


def read() -> Iterator[Line]:
    """What default.yaml says about each argument."""
    text = (arguments.ultralytics_folder() / "cfg" / "default.yaml").read_text(encoding="utf-8")
    section = ""
    for row in text.replace("\u2013", "-").replace("\u2194", "<->").splitlines():
        if heading := re.match(r"# (\S+).* -{9,}|# (\w+)$", row):
            section = heading[1] or heading[2]
        elif found := re.match(r"(\w+): (.*?) ?# \(.*?\) (.*)", row):
            yield Line(section, *found.groups())
