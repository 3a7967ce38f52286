# SPDX-License-Identifier: AGPL-3.0-or-later
"""`warp` and `recolour` by the compiled kernels of docker/kernels (augment.cu), for NVIDIA GPUs.

Their grey levels are those of the plain paths (warp.py, colour.py) to the bit, and there is nothing to compile at the first batch.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from yolov12.data.augment.warp import Layers


def warp(layers: Layers, device: torch.device) -> Tensor:
    """`warp.warp` in one kernel, which reads the pictures where they lie. The numbers of the layers are checked, and copied there, by the op."""
    arrays = layers.slots, layers.layout.pad, layers.layout.inside, layers.layout.seam, layers.backward
    return torch.ops.yolov12_kernels.augment_warp(
        [picture.contiguous() for picture in layers.pictures],
        *(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays),
        layers.size,
        layers.is_projective,
    )


def recolour(images: Tensor, gains: np.ndarray) -> Tensor:
    """`colour.recolour`: one kernel for what becomes of each level, and one for the pixels."""
    return torch.ops.yolov12_kernels.augment_recolour(
        images.contiguous(), torch.from_numpy(np.ascontiguousarray(gains, dtype=np.float64))
    )
