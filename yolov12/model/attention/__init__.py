# SPDX-License-Identifier: AGPL-3.0-or-later
"""Area attention on the kernel that fits the device, in place of upstream's matrix products and softmax.

op             layout: what the qkv convolution writes -> rows that a fused kernel takes -> channels_last again
kernels        the arithmetic, one small function per kernel
flash_package  the installed `flash_attn`, looked for once
backends       what each kernel needs, and why one can not serve a case
choose         which backend serves a case, with the reason
dispatch       the setting, the cached decision, the line that is printed
patch          `AAttn.forward` replaced in place
flops          keeps ultralytics' GFLOPs count right
"""

from yolov12.model.attention.dispatch import configure, describe
from yolov12.model.attention.patch import install, uninstall

__all__ = ["configure", "describe", "install", "uninstall"]
