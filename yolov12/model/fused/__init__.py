# SPDX-License-Identifier: AGPL-3.0-or-later
"""Convolution, batch norm and activation as one operation in training, which keeps one activation where upstream keeps three.

conv.py      the operation, and `Conv.forward` that uses it
lineage.py   how a tensor that was not kept is made again
norm.py      batch norm and activation: our kernels, or torch's operations where they do not fit
"""

from yolov12.model.fused.conv import Keep, choose, install, uninstall

__all__ = ["Keep", "choose", "install", "uninstall"]
