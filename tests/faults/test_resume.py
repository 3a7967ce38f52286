# SPDX-License-Identifier: AGPL-3.0-or-later
"""A run that was cut off in the middle of an epoch and resumed is the run that was not. Needs no GPU.

Pictures are augmented, except by mosaic, whose partners come from what a loader has read lately.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from yolov12.data import synth
from yolov12.data.order import Plan

REPOSITORY = Path(__file__).parents[2]

pytestmark = pytest.mark.timeout(600)  # a busy machine takes minutes for what else takes seconds

SCRIPT = """
import yolov12.compat; yolov12.compat.install()
import hashlib, json, os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from ultralytics import YOLO

ARGUMENTS = dict(data=sys.argv[1], project=sys.argv[2], epochs=2, imgsz=64, batch=4, nbs=8, device="cpu", optimizer="SGD", mosaic=0,
                 close_mosaic=0, plots=False, exist_ok=True, verbose=False)
ARGUMENTS |= json.loads(os.environ.get("MORE", "{}"))
SIGNAL = getattr(signal, ARGUMENTS.pop("signal", "SIGTERM"))

def train(source, label, /, cut=None, **arguments):
    "Train, and say on which pictures and to which weights; the signal comes before the step `cut` of this process."
    said = {"files": [], "lr": [], "weights": "", "ended": None}

    def listen(trainer):
        preprocess = trainer.preprocess_batch
        def heard(batch):
            said["files"].append(sorted(Path(file).name for file in batch["im_file"]) if "ghost" not in batch else [])
            said["lr"].append([group["lr"] for group in trainer.optimizer.param_groups])
            if cut is not None and len(said["files"]) == cut and int(os.environ.get("RANK", 0)) == 0:
                os.kill(os.getpid(), SIGNAL)
            return preprocess(batch)
        trainer.preprocess_batch = heard

    def look(trainer):
        digest = hashlib.sha256()
        for tensor in (*trainer.model.state_dict().values(), *trainer.ema.ema.state_dict().values()):
            digest.update(tensor.cpu().numpy().tobytes())
        said["weights"] = digest.hexdigest()
        said["norm"] = float(sum(p.detach().double().square().sum() for p in trainer.model.parameters()))
        said["updates"] = trainer.ema.updates

    model = YOLO(source)
    model.add_callback("on_train_start", listen)
    model.add_callback("on_fit_epoch_end", look)
    try:
        model.train(**arguments)
    except SystemExit as ended:
        said["ended"] = ended.code
    print(label, json.dumps(said), flush=True)
