# SPDX-License-Identifier: AGPL-3.0-or-later
"""Blocks of ultralytics' networks in inference, made of our kernels: what lies between convolutions is no kernel of its own.

joint.py      C2f, C3k2, C3, C3k and A2C2f: each part writes its channels of what upstream concatenates; shortcuts are summed by a convolution
attention.py  area attention and the block around it, with channels in an order that needs no copies
head.py       Detect: branches side by side, and one kernel that makes predictions of what they answer

They serve unless YOLOV12_PREDICT_KERNELS=0, in networks that were fused (`fuse()`) and that the one kernel of a convolution
takes (model/fused/one_kernel.py); everything else is upstream's.
"""

from yolov12.model.blocks import head, joint

__all__ = ["install", "uninstall"]


def install() -> None:
    """Put them into ultralytics; again does nothing. Models that exist already change too."""
    joint.install()
    head.install()


def uninstall() -> None:
    """Put upstream's forwards back."""
    joint.uninstall()
    head.uninstall()
