# SPDX-License-Identifier: AGPL-3.0-or-later
"""A run leaves the groups that it made, and no others. With several processes: tests/dist."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch.distributed as dist

from yolov12.distributed import world


def test_groups_of_a_script_outlive_a_run_of_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "_has_begun", False)  # another test's `join` may have failed in this process
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        world.leave()
        assert dist.is_initialized()
        world.leave(failed=True)
        assert dist.is_initialized()
    finally:
        dist.destroy_process_group()
