# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the gate said of a file, kept in the cache: the same file of the same source is not compared again.

What it says follows from the source, the file, what is allowed, the pictures, the code that compares and the processor or GPU that computes; all of
these are the key, and a hit tells when they were compared. A failure is not kept, nor is mAP: its data set would have to be read to know that it is
the same, so it is compared every time. How many threads compute is not in the key: what they change is rounding, for which there is room.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import time
from dataclasses import replace
from pathlib import Path

import cv2
import onnx

from yolov12 import settings
from yolov12.export import aoti_file, cache, engine_file, gate, machine, parity, roundings, seen

PACKAGES = ("torch", "ultralytics", "onnx", "onnxruntime", "numpy")
"""What runs both sides, besides our own sources, which are in the hash of the source, and what built an engine, which its header names."""


def lines(case: gate.Case, source: str | None, gpu: str = "", again: bool = False) -> list[str]:
    """What the gate says of a case: as it was said of the same before, with when that was; else it is compared now.

    Args:
        case: what is compared.
        source: the hash of the network (fingerprint.py); None where there is none, and then nothing is looked up or kept.
        gpu: what the file runs on, "" for the CPU.
        again: compare, whatever was kept, and keep what is said now.

    Raises:
        ParityError: they differ by more than is allowed.
    """
    if source is None:
        return gate.verify(case)
    folder, key = settings.trt_cache_dir(), key_of(case, source, gpu)
    if again:
        cache.forget(folder, key)
    reached: list[str] = []

    def compare() -> bytes:
        reached.extend(gate.verify(replace(case, evaluate=None)))
        return json.dumps({"date": time.strftime("%Y-%m-%d %H:%M"), "lines": reached}).encode()

    kept = json.loads(cache.get_or_build(folder, key, compare, what=cache.VERDICT)[0])
    as_before = [f"parity: as compared on {kept['date']}: {line.removeprefix('parity: ')}" for line in kept["lines"]]
    return (reached or as_before) + gate.verify_map(case)


def key_of(case: gate.Case, source: str, gpu: str) -> cache.Key:
    """All that the gate's lines depend on."""
    features = aoti_file.cpu_features(machine.cpuinfo())
    return {
        "source": source,
        "task": str(getattr(case.source, "task", "")),
        "file": _content(case.path, case.form),
        "form": case.form,
        "precision": case.precision,
        "imgsz": str(case.imgsz),
        "nms": str(case.nms),
        "ranked": str(case.ranked),
        "allowed": str(
            [
                gate.TOLERANCES[case.precision],
                gate.NMS_LEAST_IOU[case.precision],
                seen.SHOWN_SCORE,
                parity.RAW_THRESHOLD,
                roundings.ALLOWED,
            ]
        ),
        "pictures": _digest(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in gate.bundled_images())),
        "packages": ", ".join(
            [f"opencv {cv2.__version__}", *(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)]
        ),
        "builder": f"verdict on {case.form}",
        "gpu": gpu or "no GPU",
        "driver": machine.driver_version() if gpu else "",
        "cuda": machine.cuda_version() if gpu else "",
        "cpu": " ".join((machine.processor(), *features)),
    }


def _content(path: Path, form: str) -> str:
    """The hash of a file without the date of its export, which is another every time."""
    if form == "onnx":
        model = onnx.load(path)
        for entry in [entry for entry in model.metadata_props if entry.key == "date"]:
            model.metadata_props.remove(entry)
        return _digest(model.SerializeToString())
    content = path.read_bytes()
    if form != "engine":
        return _digest(content)
    metadata, plan = engine_file.split(content)
    metadata.pop("date", None)
    return _digest(json.dumps(metadata, sort_keys=True).encode() + plan)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
