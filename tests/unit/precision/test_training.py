# SPDX-License-Identifier: AGPL-3.0-or-later
"""Training with the scaler on, where no GPU is: whole runs, whose fp32 gradients a power of two must not change by a bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from yolov12.data import synth
from yolov12.precision import YoloAMPScaler

REPOSITORY = Path(__file__).parents[3]

TRAIN = """
import json, sys
import torch
torch.set_num_threads(1)
import yolov12.compat, yolov12.precision; yolov12.compat.install()
from ultralytics import YOLO

if sys.argv[3] == "scaled":  # what ultralytics makes on a GPU for fp16, and we take over
    stock = torch.amp.GradScaler
    torch.amp.GradScaler = lambda device, enabled: stock("cpu", init_scale=2.0**10)

class PowerCutError(Exception):
    pass

def cut_the_power(trainer):
    if trainer.epoch == 0:
        raise PowerCutError

def seen(trainer):
    print("SCALER", json.dumps([type(trainer.scaler).__name__, trainer.scaler.is_enabled(), trainer.scaler.get_scale()]))

model = YOLO("yolov12n.yaml")
model.add_callback("on_model_save", cut_the_power)
model.add_callback("on_train_start", seen)
try:
    model.train(data=sys.argv[1], project=sys.argv[2], name="run", epochs=2, imgsz=64, batch=4, device="cpu", optimizer="SGD",
                seed=3, plots=False, verbose=False, val=False)
except PowerCutError:
    pass
last = f"{sys.argv[2]}/run/weights/last.pt"
print("SAVED", json.dumps(torch.load(last, weights_only=False)["scaler"]))
resumed = YOLO(last)
resumed.add_callback("on_train_start", seen)
resumed.train(resume=True)
state = torch.load(last, weights_only=False)["model"].state_dict()
print("WEIGHTS", json.dumps({name: tensor.double().sum().item() for name, tensor in state.items()}))
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synth.write(tmp_path_factory.mktemp("data") / "synth", n_train=8, n_val=2, imgsz=64)


def train(data: Path, out: Path, kind: str) -> dict[str, list]:
    """What the script above printed, by its first word."""
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, str(data), str(out), kind],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    printed: dict[str, list] = {}
    for line in done.stdout.splitlines():
        word, _, rest = line.partition(" ")
        if word in {"SCALER", "SAVED", "WEIGHTS"}:
            printed.setdefault(word, []).append(json.loads(rest))
    return printed


def test_a_scaled_run_has_the_very_weights_of_a_plain_one_also_when_it_is_resumed(data: Path, tmp_path: Path) -> None:
    scaled, plain = train(data, tmp_path / "scaled", "scaled"), train(data, tmp_path / "plain", "plain")
    saved = scaled["SAVED"][0]
    assert set(saved) == {"scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"}
    assert scaled["SCALER"] == [["YoloAMPScaler", True, 2.0**10], ["YoloAMPScaler", True, saved["scale"]]]
    assert saved["scale"] != 2.0**10
    assert plain["SCALER"] == [["YoloAMPScaler", False, 1.0]] * 2
    assert plain["SAVED"] == [{}]
    assert scaled["WEIGHTS"] == plain["WEIGHTS"]


def train_net(scaler: torch.amp.GradScaler, updates: int = 60) -> tuple[float, list[int], nn.Module]:
    """Fit a small convolutional net in fp16 while every tenth loss is a hundred thousand times too large: (last loss, skipped, net)."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.SiLU(), nn.Conv2d(8, 1, 1))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    images = torch.randn(4, 3, 8, 8)
    wanted = images.sum(1, keepdim=True)
    loss, skipped = torch.zeros(()), []
    for update in range(updates):
        with torch.autocast("cpu", torch.float16):
            loss = (net(images).float() - wanted).square().mean()
        scaler.scale(loss * (1e5 if update % 10 == 9 else 1)).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(net.parameters(), max_norm=1.0)
        before = net[0].weight.detach().clone()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        if torch.equal(before, net[0].weight):
            skipped.append(update)
    return float(loss.detach()), skipped, net


def test_a_net_learns_in_fp16_through_spikes_in_its_loss() -> None:
    """CPU kernels in fp16 overflow as those of a GPU do."""
    loss, skipped, net = train_net(YoloAMPScaler("cpu"))
    _, skipped_by_torch, _ = train_net(torch.amp.GradScaler("cpu"))
    assert all(parameter.isfinite().all() for parameter in net.parameters())
    assert loss < 0.2
    assert skipped, "the spikes were meant to overflow"
    assert len(skipped) <= len(skipped_by_torch), (skipped, skipped_by_torch)
