# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whole CPU runs of the trainer, each in a process of its own, beside stock ultralytics where they must agree."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from yolov12.data import synth

REPOSITORY = Path(__file__).parents[3]

TRAIN = """
import json, sys
import torch
torch.set_num_threads(1)
from ultralytics import YOLO
events = []
model = YOLO(sys.argv[4])
for event in ("on_train_start", "on_train_epoch_start", "on_train_batch_end", "on_train_epoch_end", "on_fit_epoch_end",
              "on_model_save", "on_train_end"):
    model.add_callback(event, lambda trainer, event=event: events.append(event))
arguments = dict(data=sys.argv[1], project=sys.argv[2], name="run", epochs=2, imgsz=64, batch=4, device="cpu", optimizer="SGD",
                 seed=3, nbs=8, close_mosaic=1, plots=False, exist_ok=True, verbose=False)
model.train(**{**arguments, **json.loads(sys.argv[3])})
weights = torch.load(f"{sys.argv[2]}/run/weights/last.pt", weights_only=False)["model"].state_dict()
checksum = {name: tensor.double().sum().item() for name, tensor in weights.items()}
print(json.dumps({"trainer": type(model.trainer).__name__, "events": events, "weights": checksum}))
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synth.write(tmp_path_factory.mktemp("data") / "synth", n_train=10, n_val=4, imgsz=64)


def train(
    data: Path,
    out: Path,
    *launcher: str,
    model: str = "yolov12n.yaml",
    arguments: dict | None = None,
    before: str = "",
    **environ: str,
) -> subprocess.CompletedProcess[str]:
    """Run the script above with our drop-in installed, as a stock script would run in the image."""
    script = out / "script.py"
    out.mkdir(parents=True, exist_ok=True)
    script.write_text("import yolov12.compat; yolov12.compat.install()\n" + before + TRAIN)
    return subprocess.run(
        [sys.executable, *launcher, str(script), str(data), str(out), json.dumps(arguments or {}), model],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environ},
        capture_output=True,
        text=True,
        timeout=280,
    )


def answer(done: subprocess.CompletedProcess[str]) -> dict:
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{"trainer"')))


STOCK_IN_OUR_ORDER = """
from ultralytics.models.yolo.detect import DetectionTrainer
from yolov12.data.adapter import in_order
from yolov12.data.order import Plan

stock = DetectionTrainer.get_dataloader

def get_dataloader(self, path, batch_size=16, rank=0, mode="train"):
    if mode != "train":
        return stock(self, path, batch_size, rank, mode)
    with in_order(lambda samples, shuffle: Plan(samples, batch_size, self.args.seed, shuffle=shuffle)):
        return stock(self, path, batch_size, rank, mode)

DetectionTrainer.get_dataloader = get_dataloader
"""


def test_a_run_gives_the_very_weights_and_callbacks_of_stock(data: Path, tmp_path: Path) -> None:
    """yolo11n has no area attention, whose layout is ours: everything else must agree to the bit, once stock has our order of the samples."""
    ours = answer(train(data, tmp_path / "ours", model="yolo11n.yaml"))
    stock = answer(
        train(data, tmp_path / "stock", model="yolo11n.yaml", before=STOCK_IN_OUR_ORDER, YOLOV12_DISABLE="1")
    )
    assert (ours["trainer"], stock["trainer"]) == ("YOLOv12Trainer", "DetectionTrainer")
    assert ours["events"] == stock["events"]
    different = [name for name in stock["weights"] if ours["weights"][name] != stock["weights"][name]]
    assert not different, f"{len(different)} of {len(stock['weights'])} tensors differ, first {different[0]}"


@pytest.mark.parametrize(("ranks", "batch"), [(1, 4), (2, -1)])
def test_a_stock_script_trains_under_torchrun(ranks: int, batch: int, data: Path, tmp_path: Path) -> None:
    launcher = ("-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}")
    done = train(data, tmp_path, *launcher, arguments={"epochs": 1, "batch": batch})
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "run" / "weights" / "last.pt").exists()
    rows = (tmp_path / "run" / "results.csv").read_text().splitlines()
    assert len(rows) == 2  # a header and one epoch, written by rank 0 alone


RESUME = """
import sys
from ultralytics import YOLO

