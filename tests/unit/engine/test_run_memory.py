# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a run refuses before its first epoch; whole runs are in test_trainer.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ultralytics.nn.tasks import DetectionModel

from yolov12.engine import run_memory
from yolov12.errors import DeviceFullError, PeerFailedError, RetryableError, UserError


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


@pytest.fixture
def ending(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`explained` around a run that raises, where what memory went to is made up."""
    monkeypatch.setattr(
        run_memory, "explain_failure", lambda trainer, recomputation: "; memory went to: model.0 1.0 MiB"
    )

    def ends_by(error: BaseException) -> str:
        with (
            pytest.raises((DeviceFullError, type(error))) as found,
            run_memory.explained(SimpleNamespace(), SimpleNamespace(recomputation=None)),  # type: ignore[arg-type]
        ):
            raise error
        return f"{type(found.value).__name__}: {found.value}"

    return ends_by


def test_whatever_ends_a_run_for_want_of_memory_says_what_memory_went_to(ending: Any) -> None:
    update = "out of memory in the update of the weights"
    assert ending(DeviceFullError(update)) == f"DeviceFullError: {update}; memory went to: model.0 1.0 MiB"
    assert ending(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")) == (
        "DeviceFullError: out of memory outside of a step (OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB); "
        "use a smaller batch, imgsz or model, or free the device's memory; memory went to: model.0 1.0 MiB"
    )


@pytest.mark.parametrize(
    "error",
    [
        RetryableError("out of memory with one image at a time (...); memory went to: model.0 2.0 MiB"),
        PeerFailedError("training stopped because another process failed"),
        RuntimeError("a bug"),
        UserError("not even one image fits"),
    ],
)
def test_other_ends_stay_as_they_are(error: Exception, ending: Any) -> None:
    assert ending(error) == f"{type(error).__name__}: {error}"
