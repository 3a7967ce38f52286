# SPDX-License-Identifier: AGPL-3.0-or-later
"""How long a process takes from its start to the boxes of one picture by an exported file, on the CPU: stock's command line, and that of the deploy
images, which needs no torch.

Both sides read one ONNX file, which stock exported, and one picture, and write a picture with boxes. Ours runs from the repository with this
environment's ONNX Runtime; a container's own start comes on top.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import lively
from benchmarks.harness import Benchmark, BenchmarkError, Job, Measured, Row
from benchmarks.record import DECLARED
from benchmarks.system import ROOT

MODEL, PICTURE = "yolo12n.onnx", "picture.png"
EXPORT = """
import sys
from ultralytics import YOLO
YOLO(sys.argv[1]).export(format="onnx", imgsz=int(sys.argv[2]))
"""
PREDICT = {
    "stock": "import sys; sys.argv[0] = 'yolo'; from ultralytics.cfg import entrypoint; entrypoint()",
    "ours": "import sys; from yolov12_deploy.cli import main; sys.exit(main())",
}
OF_A_CLASS = re.compile(r"(\d+) \w+,")
"""In stock's line for a picture, `image 1/1 PATH: 640x640 7 persons, 2 dogs, 42.0ms`."""

ROWS = (
    Row(
        "deploy_first_answer",
        "s",
        "lower",
        "from the start of a process to the boxes of one picture, on disk, by an exported file",
    ),
)


def prepare(parameters: Mapping[str, Any], scratch: Path) -> None:
    """The file, exported by stock, and a picture in which its network finds something.

    Raises:
        BenchmarkError: one of them could not be made.
    """
    import cv2
    import numpy as np

    size = parameters["imgsz"]
    lively.write("yolo12n.yaml", size, scratch / "yolo12n.pt")
    _python(EXPORT, [str(scratch / "yolo12n.pt"), str(size)], scratch, YOLOV12_DISABLE="1", YOLO_OFFLINE="true")
    if not (scratch / MODEL).exists():
        raise BenchmarkError(f"stock exported no {MODEL}")
    coarse = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    cv2.imwrite(str(scratch / PICTURE), cv2.resize(coarse, (size, size), interpolation=cv2.INTER_NEAREST))


def run_side(job: Job) -> Measured:
    """Median of several fresh processes, after one that is not counted."""
    measured = Measured(declared=dict.fromkeys(DECLARED))
    times_s, boxes = [], -1
    words = [f"model={job.scratch / MODEL}", f"source={job.scratch / PICTURE}", "device=cpu", "conf=0.25", "iou=0.7"]
    for number in range(job.parameters["starts"] + 1):
        out = job.scratch / f"out-{number}"
        own = [f"project={out.parent}", f"name={out.name}", "save=True"] if job.side == "stock" else [f"out={out}"]
        began_s = time.perf_counter()
        said = _python(PREDICT[job.side], ["predict", *words, *own], job.scratch)
        times_s.append(time.perf_counter() - began_s)
        boxes = _boxes(job.side, said, out)
    measured.values["deploy_first_answer"] = median(times_s[1:])
    measured.notes["deploy_first_answer"] = f"{boxes} boxes"
    return measured


def _boxes(side: str, said: str, out: Path) -> int:
    """How many it found."""
    if side == "ours":
        (line,) = (out / "predictions.jsonl").read_text().splitlines()
        return len(json.loads(line)["boxes"])
    (line,) = (one for one in said.splitlines() if PICTURE in one)
    return sum(int(count) for count in OF_A_CLASS.findall(line.split(": ", 1)[1]))


def _python(code: str, words: list[str], folder: Path, **environment: str) -> str:
    """Standard output of a fresh interpreter without this environment's .pth files, of which one may be the drop-in's.

    Raises:
        BenchmarkError: it failed.
    """
    path = {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT / "docker/deploy"), str(ROOT), *sys.path]))}
    command = [sys.executable, "-S", "-c", code, *words]
    done = subprocess.run(
        command, env={**os.environ, **path, **environment}, cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BenchmarkError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
    return done.stdout


BENCHMARK = Benchmark(
    name="deploy",
    claim="the deploy images' command line has the boxes of a picture on disk within 3 s of its start, on two cores",
    rows=ROWS,
    needs="cpu",
    run_side=run_side,
    prepare=prepare,
    parameters={"imgsz": 640, "starts": 5},
    repeats=3,
    timeout_s=300,
)
