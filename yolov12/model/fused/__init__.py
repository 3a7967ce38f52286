# SPDX-License-Identifier: AGPL-3.0-or-later
"""Convolution, batch norm and activation as one operation: in training it keeps one activation where upstream keeps three.

conv.py      the operation, and `Conv.forward` that uses it
convolution.py   its convolution: torch's, or our kernels for depthwise ones
inference.py what is left of it in inference: one kernel, or a convolution with bias and activation in one pass after it
one_kernel.py   a convolution of inference with all that follows it
beside.py    what is made from a network's weights for that, and kept beside the network
lineage.py   how a tensor that was not kept is made again
norm.py      batch norm and activation: our kernels, or torch's operations where they do not fit
"""

from yolov12 import settings
from yolov12.model.fused import conv, inference
from yolov12.model.fused.conv import Keep, choose

__all__ = ["Keep", "choose", "install", "uninstall"]


def install() -> None:
    """Put it into ultralytics' `Conv`; again does nothing. Bias and activation in one pass are for predictions by graphs."""
    conv.install()
    inference.install(in_one_pass=settings.current().predict_graphs)


def uninstall() -> None:
    """Put upstream's forwards back."""
    conv.uninstall()
    inference.uninstall()
