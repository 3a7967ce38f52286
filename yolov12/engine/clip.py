# SPDX-License-Identifier: AGPL-3.0-or-later
"""torch's clipping of gradients, with the same bits and a handful of calls instead of one for each tensor.

torch's moves the norm of each gradient to the first one's device (torch/nn/utils/clip_grad.py:107, 2.11), which does nothing on one device, but gives
Python's lock away each time. Beside a loader's threads it comes back late: with 352 tensors such a call took 65 ms of a step. The norms
themselves never become objects of Python: TorchScript runs the same operators without its lock and hands over one number. (A norm of all
gradients in one flat tensor needs no script, but has other last bits.)
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

_torchs = nn.utils.clip_grad_norm_

# Operators on single numbers stay outside: TorchScript would fuse them into a kernel that rounds as it likes.
_script = torch.jit.CompilationUnit("""
def common_norm(tensors: List[Tensor]) -> Tensor:
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)))
""")


def common_norm(tensors: list[Tensor]) -> Tensor:
    """The norm of all of them as one vector, a scalar.

    Args:
        tensors: at least one; of one device and dtype.
    """
    norm: Tensor = _script.common_norm(tensors)
    return norm


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
    norm = common_norm(gradients)
    torch._foreach_mul_(gradients, torch.clamp(max_norm / (norm + 1e-6), max=1.0))
    return norm
