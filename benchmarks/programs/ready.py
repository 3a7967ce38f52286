# SPDX-License-Identifier: AGPL-3.0-or-later
"""From nothing to the first training step: `docker run` of an image that is there, or the installation by hand that articles describe.

Both train yolov12n on the same few pictures on the CPU, so that any machine with Docker can measure it. By hand means a fresh environment,
`pip install` of the pinned torch and ultralytics, and the same script; FlashAttention, which takes hours, is the program flash_attn_build.
Pulling the image is left out. What a package index and a network do to pip is not: the note says what was downloaded.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from benchmarks.harness import Benchmark, BenchmarkError, Job, Measured, Row
from benchmarks.record import DECLARED
from benchmarks.system import ROOT

ROWS = (
    Row("ready_install", "s", "lower", "until Python can import YOLO: nothing to do in the image"),
    Row("ready_train", "s", "lower", "until the first training step is through"),
    Row(
        "ready_train_warm",
        "s",
        "lower",
        "the same once more in the same folder: installed, and with what the first run left in it",
    ),
)
PACKAGES = ("torch", "torchvision", "ultralytics")
SCRIPT = """
import os, sys
from ultralytics import YOLO
print("IMPORTED", flush=True)
def end(trainer):
    print("\\nSTEPPED", flush=True)  # a progress bar may stand on the line
    os._exit(0)
model = YOLO("yolo12n.yaml")
model.add_callback("on_train_batch_end", end)
model.train(data=sys.argv[1], epochs=1, imgsz=64, batch=4, workers=0, device="cpu", plots=False, project=sys.argv[2])
"""


def prepare(parameters: Mapping[str, Any], scratch: Path) -> None:
    """The pictures and the script, in a folder that a container may write to.

    Raises:
        BenchmarkError: the image is not there; told before minutes go into the other side's installation.
    """
    require_image(str(parameters["image"]))
    from yolov12.data import synth

    synth.write(scratch / "data", n_train=8, n_val=4, imgsz=64)
    (scratch / "script.py").write_text(SCRIPT)


def require_image(image: str) -> None:
    """Raise BenchmarkError unless a container engine answers and has the image."""
    try:
        asked = subprocess.run(["docker", "image", "inspect", image], capture_output=True, text=True, check=False)
    except OSError as error:
        raise BenchmarkError(f"needs a container engine and the image {image}: docker: {error.strerror}") from None
    if asked.returncode:
        said = (asked.stderr.strip().splitlines() or [f"exit code {asked.returncode}"])[-1]
        advice = "; type make build" if "no such image" in said.lower() else ""
        raise BenchmarkError(f"needs a container engine and the image {image}: {said}{advice}")


def run_side(job: Job) -> Measured:
    """Seconds from the first command on."""
    began_s = time.monotonic()
    if job.side == "ours":
        image = str(job.parameters["image"])
        command = ["docker", "run", "--rm", "--network", "none", "--volume", f"{job.scratch}:/workspace", image]
        command += ["python", "script.py", "data/data.yaml", "runs"]
        note = f"{image}, started from the local engine"
    else:
        pins = yaml.safe_load((ROOT / "env/versions.yaml").read_text())["packages"]
        python = str(job.scratch / "env/bin/python")
        subprocess.run([sys.executable, "-m", "venv", str(job.scratch / "env")], check=True)
        wanted = [f"{name}=={pins[name]['version']}" for name in PACKAGES]
        subprocess.run([python, "-m", "pip", "install", "-qq", "--no-cache-dir", *wanted], check=True)
        command = [python, "script.py", "data/data.yaml", "runs"]
        note = f"pip install {' '.join(wanted)}, without FlashAttention"
    reached_s = _milestones(command, job.scratch, began_s)
    again_s = _milestones(command, job.scratch, time.monotonic())
    return Measured(
        declared={**dict.fromkeys(DECLARED), "dtype": "fp32", "workers": 0},
        values={
            "ready_install": reached_s["IMPORTED"],
            "ready_train": reached_s["STEPPED"],
            "ready_train_warm": again_s["STEPPED"],
        },
        notes={"ready_install": note},
    )


def _milestones(command: list[str], folder: Path, began_s: float) -> dict[str, float]:
    """Word -> seconds after `began_s` at which the script printed it."""
    reached_s: dict[str, float] = {}
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() in ("IMPORTED", "STEPPED"):
                reached_s[line.strip()] = time.monotonic() - began_s
    if process.returncode or len(reached_s) < 2:
        raise BenchmarkError(
            f"{' '.join(command[:3])} ... ended with exit code {process.returncode} before the first step"
        )
    return reached_s


BENCHMARK = Benchmark(
    name="ready",
    claim="from nothing to the first training step: the image, against the same versions installed by hand",
    rows=ROWS,
    needs="cpu",
    run_side=run_side,
    prepare=prepare,
    parameters={"image": "yolov12:train"},
    repeats=1,
    timeout_s=900,
)