class PowerCutError(Exception):
    pass

def cut_the_power(trainer):
    if trainer.epoch == 1:
        raise PowerCutError

model = YOLO("yolov12n.yaml")
model.add_callback("on_model_save", cut_the_power)
try:
    model.train(data=sys.argv[1], project=sys.argv[2], name="run", epochs=4, imgsz=64, batch=4, device="cpu", optimizer="SGD", plots=False)
except PowerCutError:
    pass
resumed = YOLO(f"{sys.argv[2]}/run/weights/last.pt")
resumed.train(resume=True)
print("RESUMED", type(resumed.trainer).__name__, resumed.trainer.start_epoch)
"""


def test_a_run_that_was_cut_off_goes_on_where_its_last_checkpoint_ended(data: Path, tmp_path: Path) -> None:
    code = "import yolov12.compat; yolov12.compat.install()\n" + RESUME
    environ = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(data), str(tmp_path)], env=environ, capture_output=True, text=True, timeout=280
    )
    assert "RESUMED YOLOv12Trainer 2" in done.stdout, done.stdout + done.stderr
    rows = (tmp_path / "run" / "results.csv").read_text().splitlines()
    assert [row.split(",")[0].strip() for row in rows] == ["epoch", "1", "2", "3", "4"]


PLANNED = """
import torch
from yolov12.engine import recompute, run_memory
from yolov12.memory.budget import Memory
recompute.mode_for = lambda *_: ("planned", "as in a test")
real = recompute.Recomputation
def on_a_small_card(*arguments, **named):
    made = real(*arguments, **named)
    made.read_memory = lambda device: Memory(19_000_000, 0, 0, 10**15)
    return made
run_memory.Recomputation = on_a_small_card
"""


def test_a_run_under_a_tight_plan_ends_with_the_very_weights_of_one_without(data: Path, tmp_path: Path) -> None:
    large = {"imgsz": 128}  # activations count beside the weights' gradients
    plain = answer(train(data, tmp_path / "plain", arguments=large))
    done = train(data, tmp_path / "planned", before=PLANNED, arguments=large)
    said = re.search(r"memory: all +\d+ +(\d+) +(\d+)", done.stderr)
    assert said is not None, done.stderr
    assert int(said[1]) > 0
    assert int(said[2]) > 0
    assert "micro-batches" not in done.stderr  # they would change batch norm's statistics
    assert answer(done)["weights"] == plain["weights"]


def test_a_card_that_is_too_small_for_one_image_ends_the_run_before_its_first_epoch(data: Path, tmp_path: Path) -> None:
    done = train(data, tmp_path, before=PLANNED.replace("19_000_000", "1_000_000"))
    assert done.returncode != 0
    assert "yolov12.errors.UserError: not even one image of 64x64 fits" in done.stderr
    assert not (tmp_path / "run" / "results.csv").exists()


LITTLE_ROOM = """
from yolov12.engine import loop
real = loop.Loop._forward_loss
def on_a_tiny_card(self, batch):
    if len(batch["img"]) > 1 or batch["img"].shape[-1] > 96:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
    return real(self, batch)
loop.Loop._forward_loss = on_a_tiny_card
"""


@pytest.mark.parametrize("asked", [True, False])
def test_where_not_one_image_fits_a_run_goes_on_with_smaller_ones_if_the_script_asks(
    asked: bool, data: Path, tmp_path: Path
) -> None:
    arguments = {"epochs": 1, "imgsz": 128, "mas_data": asked}
    done = train(data, tmp_path, before=LITTLE_ROOM, arguments=arguments)
    if asked:
        assert answer(done)["trainer"] == "YOLOv12Trainer"
        assert "image size 128 -> 96" in done.stderr
    else:
        assert done.returncode != 0
        assert "YOLOV12_MAS_DATA=1" in done.stderr
