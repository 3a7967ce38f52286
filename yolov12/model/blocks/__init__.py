# SPDX-License-Identifier: AGPL-3.0-or-later
"""Blocks of ultralytics' networks in inference, made of our kernels: what lies between convolutions is no kernel of its own.

joint.py      C2f, C3k2, C3, C3k and A2C2f: each part writes its channels of what upstream concatenates; shortcuts are summed by a convolution
attention.py  area attention and the block around it, with channels in an order that needs no copies

They serve where predictions by graphs are asked for, in networks that were fused (`fuse()`) and that the one kernel of a convolution takes
(model/fused/one_kernel.py); everything else is upstream's.
"""

from yolov12.model.blocks.joint import install, uninstall

__all__ = ["install", "uninstall"]
