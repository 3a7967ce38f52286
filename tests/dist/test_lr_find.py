# SPDX-License-Identifier: AGPL-3.0-or-later
"""The range test on two gloo ranks: the curve of one process, the same on both, and on each all is afterwards as it was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from yolov12 import YOLO
from yolov12.data import synth

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow  # three processes that import ultralytics and train
SCRIPT = ROOT / "tests/dist/lr_find_ranks.py"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a fresh network for the three classes of the drawn pictures."""
    yolo = YOLO("yolo12n.yaml")
    yolo.model = type(yolo.model)(yolo.model.yaml, nc=3, verbose=False)
    file = tmp_path_factory.mktemp("weights") / "fresh.pt"
    yolo.save(file)
    return file


def run(folder: Path, weights: Path, ranks: int) -> list[dict[str, Any]]:
    """What each rank saw."""
    data = synth.write(folder / "data", n_train=10, n_val=4, imgsz=64)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "YOLOV12_SYNC_BN": "1"}
    done = subprocess.run(
        [sys.executable, *launcher, str(SCRIPT), str(data), str(weights), str(folder)],
        cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(ranks)]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> list[dict[str, Any]]:
    return run(tmp_path_factory.mktemp("two"), weights, 2)


def test_both_ranks_have_the_same_curve(two: list[dict[str, Any]]) -> None:
    assert two[0]["losses"] == two[1]["losses"]
    assert two[0]["lrs"] == two[1]["lrs"] == [1e-5, 1e-4, 1e-3, 1e-2]


def test_it_is_that_of_one_process_with_the_whole_batch(
    two: list[dict[str, Any]], weights: Path, tmp_path: Path
) -> None:
    (alone,) = run(tmp_path, weights, 1)
    assert two[0]["losses"] == pytest.approx(alone["losses"], rel=1e-3)


def test_on_each_rank_everything_is_as_before_to_the_bit(two: list[dict[str, Any]]) -> None:
    for rank in two:
        assert {"model", "ema", "optimizer"} <= set(rank["changed_by_the_test"])
        assert rank["changed_afterwards"] == []