"""
ALONE = """
train("yolo11n.yaml", "WHOLE", name="whole", **ARGUMENTS)
train("yolo11n.yaml", "CUT", cut=int(sys.argv[3]), name="cut", **ARGUMENTS)
train(f"{sys.argv[2]}/cut/weights/last.pt", "RESUMED", resume=True)
"""
CUT = 'train("yolo11n.yaml", "CUT", cut=int(sys.argv[3]), name="cut", **ARGUMENTS)'
RESUME = 'train(f"{sys.argv[2]}/cut/weights/last.pt", "RESUMED", cut=int(sys.argv[3]) or None, resume=True)'


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synth.write(tmp_path_factory.mktemp("data") / "synth", n_train=10, n_val=4, imgsz=64)


def said(
    data: Path, out: Path, body: str, cut: str = "0", ranks: int = 0, stock: bool = False, **more: Any
) -> dict[str, list[dict[str, Any]]]:
    """What the parts of the script said, by name; of all ranks, in no order."""
    out.mkdir(exist_ok=True)
    (out / "script.py").write_text(SCRIPT + body)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"] if ranks else []
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, *launcher, str(out / "script.py"), str(data), str(out), cut],
        env={**os.environ, "PYTHONPATH": path, "MORE": json.dumps(more), "YOLOV12_DISABLE": str(int(stock))},
        capture_output=True,
        text=True,
        timeout=580,
    )
    found: dict[str, list[dict[str, Any]]] = {}
    for line in done.stdout.splitlines():
        name, _, rest = line.partition(" ")
        if name in ("WHOLE", "CUT", "RESUMED"):
            found.setdefault(name, []).append(json.loads(rest))
    assert found or done.returncode == -signal.SIGKILL, done.stdout + done.stderr
    return found


@pytest.mark.parametrize("cut", [pytest.param(1, marks=pytest.mark.slow), 3, 5])
def test_a_run_cut_at_a_step_ends_with_the_very_weights_of_one_that_was_not(
    data: Path, tmp_path: Path, cut: int
) -> None:
    """One process. Step 1 lies in the first epoch, which stock could not resume; 3 is the last of the first
    epoch, with its validation still to come; 5 lies in the second, and between two updates."""
    heard = said(data, tmp_path, ALONE, str(cut))
    (whole,), (first,), (second,) = heard["WHOLE"], heard["CUT"], heard["RESUMED"]
    assert (first["ended"], len(first["files"])) == (143, cut)
    assert first["files"] + second["files"] == whole["files"]
    assert second["updates"] == whole["updates"]
    assert second["weights"] == whole["weights"], f"norms {second['norm']} and {whole['norm']}"
    rows = (tmp_path / "cut" / "results.csv").read_text().splitlines()
    assert [row.split(",")[0].strip() for row in rows] == ["epoch", "1", "2"]


def pictures_of(data: Path, plan: Plan) -> list[list[str]]:
    """What an uninterrupted run of two epochs sees in each step."""
    names = sorted(file.name for file in (data.parent / "images" / "train").iterdir())
    return [sorted(names[index] for index in share) for epoch in (0, 1) for share in plan.shares(epoch)]


def test_a_killed_run_whose_last_checkpoint_is_damaged_goes_on_with_the_one_before(data: Path, tmp_path: Path) -> None:
    """Ten pictures by twos, saved after every second step, killed before step 5 is over: two checkpoints, unless the second was in writing."""
    assert not said(data, tmp_path, CUT, "5", batch=2, save_steps=2, signal="SIGKILL")
    last = tmp_path / "cut" / "weights" / "last.pt"
    if last.with_name("last.previous.pt").exists():
        content = last.read_bytes()
        last.unlink()  # the other may be another name of the same file
        last.write_bytes(content[: len(content) // 2])
    (resumed,) = said(data, tmp_path, RESUME)["RESUMED"]
    assert resumed["files"] == pictures_of(data, Plan(10, 2))[2:]
    assert not last.with_name("last.previous.pt").exists(), "the run is finished"


def of_all_ranks(heard: list[dict[str, Any]]) -> list[list[str]]:
    """The pictures of each step, of all ranks together."""
    return [
        sorted(file for files in step for file in files) for step in zip(*(one["files"] for one in heard), strict=True)
    ]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_order_and_learning_rate_go_on_when_two_ranks_become_one_and_one_becomes_two(
    data: Path, tmp_path: Path
) -> None:
    """Ten pictures by threes: in the last batch of an epoch one of two ranks has none."""
    whole = pictures_of(data, Plan(10, 3))
    (undisturbed,) = said(data, tmp_path / "undisturbed", CUT, batch=3)["CUT"]
    assert undisturbed["lr"][0] != undisturbed["lr"][1] != undisturbed["lr"][-1], "the warm-up, and then the schedule"
    first = said(data, tmp_path, CUT, "3", ranks=2, batch=3)
    assert [one["ended"] for one in first["CUT"]] == [143, 143]
    second = said(data, tmp_path, RESUME, "2")
    third = said(data, tmp_path, RESUME, ranks=2)
    parts = [of_all_ranks(first["CUT"]), of_all_ranks(second["RESUMED"]), of_all_ranks(third["RESUMED"])]
    assert [len(part) for part in parts] == [3, 2, 3]
    assert [step for part in parts for step in part] == whole
    of_parts = [part for heard in (first["CUT"], second["RESUMED"], third["RESUMED"]) for part in heard[:1]]
    assert [rate for part in of_parts for rate in part["lr"]] == undisturbed["lr"]
    one, other = third["RESUMED"]
    assert one["norm"] == pytest.approx(other["norm"], rel=1e-6), "both ranks hold the same weights"


IN_STOCK = """
class PowerCutError(Exception):
    pass

def cut_the_power(trainer):
    if trainer.epoch == 1:
        raise PowerCutError

last = f"{sys.argv[2]}/cut/weights/last.pt"
YOLO(last).predict(torch.rand(1, 3, 64, 64), device="cpu", verbose=False)
model = YOLO(last)
model.add_callback("on_model_save", cut_the_power)
try:
    model.train(resume=True)
except PowerCutError:
    print("RESUMED", json.dumps({"by": type(model.trainer).__name__, "from": model.trainer.start_epoch}))
"""
AFTER_STOCK = """
model = YOLO(f"{sys.argv[2]}/cut/weights/last.pt")
model.train(resume=True)
print("RESUMED", json.dumps({"by": type(model.trainer).__name__, "from": model.trainer.start_epoch}))
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_stock_goes_on_with_our_checkpoint_and_we_with_stocks(data: Path, tmp_path: Path) -> None:
    """Ours is cut in the second epoch; stock repeats that, and is cut after it."""
    said(data, tmp_path, CUT, "5", epochs=3)
    (stock,) = said(data, tmp_path, IN_STOCK, stock=True)["RESUMED"]
    assert stock == {"by": "DetectionTrainer", "from": 1}
    (ours,) = said(data, tmp_path, AFTER_STOCK)["RESUMED"]
    assert ours == {"by": "YOLOv12Trainer", "from": 2}
    rows = (tmp_path / "cut" / "results.csv").read_text().splitlines()
    assert [row.split(",")[0].strip() for row in rows] == ["epoch", "1", "2", "3"]
