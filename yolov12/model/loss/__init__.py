# SPDX-License-Identifier: AGPL-3.0-or-later
"""The detection loss: by our kernels on GPUs, else in bounded memory with upstream's numbers.

levels.py      the head's outputs, left where they are
kernels.py     all of the loss by kernels
assignment.py  which box each anchor learns, chunk by chunk of (boxes x anchors)
bce.py         the classification loss without four copies of (images, anchors, classes)
patch.py       puts both into ultralytics
"""

from yolov12.model.loss.patch import install, uninstall

__all__ = ["install", "uninstall"]
