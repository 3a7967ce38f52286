# SPDX-License-Identifier: AGPL-3.0-or-later
"""What an abandoned attempt at a step may have changed, kept so that it can be put back.

Gradients need no copy: an attempt's are dropped. Weights, optimizer and EMA change only after the vote.
"""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class Snapshot:
    """Random states of this process and the buffers of a model (batch norm's running statistics).

    The copies are allocated once: taking a snapshot before every step is then one launch per dtype, and waits for nothing.
    """

    def __init__(self, model: nn.Module) -> None:
        by_dtype: dict[torch.dtype, list[Tensor]] = defaultdict(list)
        for buffer in model.buffers():
            by_dtype[buffer.dtype].append(buffer)
        self._buffers = [(live, [torch.empty_like(buffer) for buffer in live]) for live in by_dtype.values()]
        self._on_gpu = any(parameter.is_cuda for parameter in model.parameters())
        self._random: tuple[Any, Any, Tensor, Tensor | None] | None = None

    def take(self) -> None:
        """Remember the state as it is now, in place of what was remembered before."""
        for live, copies in self._buffers:
            torch._foreach_copy_(copies, live)
        gpu_state = torch.cuda.get_rng_state() if self._on_gpu else None
        self._random = (random.getstate(), np.random.get_state(), torch.get_rng_state(), gpu_state)

    def restore(self) -> None:
        """Put everything back as it was at the last `take`."""
        assert self._random is not None, "restore() before take()"
        python_state, numpy_state, cpu_state, gpu_state = self._random
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_rng_state(cpu_state)
        if gpu_state is not None:
            torch.cuda.set_rng_state(gpu_state)
        for live, copies in self._buffers:
            torch._foreach_copy_(live, copies)
