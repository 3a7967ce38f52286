# SPDX-License-Identifier: AGPL-3.0-or-later
"""What an abandoned attempt at a step may have changed, kept so that it can be put back.

Gradients need no copy: an attempt's are dropped. Weights, optimizer and EMA change only after the vote.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Snapshot:
    """Random states of this process and the buffers of a model (batch norm's running statistics)."""

    python: Any
    numpy: dict[str, Any]
    torch_cpu: Tensor
    torch_cuda: Tensor | None
    buffers: list[Tensor]

    @classmethod
    def take(cls, model: nn.Module) -> Snapshot:
        """Copy the state. On a GPU: one launch per dtype, no waiting."""
        live = list(model.buffers())
        copies = [torch.empty_like(buffer) for buffer in live]
        if live:
            torch._foreach_copy_(copies, live)
        on_gpu = any(parameter.is_cuda for parameter in model.parameters())
        return cls(
            python=random.getstate(),
            numpy=np.random.get_state(legacy=False),
            torch_cpu=torch.get_rng_state(),
            torch_cuda=torch.cuda.get_rng_state() if on_gpu else None,
            buffers=copies,
        )

    def restore(self, model: nn.Module) -> None:
        """Put everything back as it was when `take` was called on the same model."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.torch_cpu)
        if self.torch_cuda is not None:
            torch.cuda.set_rng_state(self.torch_cuda)
        if self.buffers:
            torch._foreach_copy_(list(model.buffers()), self.buffers)
