# SPDX-License-Identifier: AGPL-3.0-or-later
"""COCO's AP of small objects, by faster-coco-eval, from label files and the `predictions.json` of a validation: the same code for every side.

The package is not among this project's pins. ultralytics' own use of it (models/yolo/detect/val.py:566) turns a failure into a warning, which is
why it is fed from here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGE = "faster-coco-eval"
NOT_INSTALLED = (
    f"{PACKAGE} is not installed, and not pinned here: pip install {PACKAGE} (docs/benchmarks.md, map_paired)"
)
SMALL_PX2 = 32 * 32
"""COCO's largest small object."""
IMAGES = {".jpg", ".jpeg", ".png"}


def evaluator() -> str:
    """The installed version; "" for none."""
    try:
        return metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        return ""


def ground_truth(data_yaml: Path) -> dict[str, Any]:
    """The val split in COCO's form: pictures numbered by name from 1, classes from 1, boxes (left, top, width, height) in a picture's own pixels.

    Args:
        data_yaml: of a data set whose `val` is a folder `images/...` with label files in `labels/...`.
    """
    import yaml
    from PIL import Image

    about = yaml.safe_load(data_yaml.read_text())
    images, annotations = [], []
    pictures = sorted(path for path in (data_yaml.parent / about["val"]).iterdir() if path.suffix.lower() in IMAGES)
    for image_id, picture in enumerate(pictures, start=1):
        with Image.open(picture) as opened:
            width, height = opened.size
        images.append({"id": image_id, "file_name": picture.name, "width": width, "height": height})
        labels = Path("/labels/".join(str(picture.with_suffix(".txt")).rsplit("/images/", 1)))
        for line in labels.read_text().splitlines() if labels.is_file() else ():
            cls, x, y, w, h = (float(word) for word in line.split())
            box = [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(cls) + 1,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    categories = [{"id": number + 1, "name": name} for number, name in enumerate(_names(about["names"]))]
    return {"images": images, "annotations": annotations, "categories": categories}


def count_small(truth: Mapping[str, Any]) -> int:
    """How many objects of a `ground_truth` are small."""
    return sum(one["area"] <= SMALL_PX2 for one in truth["annotations"])


def detections(truth: Mapping[str, Any], predictions: Path) -> list[dict[str, Any]]:
    """What a validation wrote with `save_json=True`, its pictures numbered as in `truth`; nothing where it found nothing and wrote no file."""
    if not predictions.is_file():
        return []
    numbers = {image["file_name"]: image["id"] for image in truth["images"]}
    return [{**one, "image_id": numbers[one["file_name"]]} for one in json.loads(predictions.read_text())]


def ap_small(truth: Mapping[str, Any], found: list[dict[str, Any]]) -> float:
    """AP over IoU 0.50 to 0.95 of the small objects, 0..1.

    Args:
        truth: of `ground_truth`, with small objects in it.
        found: of `detections`.
    """
    if not found:
        return 0.0
    from faster_coco_eval import COCO, COCOeval_faster

    known = COCO(truth)
    evaluation = COCOeval_faster(known, known.loadRes(found), iouType="bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return float(evaluation.stats_as_dict["AP_small"])


def _names(names: Mapping[int, str] | list[str]) -> list[str]:
    """A data yaml has either form."""
    return [names[number] for number in sorted(names)] if isinstance(names, Mapping) else names
