# SPDX-License-Identifier: AGPL-3.0-or-later
"""Recognise a lack of device memory, under all the names it comes by."""

from __future__ import annotations

import torch

# cuBLAS and cuDNN fail with their own words when they cannot get a workspace (ultralytics engine/trainer.py:569 lists the same).
DISGUISES = ("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_INTERNAL_ERROR", "unable to find an engine")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that the device ran out of memory, directly or in cuBLAS' or cuDNN's words."""
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("out of memory" in text.lower() or any(d in text for d in DISGUISES))
