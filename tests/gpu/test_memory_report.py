# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the report needs of a real device: phases that are counted, the allocator's snapshot, and a neighbour that really takes memory."""

from __future__ import annotations

import csv
import pickle
from pathlib import Path

import pytest
import torch

from yolov12.engine.failure import explain
from yolov12.tools import demo_oom
from yolov12.tools.neighbour import Neighbour

GIB = 2**30


def test_the_allocators_snapshot_is_written_and_knows_the_tensor_that_is_there(tmp_path: Path):
    device = torch.device("cuda", 0)
    tensor = torch.empty(64 * 2**20, dtype=torch.uint8, device=device)
    told = explain(device, tmp_path, [("a", tensor.nbytes)])
    (written,) = tmp_path.iterdir()
    assert str(written) in told
    blocks = [block for segment in pickle.loads(written.read_bytes())["segments"] for block in segment["blocks"]]
    assert any(block["state"] == "active_allocated" and block["size"] >= tensor.nbytes for block in blocks)


def test_a_neighbour_leaves_what_it_was_told_to_and_gives_all_back_at_its_end():
    device = torch.device("cuda", 0)
    torch.cuda.empty_cache()
    before, _ = torch.cuda.mem_get_info(device)
    neighbour = Neighbour(device)
    assert neighbour.leave_free(2 * GIB) > 0
    assert torch.cuda.mem_get_info(device)[0] == pytest.approx(2 * GIB, rel=0.05)
    neighbour.end()
    assert torch.cuda.mem_get_info(device)[0] == pytest.approx(before, rel=0.05)


@pytest.mark.timeout(900)
def test_a_training_survives_a_neighbour_that_takes_half_of_the_card(tmp_path: Path, capsys: pytest.CaptureFixture):
    code = demo_oom.main({"out": tmp_path / "demo", "workers": 0})
    shown = capsys.readouterr().out
    print(shown)  # with -s: what docs show of it
    assert code == 0, shown
    with (tmp_path / "demo" / "beside" / "memory.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert sum(int(row["plan_changes"]) for row in rows) >= 1
    assert all(float(row["peak_allocated_gib"]) > 0 for row in rows)
    assert (tmp_path / "demo" / "beside" / "memory.png").is_file()
