# SPDX-License-Identifier: AGPL-3.0-or-later
"""`yolov12 predict model=x.onnx source=pictures/` and `yolov12 verify`, in the images without torch.

Exit codes: 0 done; 1 verify found a difference; 2 usage or bad input; 75 worth a retry: the disk is full.
"""

from __future__ import annotations

import errno
import glob
import itertools
import json
import math
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from yolov12 import __version__
from yolov12_deploy.errors import UsageError, not_there

HELP = f"""yolov12 {__version__}, deploy: run exported detection models, .onnx with ONNX Runtime, .engine with TensorRT's lean runtime

  yolov12 predict model=best.onnx source=pictures/      --key value and --key=value do too
      source=   a picture, a folder of pictures, or a pattern
      conf=0.25 iou=0.7 max_det=300   imgsz=640 (for a model with an open input size)   threads=0 (all cores)
      device=   auto: the GPU if this image's runtime and the machine have one; cpu
      out=      a folder for the pictures and predictions.jsonl; default runs/predict, runs/predict-2, ...
      save=1    0: no pictures
  yolov12 verify [--json]      compare what is installed with what was promised

Training, validation and export are in the image yolov12:train.
exit codes: 0 done; 1 verify found a difference; 2 usage or bad input; 75 worth a retry: the disk is full"""

OPTIONS = {
    "model": "",
    "source": "",
    "conf": 0.25,
    "iou": 0.7,
    "max_det": 300,
    "imgsz": 0,
    "threads": 0,
    "device": "auto",
    "out": "",
    "save": 1,
}
RANGES = {
    "conf": (0, 1),
    "iou": (0, 1),
    "max_det": (1, math.inf),
    "imgsz": (0, math.inf),
    "threads": (0, math.inf),
}
PICTURES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


