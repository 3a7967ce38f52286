# SPDX-License-Identifier: AGPL-3.0-or-later
"""Two machines made of network namespaces, over a cable that loses packets: they equal one process, and a cut cable ends both. gloo, no GPU.

Needs root, the program `ip`, and nft or iptables.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.dist.namespaces import REPOSITORY, Cable, why_not
from tests.dist.test_machines import START
from tests.dist.test_two_ranks import gradients_of_one_process
from tests.unit.engine.tiny import assert_equal_gradients
from yolov12.data import synth

STEPS = """
import torch
from pathlib import Path
from tests.dist.test_two_ranks import BOXES
from tests.unit.engine.tiny import batch, gradients, model, step
from yolov12.distributed import nic, pulse, world
from yolov12.memory.micro_batch import split
here = world.from_environment()
nic.choose_and_tell(here, list)
group = world.join(here, torch.device("cpu"), TIMEOUT_S, 60)
of = model()
runner = step(of, vote_group=group)
for number in range(COUNT):
    pulse.at_step(number)
    runner.run(split(batch(BOXES, seed=number), 2)[here.rank])
    Path(f"{here.rank} is at {number}").touch()
runner.take_gradients()
torch.save(gradients(of), f"{here.rank}.pt")
"""
TIMEOUT_S = 5
SETTINGS = ["sync_bn=1", "save_steps=1"]  # which a resumed run is told again
TRAIN = (
    "epochs=2 imgsz=64 batch=4 nbs=4 device=cpu optimizer=SGD workers=0 plots=False "
    # Each rank draws its own augmentations, so there are none.
    "mosaic=0 close_mosaic=0 hsv_h=0 hsv_s=0 hsv_v=0 translate=0 scale=0 fliplr=0 "
    # Small steps: with those of a default run, one process parts from itself if its weights differ by a ten-millionth, by a fifth of the way
    # (benchmarks/records/2026-11-30-cpu-2-cores/rounding_parts.log).
    "lr0=0.001 warmup_epochs=0"
).split()


@pytest.fixture(scope="module")
def allowed() -> None:
    if (reason := why_not()) is not None:
        pytest.skip(reason)


@pytest.fixture
def cable(allowed: None) -> Iterator[Cable]:
    with Cable() as made:
        yield made


def started(cable: Cable, folder: Path, timeout_s: int, count: int) -> list[subprocess.Popen[str]]:
    """One rank on each machine, which makes so many steps on its half of each batch."""
    script = folder / "script.py"
    script.write_text(STEPS.replace("TIMEOUT_S", str(timeout_s)).replace("COUNT", str(count)))
    return [cable.start(node, [sys.executable, "-c", START, str(script), "1"], folder) for node in (0, 1)]


def ended(machines: list[subprocess.Popen[str]], limit_s: float) -> tuple[list[int], list[tuple[str, str]]]:
    """(exit codes, outputs)."""
    said = [machine.communicate(timeout=limit_s) for machine in machines]
    return [machine.returncode for machine in machines], said


def wait_for(condition, limit_s: float = 120) -> None:
    end_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end_s, "waited too long"
        time.sleep(0.1)


def test_over_a_cable_that_loses_packets_two_machines_equal_one_process(cable: Cable, tmp_path: Path) -> None:
    cable.lose(2)
    codes, said = ended(started(cable, tmp_path, timeout_s=60, count=2), 280)
    assert codes == [0, 0], said
    assert cable.lost() > 0
    for node in (0, 1):
        assert f"network: machine {node}: GLOO_SOCKET_IFNAME=wire: leads to MASTER_ADDR=10.77.0.1" in said[node][1]
        assert_equal_gradients(torch.load(tmp_path / f"{node}.pt"), gradients_of_one_process(steps=2), rtol=1e-5)


@pytest.mark.slow  # it lasts the timeout, and what machines wait for word of each other
def test_when_the_cable_is_cut_both_machines_end_with_the_reason_and_leave_nothing_behind(
    cable: Cable, tmp_path: Path
) -> None:
    machines = started(cable, tmp_path, TIMEOUT_S, count=100_000)
    wait_for((tmp_path / "1 is at 3").exists)
    cable.lose(100)
    codes, said = ended(machines, 150)
    assert codes == [75, 75], said
    assert "rank 1 (step " in said[0][0], said
    assert "no sign of life" in said[1][0], said
    assert "(step " in said[1][0], said
    assert cable.processes() == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_training_whose_cable_loses_packets_and_is_cut_ends_resumed_where_one_process_does(
    cable: Cable, tmp_path: Path
) -> None:
    """Batch norm is synchronised: its statistics are then those of the whole batch, whoever has how much of it."""
    data = synth.write(tmp_path / "data", n_train=12, n_val=4, imgsz=64)
    train = [sys.executable, "-m", "yolov12.cli", "train"]
    # ultralytics draws a new model from another seed on each rank (engine/trainer.py:139), so both begin with the weights of a run before.
    start = tmp_path / "runs/start/weights/last.pt"
    asked = [*train, f"data={data}", f"project={tmp_path}/runs", *TRAIN, *SETTINGS]
    environ = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    for more in (["model=yolo11n.yaml", "name=start"], [f"model={start}", "name=alone"]):
        subprocess.run([*asked, *more], env=environ, cwd=tmp_path, capture_output=True, check=True)

    def on_both(command: list[str]) -> list[subprocess.Popen[str]]:
        return [cable.start(node, command, tmp_path, YOLOV12_DIST_TIMEOUT_S=str(TIMEOUT_S)) for node in (0, 1)]

    cable.lose(2)
    last = tmp_path / "runs/two/weights/last.pt"
    machines = on_both([*asked, f"model={start}", "name=two"])
    wait_for(last.exists, limit_s=300)
    assert cable.lost() > 0
    cable.lose(100)
    codes, said = ended(machines, 200)
    assert codes == [75, 75], said
    assert cable.processes() == []
    cable.mend()
    cable.lose(2)
    codes, said = ended(on_both([*train, f"resume={last}", *SETTINGS]), 300)
    assert codes == [0, 0], said
    begun, expected, ours = (weights(tmp_path / "runs" / name) for name in ("start", "alone", "two"))
    assert_same_way(begun, expected, ours)


def weights(run: Path) -> torch.Tensor:
    """Of last.pt, which a finished run keeps in fp16."""
    model = torch.load(run / "weights/last.pt", weights_only=False)["model"]
    return torch.cat([parameter.detach().double().flatten() for parameter in model.parameters()])


def assert_same_way(begun: torch.Tensor, expected: torch.Tensor, ours: torch.Tensor) -> None:
    """The same way from where both began, but for what six steps make of rounding, and for fp16."""
    way, off = float((expected - begun).norm()), float((expected - ours).norm())
    assert off < 0.1 * way, f"the weights moved by {way:.3g}, and differ by {off:.3g}"
