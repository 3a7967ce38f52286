# SPDX-License-Identifier: AGPL-3.0-or-later
"""What befalls a rank, on two GPUs by NCCL: as tests/faults has it on two CPU ranks by gloo. Needs two NVIDIA GPUs.

NCCL_NVLS_ENABLE=0 python -m pytest tests/gpu/test_rank_faults.py
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch

from tests.faults import test_ranks_training as training
from tests.faults.test_launched_training import hit_a_rank
from tests.faults.test_ranks_training import data

__all__ = ["data"]  # a fixture

pytestmark = [
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs"),
    pytest.mark.timeout(600),
]


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSTOP])
def test_a_rank_that_is_hit_is_named_nothing_is_left_and_the_run_goes_on(tmp_path: Path, sent: signal.Signals) -> None:
    hit_a_rank(tmp_path, sent, 0, "device=0,1", "amp=bf16")


@pytest.mark.parametrize(("harm", "names"), training.TOLD)
def test_what_harms_a_rank_is_told_by_the_other(data: Path, tmp_path: Path, harm: str, names: str) -> None:
    code, said = training.train(data, tmp_path, harm, YOLOV12_AMP="bf16")
    assert code != 0
    assert names in said, said
    assert torch.load(tmp_path / "run/weights/last.pt", weights_only=False)["epoch"] >= 0


def test_a_first_rank_that_is_busy_for_longer_than_the_timeout_ends_nothing(data: Path, tmp_path: Path) -> None:
    code, said = training.train(
        data, tmp_path, "busy", YOLOV12_AMP="bf16", YOLOV12_SYNC_BN="1", YOLOV12_GRAD_COMPRESS="bf16"
    )
    assert code == 0, said
    assert "batch norms take their statistics over 2 ranks" in said


def test_weights_that_are_not_finite_are_loaded_anew_on_both(data: Path, tmp_path: Path) -> None:
    code, said = training.train(data, tmp_path, "not finite", YOLOV12_AMP="bf16")
    assert code == 0, said
    assert "recovering from last.pt" in said
    weights = torch.load(tmp_path / "run/weights/last.pt", weights_only=False)["model"].state_dict()
    assert all(weight.isfinite().all() for weight in weights.values())
