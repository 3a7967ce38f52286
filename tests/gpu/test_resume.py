# SPDX-License-Identifier: AGPL-3.0-or-later
"""A run on a GPU goes on from its checkpoint, where torch's fused optimizers are strict about how state and gradients lie. Needs an NVIDIA GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.test_resume import ALONE, CUT, IN_STOCK, data, said

__all__ = ["data"]  # a fixture

pytestmark = pytest.mark.timeout(600)

OPTIMIZERS = ["SGD", "MuSGD", "AdamW"]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_run_cut_between_two_updates_ends_where_one_does_that_was_not(
    data: Path, tmp_path: Path, optimizer: str
) -> None:
    heard = said(data, tmp_path, ALONE, "5", device="0", optimizer=optimizer)
    (whole,), (first,), (second,) = heard["WHOLE"], heard["CUT"], heard["RESUMED"]
    assert (first["ended"], len(first["files"])) == (143, 5)
    assert first["files"] + second["files"] == whole["files"]
    assert second["updates"] == whole["updates"]
    assert second["norm"] == pytest.approx(whole["norm"], rel=1e-3)  # attention's gradients differ in their last bits


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_stock_goes_on_with_our_checkpoint(data: Path, tmp_path: Path, optimizer: str) -> None:
    said(data, tmp_path, CUT, "5", epochs=3, device="0", optimizer=optimizer)
    (stock,) = said(data, tmp_path, IN_STOCK, stock=True)["RESUMED"]
    assert stock == {"by": "DetectionTrainer", "from": 1}
