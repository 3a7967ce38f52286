# SPDX-License-Identifier: AGPL-3.0-or-later
"""Two gloo ranks on the CPU evaluate rank 0's checkpoint together, without a shared folder, and equal one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import ultralytics.engine.validator as upstream_validator
import ultralytics.models.yolo.detect.val as upstream_detection_validator
from ultralytics.data import build_dataloader

from tests.dist.ranks import run
from tests.dist.test_two_ranks import join
from tests.unit.engine.oracle import Oracle, copy_of_bccd
from yolov12.engine.final_evaluation import on_every_rank
from yolov12.engine.patches import install_patches
from yolov12.engine.validator import YOLOv12Validator
from yolov12.seams import replaced

CPU = torch.device("cpu")


def validator(data: str, folder: Path) -> YOLOv12Validator:
    install_patches()
    args = {"data": data, "imgsz": 96, "batch": 3, "plots": True, "device": "cpu", "task": "detect", "model": "best.pt"}
    made = YOLOv12Validator(save_dir=folder, args=args)
    for drawing in ("plot_val_samples", "plot_predictions", "finalize_metrics"):
        setattr(made, drawing, lambda *_: None)
    return made


def evaluated(made: YOLOv12Validator, checkpoint: Path) -> tuple[dict[str, float], Any, dict[str, Any], bytes, str]:
    """Answer, confusion matrix, metrics of images, and the checkpoint that it was asked to load."""
    oracle = Oracle()
    oracle.watch(made)
    loaded: list[Path] = []

    def backend(model: Path, device: torch.device, **_: Any) -> Oracle:
        assert device == CPU
        loaded.append(model)
        return oracle

    with replaced(upstream_validator, AutoBackend=backend), on_every_rank(checkpoint, CPU) as weights:
        answer = made(model=weights)
        content = loaded[0].read_bytes()
    return answer, made.confusion_matrix.matrix, made.metrics.box.image_metrics, content, str(loaded[0])


def _evaluates(rank: int, data: str, folder: Path) -> Any:
    join()
    made = validator(data, folder)
    made.names, made.stride, made.device = {}, 32, CPU
    made.data = upstream_validator.check_det_dataset(data)
    dataset = made.build_dataset(made.data["val"], batch=3)
    made.dataloader = build_dataloader(dataset, 3, 0, shuffle=False, rank=rank)
    # ultralytics reads them when it is imported; here that was before this process knew its rank
    ranks = {"RANK": rank, "LOCAL_RANK": rank}
    with replaced(upstream_validator, **ranks), replaced(upstream_detection_validator, **ranks):
        return evaluated(made, folder / ("best.pt" if rank == 0 else "on another machine/best.pt"))


@pytest.mark.slow
def test_two_ranks_equal_one_process_and_need_no_shared_folder(tmp_path: Path) -> None:
    data = copy_of_bccd(tmp_path)
    (tmp_path / "best.pt").write_bytes(b"weights")
    answer, matrix, images, _, _ = evaluated(validator(data, tmp_path), tmp_path / "best.pt")
    assert 0.01 < answer["metrics/mAP50-95(B)"] < 0.99
    first, second = run(_evaluates, 2, data, tmp_path, timeout_s=400)
    for outcome in (first, second):
        if isinstance(outcome, Exception):
            raise outcome
    assert first[0] == answer
    assert (first[1] == matrix).all()
    assert first[2] == images
    assert second[0] == {}, "only rank 0 has results"
    assert second[3] == b"weights"
    assert not Path(second[4]).exists(), "the copy is gone afterwards"
