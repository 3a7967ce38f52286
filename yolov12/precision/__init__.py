# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which number format a run computes in, and the loss scale that fp16 needs."""

from yolov12.precision.choose import ARGUMENT, choose, choose_for_gpu
from yolov12.precision.scaler import YoloAMPScaler

__all__ = ["ARGUMENT", "YoloAMPScaler", "choose", "choose_for_gpu"]
