# SPDX-License-Identifier: AGPL-3.0-or-later
"""torch's clipping of gradients, with the same bits and a handful of calls instead of one for each tensor.

torch's moves the norm of each gradient to the first one's device (torch/nn/utils/clip_grad.py:107, 2.11), which does nothing on one device, but
costs a call.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

_torchs = nn.utils.clip_grad_norm_


@torch.no_grad()
def clip_grad_norm_(parameters: Tensor | Iterable[Tensor], max_norm: float, *more: Any, **options: Any) -> Tensor:
    """Scale the gradients in place so that their common norm is at most `max_norm`, as `torch.nn.utils.clip_grad_norm_` does.

    Args:
        parameters: those without a gradient are passed over.
        max_norm: of all gradients as one vector.
        more, options: torch's further arguments; torch's function serves a call that has some.

    Returns:
        The norm that they had, a scalar on their device.
    """
    if more or options or isinstance(parameters, Tensor):
        return _torchs(parameters, max_norm, *more, **options)
    parameters = list(parameters)
    gradients = [gradient for parameter in parameters if (gradient := parameter.grad) is not None]
    kinds = {(gradient.device, gradient.dtype, gradient.layout) for gradient in gradients}
    if len(kinds) != 1 or gradients[0].layout is not torch.strided:
        return _torchs(parameters, max_norm)
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    torch._foreach_mul_(gradients, torch.clamp(max_norm / (norm + 1e-6), max=1.0))
    return norm