def main(argv: list[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    if argv is None:  # as a program; in Python the signal is the caller's
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends it as it ends other programs, without a traceback
    words = sys.argv[1:] if argv is None else argv
    verb, rest = (words[0], words[1:]) if words else ("help", [])
    if verb in ("help", "--help", "-h") or "--help" in rest or "-h" in rest:
        print(HELP)
        return 0
    if verb in ("version", "--version"):
        print(f"yolov12 {__version__} deploy")
        return 0
    if verb == "verify":
        from yolov12.tools.verify import main as verify

        return verify({"json": "--json" in rest or "json=True" in rest})
    try:
        if verb != "predict":
            raise UsageError(f"{verb!r} is not in this image, which can only `predict` and `verify`; see yolov12:train")
        return predict(parse(rest))
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # of the files that are read and written
        print(f"error: {error.filename or 'the results can not be written'}: {error.strerror}", file=sys.stderr)
        return 75 if error.errno in (errno.ENOSPC, errno.EDQUOT) else 2


def parse(words: list[str]) -> dict[str, str | float | int]:
    """Options from `key=value`, `--key=value` and `--key value`.

    Raises:
        UsageError: an unknown key, a value of another kind than its default, or one that is out of range.
    """
    options: dict[str, str | float | int] = dict(OPTIONS)
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        key, equals, value = word.removeprefix("--").partition("=")
        if not equals and word.startswith("--") and waiting:
            value, equals = waiting.pop(0), "="
        key = key.replace("-", "_")
        if not equals or key not in OPTIONS:
            raise UsageError(f"{word!r} is not understood; predict knows {', '.join(f'{key}=' for key in OPTIONS)}")
        kind = type(OPTIONS[key])
        try:
            options[key] = kind(value)
        except ValueError as error:
            raise UsageError(f"{key}={value}: type a number") from error
        if key in RANGES:
            low, high = RANGES[key]
            if not low <= kind(value) <= high:  # "nan" is in no range
                limits = f"from {low} to {high}" if high < math.inf else f"of {low} or more"
                raise UsageError(f"{key}={value}: type a number {limits}")
    return options


def predict(options: dict[str, str | float | int]) -> int:
    """Detect in each picture; a line for each on stdout."""
    import cv2
    import numpy as np

    from yolov12_deploy.draw import draw
    from yolov12_deploy.model import Detector, Thresholds

    for key, example in (("model", "best.onnx"), ("source", "pictures/")):
        if not options[key]:
            raise UsageError(f"predict needs {key}=: for example {key}={example}")
    pictures = find_pictures(str(options["source"]))
    model, imgsz = Path(str(options["model"])), int(options["imgsz"]) or None
    detector = Detector(model, imgsz, int(options["threads"]), str(options["device"]))
    print(f"{model.name} runs {detector.session.place}", file=sys.stderr)
    thresholds = Thresholds(float(options["conf"]), float(options["iou"]), int(options["max_det"]))
    out = make_folder(str(options["out"]))
    drawn: set[str] = set()
    with (out / "predictions.jsonl").open("w") as lines:
        for file in pictures:
            picture = cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_COLOR)
            if picture is None:
                raise UsageError(f"source: {file} is not a picture that can be read")
            found = detector.predict(picture, thresholds)
            boxes = [as_record(row, detector.names) for row in found]
            record: dict[str, object] = {"picture": str(file), "boxes": boxes}
            if options["save"]:
                record["drawn"] = name = next(name for name in names_of(file) if name not in drawn)
                drawn.add(name)
            lines.write(json.dumps(record) + "\n")
            print(f"{file}: {len(boxes)} boxes")
            if options["save"]:
                write(out / name, cv2.imencode(file.suffix, draw(picture, found, detector.names))[1])
    print(f"{len(pictures)} pictures, in {out}")
    return 0


def names_of(picture: Path) -> Iterator[str]:
    """Its own name, then cat-2.jpg, cat-3.jpg, ...: pictures of several folders may have one name."""
    yield picture.name
    yield from (f"{picture.stem}-{number}{picture.suffix}" for number in itertools.count(2))


def write(file: Path, content: Any) -> None:
    """A whole file or none. cv2.imwrite would say nothing of a full disk.

    Raises:
        OSError: it can not be written.
    """
    try:
        file.write_bytes(content)
    except OSError as error:
        file.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(file)) from error


def as_record(row: object, names: dict[int, str]) -> dict[str, object]:
    """One detection as JSON has it: pixels, score, class."""
    x1, y1, x2, y2, score, number = (float(value) for value in row)  # type: ignore[attr-defined] # a row of an array
    box = [round(value, 2) for value in (x1, y1, x2, y2)]
    return {
        "box": box,
        "score": round(score, 5),
        "class": int(number),
        "name": names.get(int(number), str(int(number))),
    }


def find_pictures(source: str) -> list[Path]:
    """The pictures that `source` names, sorted.

    Raises:
        UsageError: there are none.
    """
    path = Path(source)
    files = list(path.iterdir()) if path.is_dir() else [Path(name) for name in glob.glob(source)]
    if pictures := sorted(file for file in files if file.suffix.lower() in PICTURES):
        return pictures
    if not files and not path.exists() and not glob.has_magic(source):
        raise not_there(f"source={source}: there is no such file or folder")
    raise UsageError(f"source={source}: no picture there ({', '.join(sorted(PICTURES))})")


def make_folder(asked: str) -> Path:
    """The folder for the output: what was asked for, else the first of runs/predict, runs/predict-2, ... that is not there yet.

    Raises:
        UsageError: it can not be written.
    """
    number = 1
    out = Path(asked or "runs/predict")
    try:
        while not asked and out.exists():
            number += 1
            out = Path(f"runs/predict-{number}")
        out.mkdir(parents=True, exist_ok=True)
        (out / "predictions.jsonl").touch()
    except OSError as error:
        raise UsageError(f"out={out} can not be written ({error.strerror}): name another folder") from error
    return out


if __name__ == "__main__":
    sys.exit(main())
