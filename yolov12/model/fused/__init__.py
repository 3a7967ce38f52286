# SPDX-License-Identifier: AGPL-3.0-or-later
"""Convolution, batch norm and activation as one operation: in training it keeps one activation where upstream keeps three.

conv.py      the operation, and `Conv.forward` that uses it
convolution.py   its convolution: torch's, or our kernels for depthwise ones and for the stem
inference.py what is left of it in inference: depthwise convolutions, the stem, and bias and activation in one pass, or one kernel for all
one_kernel.py   a convolution of inference with all that follows it
beside.py    what is made from a network's weights for inference, and kept beside the network
join.py      what lies between convolutions, in one pass over memory each
lineage.py   how a tensor that was not kept is made again
following.py while a model runs: lineages passed on, and what lies between convolutions handed to join.py
norm.py      batch norm and activation: our kernels, or torch's operations where they do not fit
walk.py      a model's walk through its layers, in training with lineages, and upsampling left to who concatenates
"""

from yolov12 import settings
from yolov12.model.fused import conv, inference, walk
from yolov12.model.fused.conv import Keep, choose

__all__ = ["Keep", "choose", "install", "uninstall"]


def install() -> None:
    """Put it into ultralytics' `Conv`; again does nothing. Bias and activation in one pass are for predictions by graphs."""
    conv.install()
    walk.install()
    wanted = settings.current()
    inference.install(in_one_pass=wanted.predict_graphs, in_one_kernel=wanted.predict_kernels)


def uninstall() -> None:
    """Put upstream's forwards back."""
    conv.uninstall()
    walk.uninstall()
    inference.uninstall()
