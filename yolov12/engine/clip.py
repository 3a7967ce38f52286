# SPDX-License-Identifier: AGPL-3.0-or-later
"""torch's clipping of gradients, with the same bits and a handful of calls instead of one for each tensor.

torch's moves the norm of each gradient to the first one's device (torch/nn/utils/clip_grad.py:107, 2.11), which does nothing on one device, but
costs a call.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

_torchs = nn.utils.clip_grad_norm_


@torch.no_grad()
def clip_grad_norm_(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    """Scale the gradients in place so that their common norm is at most `max_norm`, as `torch.nn.utils.clip_grad_norm_` does.

    Args:
        parameters: those without a gradient are passed over.
        max_norm: of all gradients as one vector.

    Returns:
        The norm that they had, a scalar on their device.
    """
    parameters = list(parameters)
    gradients = [gradient for parameter in parameters if (gradient := parameter.grad) is not None]
    kinds = {(gradient.device, gradient.dtype, gradient.layout) for gradient in gradients}
    if len(kinds) != 1 or gradients[0].layout is not torch.strided:
        return _torchs(parameters, max_norm)
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    torch._foreach_mul_(gradients, torch.clamp(max_norm / (norm + 1e-6), max=1.0))
    return norm
