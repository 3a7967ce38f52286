# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a run refuses before its first epoch; whole runs are in test_trainer.py."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ultralytics.nn.tasks import DetectionModel

from yolov12.engine import run_memory
from yolov12.errors import UserError


@pytest.mark.parametrize("compiled", [True, False])
def test_a_layer_that_the_model_does_not_have_is_refused_whoever_decides_what_to_keep(
    compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("YOLOV12_DISABLE_MAS_LAYERS", "backbone.4,neck.99")
    model = DetectionModel("yolo12n.yaml", verbose=False)
    trainer = SimpleNamespace(
        history=None,
        norms_are_synchronised=False,
        args=SimpleNamespace(compile=compiled, mosaic=0.0),
        model=model,
        device=next(model.parameters()).device,
        amp_dtype=None,
        card=None,
        train_loader=SimpleNamespace(dataset=()),
    )
    with pytest.raises(UserError, match=r"disable_mas_layers=neck\.99: the model has no such layer"):
        run_memory.recomputation_of(trainer)  # type: ignore[arg-type]
