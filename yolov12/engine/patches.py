# SPDX-License-Identifier: AGPL-3.0-or-later
"""Everything that is replaced inside ultralytics, switched on in one place."""

from __future__ import annotations

from typing import Any

from yolov12 import precision, settings
from yolov12.log import say_once
from yolov12.seams import Seam

SEAMS = (Seam("utils/checks.py", 987, "ultralytics.utils.checks.check_amp", "079b89ebc804"),)


def install_patches() -> None:
    """Put our attention, convolutions, loss, loading of weights and engines, data adapters, timing, AMP check, count of
    operations and plain logs into ultralytics.

    Torch's own compiler is imported by who compiles alone from then on. May be called again.
    """
    import ultralytics.engine.trainer

    from yolov12.data import adapter
    from yolov12.engine import first_rank_first, flops, no_compiler, predictor, progress
    from yolov12.export import adapter as export_adapter
    from yolov12.model import attention, blocks, fused, loss, weights

    attention.install()
    fused.install()
    if settings.current().predict_kernels:
        blocks.install()
    loss.install()
    weights.install()
    adapter.install()
    export_adapter.install()
    predictor.install()
    progress.install()
    first_rank_first.install()
    flops.install()
    no_compiler.spare()
    ultralytics.engine.trainer.check_amp = amp_works


def amp_works(model: Any) -> bool:
    """Whether autocast to fp16 can be trusted on the model's device; where not, a line says why.

    Stands in for ultralytics' check (utils/checks.py:987), which downloads a model to predict with; trainers of all tasks call it. Ours asks
    only where `precision.choose` took fp16.
    """
    device = next(model.parameters()).device
    if device.type != "cuda":
        return False
    dtype, reason = precision.choose(device, "fp16")
    if dtype is None:
        say_once(f"precision {reason}", f"precision: {reason}")
    return dtype is not None
